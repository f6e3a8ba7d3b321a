"""Flask-Session: sessions of many visitors, kept, changed and ended by requests."""

import stage

import redis
from flask import Flask, session
from flask_session import Session

app = Flask(__name__)
app.config.update(SESSION_TYPE="redis", SESSION_REDIS=redis.Redis(port=stage.port), TESTING=True)
Session(app)


@app.get("/count")
def count():
    session["count"] = session.get("count", 0) + 1
    return str(session["count"])


@app.get("/leave")
def leave():
    session.clear()
    return "gone"


def work(visitors, first):
    for number in range(first, first + 3):
        assert [visitor.get("/count").text for visitor in visitors] == [str(number)] * len(visitors)


old = [app.test_client() for _ in range(10)]
work(old, 1)
stage.halfway()
# Who was there before still is.
work(old, 4)
assert old[0].get("/leave").text == "gone" and old[0].get("/count").text == "1"
work([app.test_client() for _ in range(10)], 1)
print("ok")
