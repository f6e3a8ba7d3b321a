"""Celery: one broker and result backend, a worker with two processes, tasks of all kinds."""

import os
import sys

import stage

os.environ["APP_PORT"] = str(stage.port)
os.environ["APP_PREFIX"] = sys.argv[2] if len(sys.argv) > 2 else ""
os.environ["PYTHONPATH"] = os.path.dirname(os.path.abspath(__file__))

from celery import chain, chord, group

from celery_tasks import add, app, fails, third_time, total

def work():
    results = [add.delay(number, 1) for number in range(50)]
    assert [result.get(timeout=stage.PATIENCE) for result in results] == list(range(1, 51))
    assert chain(add.s(1, 2), add.s(3), add.s(4))().get(timeout=stage.PATIENCE) == 10
    assert group(add.s(number, number) for number in range(10))().get(timeout=stage.PATIENCE) == list(range(0, 20, 2))
    assert chord([add.s(number, 1) for number in range(10)])(total.s()).get(timeout=stage.PATIENCE) == 55
    assert add.apply_async((1, 2), countdown=0.5).get(timeout=stage.PATIENCE) == 3
    assert third_time.delay().get(timeout=stage.PATIENCE) == 2
    failed = fails.delay()
    try:
        failed.get(timeout=stage.PATIENCE)
    except ValueError as error:
        assert str(error) == "as it should"
    else:
        raise AssertionError("the task should fail")
    failed.forget()
    # The worker is asked over pub/sub and answers through a queue.
    assert len(app.control.inspect(timeout=stage.PATIENCE, limit=1).ping()) == 1
    waiting = add.apply_async((1, 2), countdown=1)
    waiting.revoke()
    stage.eventually("the task is revoked", lambda: waiting.state == "REVOKED")


with stage.Worker("-m", "celery", "-A", "celery_tasks", "worker", "-c", "2", "-l", "info") as worker:
    stage.eventually("the worker is ready", lambda: any(" ready." in line for line in worker.said) or worker.process.poll() is not None)
    work()
    stage.halfway()
    work()
print("ok")
