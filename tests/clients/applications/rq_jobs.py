"""RQ: a worker that forks for each job, several queues, dependencies, retries, scheduled jobs."""

import os
from datetime import timedelta

import stage

here = os.path.dirname(os.path.abspath(__file__))
os.environ["PYTHONPATH"] = here

import redis
from rq import Callback, Queue, Repeat, Retry
from rq.registry import FailedJobRegistry, FinishedJobRegistry

from rq_tasks import add, fails

connection = redis.Redis(port=stage.port)
high, low = Queue("high", connection=connection), Queue("low", connection=connection)


def finished(job):
    """The job's result when it has one."""
    def is_finished():
        assert not job.get_status().value == "failed" or job.func_name.endswith("fails"), job.latest_result()
        return job.get_status().value == "finished"

    stage.eventually(f"{job} is done", is_finished)
    return job.return_value()


def work():
    jobs = [queue.enqueue(add, number, 1) for number in range(4) for queue in (high, low)]
    assert [finished(job) for job in jobs] == [1, 1, 2, 2, 3, 3, 4, 4]
    many = high.enqueue_many([Queue.prepare_data(add, (number, 2)) for number in range(3)])
    assert [finished(job) for job in many] == [2, 3, 4]
    first = low.enqueue(add, 1, 1)
    assert finished(low.enqueue(add, 2, 2, depends_on=first)) == 4
    later = low.enqueue_in(timedelta(seconds=1), add, 3, 3)
    assert finished(later) == 6
    failed = high.enqueue(fails, retry=Retry(max=1))
    stage.eventually("a job fails", lambda: failed.get_status().value == "failed" and failed.id in FailedJobRegistry(queue=high))
    failed.delete()
    assert jobs[0].id in FinishedJobRegistry(queue=high)
    assert low.count == 0 and high.count == 0


with stage.Worker("-m", "rq.cli", "worker", "high", "low", "--with-scheduler", "--url", f"redis://127.0.0.1:{stage.port}") as worker:
    work()
    stage.halfway()
    work()
print("ok")
