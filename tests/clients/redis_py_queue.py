"""Workers as Celery (BRPOP of several keys), RQ (BLPOP, BLMOVE) and stream consumers have them, with redis-py's defaults.

The argument is the proxy's port. Each task has to be done once, but for those of which the proxy says that it cannot tell
(-UNKNOWN, several copies only).
"""

import collections
import sys
import threading

import redis

port = int(sys.argv[1])
TASKS = 100
done = collections.Counter()
lock = threading.Lock()
ended = threading.Event()


def note(task):
    with lock:
        done[task] += 1


def celery(client):
    got = client.brpop(["{q}celery", "{q}celery3", "{q}celery6", "{q}celery9"], timeout=1)
    if got:
        assert got[0].startswith("{q}celery")
        note(got[1])


def rq(client):
    got = client.blpop(["{q}high", "{q}low"], timeout=1)
    if got:
        note(got[1])


def reliable(client):
    got = client.blmove("{q}inbox", "{q}busy", 0.5, "LEFT", "RIGHT")
    if got:
        note(got)
        client.lrem("{q}busy", 1, got)


def stream(client):
    for _, entries in client.xreadgroup("workers", threading.current_thread().name, {"{q}stream": ">"}, block=500) or []:
        for entry, fields in entries:
            note(fields["task"])
            client.xack("{q}stream", "workers", entry)


def work(how, protocol):
    client = redis.Redis(port=port, decode_responses=True, protocol=protocol)
    while not ended.is_set():
        try:
            how(client)
        except redis.ResponseError as error:
            assert str(error).startswith("UNKNOWN"), error
            note("unknown")


feeder = redis.Redis(port=port, decode_responses=True)
feeder.xgroup_create("{q}stream", "workers", mkstream=True)
threads = [
    threading.Thread(target=work, args=(how, protocol)) for how in (celery, rq, reliable) for protocol in (2, 3)
]
threads.append(threading.Thread(target=work, args=(stream, 2)))
for thread in threads:
    thread.start()


def feed(send, *arguments):
    try:
        send(*arguments)
    except redis.ResponseError as error:
        assert str(error).startswith("UNKNOWN"), error
        note("unknown")


def missing():
    with lock:
        return 4 * TASKS - sum(1 for task in done if task != "unknown")


for number in range(TASKS):
    feed(feeder.lpush, "{q}celery6" if number % 2 else "{q}celery", f"celery:{number}")
    feed(feeder.rpush, "{q}low" if number % 2 else "{q}high", f"rq:{number}")
    feed(feeder.rpush, "{q}inbox", f"reliable:{number}")
    feed(feeder.xadd, "{q}stream", {"task": f"stream:{number}"})
for _ in range(600):
    if missing() == 0:
        break
    ended.wait(0.05)
ended.set()
for thread in threads:
    thread.join()
unknown = done.pop("unknown", 0)
print(f"{missing()} of {4 * TASKS} are missing, {unknown} could not be told")
assert missing() <= unknown
assert set(done.values()) == {1}, [task for task, count in done.items() if count > 1]
print("ok")
