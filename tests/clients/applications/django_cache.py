"""Django: the Redis cache that is named, and sessions in it; or the locks that it has."""

import sys
import threading

import stage

import django
from django.conf import settings

url = f"redis://127.0.0.1:{stage.port}/0"
backend, locks = sys.argv[2], "locks" in sys.argv
settings.configure(
    SECRET_KEY="not a secret",
    CACHES={"default": {"BACKEND": backend, "LOCATION": url, "KEY_PREFIX": "site"}},
    INSTALLED_APPS=["django.contrib.sessions"],
    SESSION_ENGINE="django.contrib.sessions.backends.cache",
)
django.setup()

from django.contrib.sessions.backends.cache import SessionStore
from django.core.cache import cache


def any_cache(mark):
    keys = [f"{mark}:{number}" for number in range(60)]
    cache.set_many({key: {"key": key} for key in keys}, timeout=600)
    assert cache.get_many(keys) == {key: {"key": key} for key in keys}
    cache.delete_many(keys[:30])
    assert sorted(cache.get_many(keys)) == sorted(keys[30:])
    assert cache.add(f"{mark}:one", 1, timeout=600) and not cache.add(f"{mark}:one", 2)
    assert cache.incr(f"{mark}:one", 5) == 6 and cache.decr(f"{mark}:one") == 5
    assert cache.get_or_set(f"{mark}:new", lambda: "made", 600) == "made"
    assert cache.touch(f"{mark}:one", 700) and cache.has_key(f"{mark}:one")
    cache.set(f"{mark}:one", "other", version=2)
    assert (cache.get(f"{mark}:one"), cache.get(f"{mark}:one", version=2)) == (5, "other")
    assert cache.delete(f"{mark}:one") and cache.get(f"{mark}:one") is None


def with_django_redis(mark):
    cache.set(f"{mark}:page", "text", timeout=100)
    assert 0 < cache.ttl(f"{mark}:page") <= 100
    assert cache.persist(f"{mark}:page") and cache.ttl(f"{mark}:page") is None
    assert cache.expire(f"{mark}:page", 50)
    assert cache.set(f"{mark}:page", "other", nx=True) is False
    cache.set_many({f"{mark}:pattern:{number}": number for number in range(40)})
    assert len(cache.keys(f"{mark}:pattern:*")) == 40
    assert len(list(cache.iter_keys(f"{mark}:pattern:*"))) == 40
    assert cache.delete_pattern(f"{mark}:pattern:*") == 40
    assert cache.sadd(f"{mark}:set", 1, 2) == 2 and cache.smembers(f"{mark}:set") == {1, 2}


def sessions(mark):
    first = SessionStore()
    first["user"] = mark
    first.save()
    assert SessionStore(first.session_key)["user"] == mark
    again = SessionStore(first.session_key)
    again.cycle_key()
    assert SessionStore(first.session_key).get("user") is None
    assert SessionStore(again.session_key)["user"] == mark
    again.flush()
    assert not SessionStore().exists(again.session_key)


def locked(mark):
    """django-redis's lock is redis-py's: it is let go by a script."""
    with cache.lock(f"{mark}:lock", timeout=stage.PATIENCE):
        assert not cache.lock(f"{mark}:lock", timeout=stage.PATIENCE).acquire(blocking=False)
    entered = []

    def enter(number):
        with cache.lock(f"{mark}:lock", timeout=stage.PATIENCE):
            entered.append(number)
            assert entered[-1] == number

    threads = [threading.Thread(target=enter, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(stage.PATIENCE)
    assert sorted(entered) == [0, 1, 2, 3]


def work(mark):
    if locks:
        return locked(mark)
    any_cache(mark)
    sessions(mark)
    if backend.startswith("django_redis"):
        with_django_redis(mark)


work("first")
stage.halfway()
work("second")
# Empties the whole of it, as on one server.
cache.set("last", 1)
cache.clear()
assert cache.get("last") is None
print("ok")
