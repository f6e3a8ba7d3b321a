"""The tasks of `celery_jobs.py`, as the worker and who asks for them import them."""

import os

from celery import Celery

url = f"redis://127.0.0.1:{os.environ['APP_PORT']}/0"
app = Celery("tasks", broker=url, backend=url)
prefix = os.environ.get("APP_PREFIX")
if prefix:
    app.conf.broker_transport_options = {"global_keyprefix": prefix}
    app.conf.result_backend_transport_options = {"global_keyprefix": prefix}


@app.task
def add(first, second):
    return first + second


@app.task
def total(numbers):
    return sum(numbers)


@app.task(bind=True, max_retries=3, default_retry_delay=0.1)
def third_time(self):
    if self.request.retries < 2:
        raise self.retry()
    return self.request.retries


@app.task
def fails():
    raise ValueError("as it should")
