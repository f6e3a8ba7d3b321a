"""redis-py with its defaults, or its client for Redis Cluster (`cluster`): pipelines, transactions, messages, streams with
groups, pops that wait, and scripts that write if that is asked for (`scripts`)."""

import sys
import threading

import stage

import redis

in_cluster, with_scripts = "cluster" in sys.argv, "scripts" in sys.argv


def connect(**options):
    kind = redis.RedisCluster if in_cluster else redis.Redis
    return kind(host="127.0.0.1", port=stage.port, decode_responses=True, **options)


client = connect()


def pipelines(tag):
    with client.pipeline(transaction=False) if not in_cluster else client.pipeline() as many:
        for number in range(100):
            many.set(f"{tag}:{number}", number).get(f"{tag}:{number}")
        assert many.execute()[1::2] == [str(number) for number in range(100)]


def transactions(tag):
    with client.pipeline(transaction=True) as both:
        both.incr(f"{tag}count").rpush(f"{tag}list", "a", "b").lrange(f"{tag}list", 0, -1)
        assert both.execute() == [1, 2, ["a", "b"]]

    def raise_it(watching):
        value = int(watching.get(f"{tag}count"))
        watching.multi()
        watching.set(f"{tag}count", value + 1)

    def raise_often():
        for _ in range(10):
            client.transaction(raise_it, f"{tag}count")

    threads = [threading.Thread(target=raise_often) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(stage.PATIENCE)
    assert client.get(f"{tag}count") == "31"


def messages(tag):
    listener = client.pubsub(ignore_subscribe_messages=True)
    listener.subscribe(f"{tag}news")
    listener.psubscribe(f"{tag}n*")
    heard = []

    def publish_and_hear():
        client.publish(f"{tag}news", "text")
        message = listener.get_message(timeout=0.1)
        if message:
            heard.append((message["type"], message["channel"], message["data"]))
        return {kind for kind, _, _ in heard} == {"message", "pmessage"}

    stage.eventually("messages come", publish_and_hear)
    assert {(channel, text) for _, channel, text in heard} == {(f"{tag}news", "text")}
    listener.close()


def streams(tag):
    stream = f"{tag}stream"
    client.xgroup_create(stream, "group", mkstream=True)
    done = []

    def consume(name):
        mine = connect()
        while len(done) < 50:
            for _, entries in mine.xreadgroup("group", name, {stream: ">"}, count=5, block=100) or []:
                for entry, fields in entries:
                    done.append(fields["number"])
                    assert mine.xack(stream, "group", entry) == 1
        mine.close()

    threads = [threading.Thread(target=consume, args=(name,), daemon=True) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    ids = [client.xadd(stream, {"number": number}) for number in range(50)]
    for thread in threads:
        thread.join(stage.PATIENCE)
    assert sorted(map(int, done)) == list(range(50))
    assert client.xpending(stream, "group")["pending"] == 0 and client.xlen(stream) == 50
    last = client.xadd(stream, {"number": "last"})
    client.xreadgroup("group", "one", {stream: ">"})
    assert client.xautoclaim(stream, "group", "two", 0)[1] == [(last, {"number": "last"})]
    assert ids[0] == client.xrange(stream, count=1)[0][0] and client.xtrim(stream, maxlen=10, approximate=False) == 41


def pops(tag):
    got = []

    def wait():
        mine = connect()
        got.append(mine.blpop([f"{tag}q:1", f"{tag}q:2"], timeout=stage.PATIENCE))
        got.append(mine.bzpopmin(f"{tag}z", timeout=stage.PATIENCE))
        got.append(mine.blmove(f"{tag}q:1", f"{tag}q:3", stage.PATIENCE, "LEFT", "RIGHT"))
        mine.close()

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    for feed in (
        lambda: client.rpush(f"{tag}q:2", "job"),
        lambda: client.zadd(f"{tag}z", {"member": 1.5}),
        lambda: client.rpush(f"{tag}q:1", "moved"),
    ):
        count = len(got)
        feed()
        stage.eventually("what was fed is popped", lambda: len(got) > count)
    waiting.join(stage.PATIENCE)
    assert [list(got[0]), list(got[1]), got[2]] == [[f"{tag}q:2", "job"], [f"{tag}z", "member", 1.5], "moved"], got
    assert client.brpop([f"{tag}empty"], timeout=0.1) is None


def scripts(tag):
    put = client.register_script("return redis.call('APPEND', KEYS[1], ARGV[1]) + redis.call('INCR', KEYS[2])")
    assert [put(keys=[f"{tag}text", f"{tag}number"], args=["x"]) for _ in range(3)] == [2, 4, 6]
    assert client.eval("return redis.call('SET', KEYS[1], ARGV[1])", 1, f"{tag}set", "value") == "OK"
    with client.lock(f"{tag}lock", timeout=stage.PATIENCE):
        assert not client.lock(f"{tag}lock", timeout=1).acquire(blocking=False)


def work(mark):
    tag = f"{{py:{mark}}}"
    if with_scripts:
        return scripts(tag)
    for part in (pipelines, transactions, messages, streams, pops):
        part(tag)


work("first")
stage.halfway()
work("second")
print("ok")
