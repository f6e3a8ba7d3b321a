"""redis-py with its client-side cache, through the proxies on the ports that are the arguments: one holds what it has read,
others write."""

import sys
import time

import redis
from redis.cache import CacheConfig
from redis.connection import CacheProxyConnection

# It asks for a server that calls itself 7.4, and needs nothing that 6.0 has not.
CacheProxyConnection.MIN_ALLOWED_VERSION = "7.0.0"


def eventually(what, condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


ports = [int(port) for port in sys.argv[1:]]
readers = [
    redis.Redis(port=port, protocol=3, decode_responses=True, cache_config=CacheConfig(max_size=1000)) for port in ports
]
writers = [redis.Redis(port=port, protocol=2, decode_responses=True) for port in ports]

for round in range(20):
    for number in range(10):
        key, value = f"cache:{number}", f"{round}"
        assert writers[(round + number) % len(writers)].set(key, value)
        for reader in readers:
            eventually(f"{key} = {value}", lambda: reader.get(key) == value)
            assert reader.get(key) == value

for reader in readers:
    cache = reader.get_cache()
    assert cache.size > 0, cache.size
    assert reader.mget([f"cache:{number}" for number in range(10)]) == ["19"] * 10
    held = cache.size
    # What is held is not asked for again.
    before = writers[0].info("stats")["total_commands_processed"]
    for _ in range(100):
        for number in range(10):
            assert reader.get(f"cache:{number}") == "19"
    assert writers[0].info("stats")["total_commands_processed"] - before < 100
    assert cache.size >= held - 1

# A hash, a write of the reader's own, and all at once.
for reader in readers:
    writers[0].hset("cache:hash", "f", "1")
    eventually("the hash", lambda: reader.hgetall("cache:hash") == {"f": "1"})
    writers[-1].hset("cache:hash", "f", "2")
    eventually("the hash anew", lambda: reader.hgetall("cache:hash") == {"f": "2"})
    reader.set("cache:own", "a")
    assert reader.get("cache:own") == "a"
    reader.set("cache:own", "b")
    eventually("its own write", lambda: reader.get("cache:own") == "b")
    writers[0].hdel("cache:hash", "f")
writers[0].flushall()
for reader in readers:
    for number in range(10):
        eventually("nothing is left", lambda: reader.get(f"cache:{number}") is None)
print("ok")
