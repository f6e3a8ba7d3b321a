"""The jobs of `rq_jobs.py`, as the worker and who asks for them import them."""


def add(first, second):
    return first + second


def fails():
    raise ValueError("as it should")
