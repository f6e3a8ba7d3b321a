"""The cells of the benchmark: what is sent, the ratio to reach, and the file of requests the load generator plays."""
import random
import struct
from dataclasses import dataclass

from machine import Client, encode

# Keys by value size: enough that they look random, few enough that three stores of them fit a small machine.
KEYS = {32: 100_000, 1024: 20_000, 102_400: 300}


@dataclass(frozen=True)
class Cell:
    name: str
    verb: str
    size_bytes: int
    connections: int
    pipeline: int
    # The most that quoit's CPU per request may be, as a ratio to `against` in the same run.
    ratio_max: float | None = None
    against: str = "twemproxy-tuned"
    # The most that quoit's peak memory may be.
    rss_mib_max: float | None = None


CELLS = [
    Cell("get-32-p1", "GET", 32, 50, 1, 0.95),
    Cell("get-32-p16", "GET", 32, 50, 16, 0.7),
    Cell("get-32-p64", "GET", 32, 50, 64, 0.35),
    Cell("set-32-p1", "SET", 32, 50, 1, 0.95),
    Cell("set-32-p16", "SET", 32, 50, 16, 0.7),
    Cell("set-32-p64", "SET", 32, 50, 64, 0.35),
    Cell("mget10-32-p1", "MGET", 32, 50, 1, 0.8),
    Cell("get-32-p64-c500", "GET", 32, 500, 64, None, rss_mib_max=40),
    Cell("get-1k-p1", "GET", 1024, 50, 1, 0.95),
    Cell("get-100k-p1", "GET", 102_400, 50, 1, 1.0, "twemproxy"),
    Cell("set-100k-p1", "SET", 102_400, 50, 1),
]
MGET_KEYS = 10
IDLE_CONNECTIONS = 9_000
IDLE_BYTES_MAX = 1024
WORKERS_RATIO_MIN = 1.8


def value(size_bytes):
    return b"x" * size_bytes


def key(number):
    return b"key:%d" % number


def fill(port, size_bytes):
    """Every key on every store, so that a GET always hits, whatever the proxy's hash says."""
    payload = value(size_bytes)
    step = max(1, min(1000, 4_000_000 // size_bytes))
    with Client(port, 60) as client:
        client.command("FLUSHALL")
        for first in range(0, KEYS[size_bytes], step):
            numbers = range(first, min(first + step, KEYS[size_bytes]))
            client.send(b"".join(encode("SET", key(n), payload) for n in numbers))
            for _ in numbers:
                client.read()


def write_batches(cell, path):
    """Requests with the length of the reply that each batch must get; the form is described in batchload.c."""
    rng = random.Random(7)
    keys, payload = KEYS[cell.size_bytes], value(cell.size_bytes)
    bulk_bytes = len(b"$%d\r\n" % cell.size_bytes) + cell.size_bytes + 2
    request_bytes = 40 + (cell.size_bytes if cell.verb == "SET" else 0) + (240 if cell.verb == "MGET" else 0)
    batches = max(64, min(20_000, 30_000_000 // (request_bytes * cell.pipeline)))
    with open(path, "wb") as f:
        for _ in range(batches):
            requests, reply_bytes = [], 0
            for _ in range(cell.pipeline):
                if cell.verb == "MGET":
                    requests.append(encode("MGET", *[key(rng.randrange(keys)) for _ in range(MGET_KEYS)]))
                    reply_bytes += len(b"*%d\r\n" % MGET_KEYS) + MGET_KEYS * bulk_bytes
                elif cell.verb == "SET":
                    requests.append(encode("SET", key(rng.randrange(keys)), payload))
                    reply_bytes += len(b"+OK\r\n")
                else:
                    requests.append(encode("GET", key(rng.randrange(keys))))
                    reply_bytes += bulk_bytes
            raw = b"".join(requests)
            f.write(struct.pack("=III", len(raw), reply_bytes, cell.pipeline))
            f.write(raw)
