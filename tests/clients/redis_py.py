"""redis-py with its defaults, through the proxy on the port that is the first argument; in TLS with a second, the issuers."""

import sys

import redis

port = int(sys.argv[1])
for protocol in (None, 2, 3):
    chosen = {} if protocol is None else {"protocol": protocol}
    if len(sys.argv) > 2:
        chosen |= {"ssl": True, "ssl_ca_certs": sys.argv[2]}
    client = redis.Redis(port=port, decode_responses=True, **chosen)
    assert client.ping()
    assert client.set("py:greeting", "hello", ex=1000)
    assert client.get("py:greeting") == "hello"
    assert client.get("py:nothing") is None
    assert client.mset({f"py:{number}": str(number) for number in range(100)})
    wanted = [str(number) for number in range(100)]
    assert client.mget([f"py:{number}" for number in range(100)]) == wanted
    assert client.exists(*[f"py:{number}" for number in range(100)]) == 100
    client.hset("py:hash", mapping={"a": "1", "b": "2"})
    assert client.hgetall("py:hash") == {"a": "1", "b": "2"}
    client.zadd("py:scores", {"one": 1, "two": 2.5})
    assert client.zrange("py:scores", 0, -1, withscores=True)[-1][1] == 2.5
    assert client.sadd("py:set", "a", "b") in (0, 2)
    assert client.smembers("py:set") == {"a", "b"}
    assert dict(client.hscan_iter("py:hash")) == {"a": "1", "b": "2"}
    pipeline = client.pipeline(transaction=False)
    for number in range(500):
        pipeline.set(f"py:pipe:{number}", number).get(f"py:pipe:{number}")
    replies = pipeline.execute()
    assert replies[1::2] == [str(number) for number in range(500)]
    # Loaded when it is first needed, and in a pipeline before it.
    append = client.register_script("return redis.call('APPEND', KEYS[1], ARGV[1])")
    client.delete(*[f"py:script:{number}" for number in range(20)])
    for length in (1, 2):
        assert [append(keys=[f"py:script:{number}"], args=["x"]) for number in range(10)] == [length] * 10
    client.script_flush()
    pipeline = client.pipeline(transaction=False)
    for number in range(20):
        append(keys=[f"py:script:{number}"], args=["y"], client=pipeline)
    assert pipeline.execute() == [3] * 10 + [1] * 10
    assert client.script_exists(append.sha) == [True]
    with client.lock("py:lock", timeout=10):
        assert not client.lock("py:lock", blocking=False).acquire()
    assert client.function_load("#!lua name=py\nredis.register_function('py', function(k) return k[1] end)", True) == "py"
    assert client.fcall("py", 1, "py:key") == "py:key"
    assert client.function_delete("py")
    try:
        client.execute_command("NOSUCHCOMMAND", "a")
    except redis.ResponseError as error:
        assert "unknown command" in str(error)
    else:
        raise AssertionError("an unknown command is an error")
    assert client.delete(*[f"py:{number}" for number in range(100)]) == 100
    listener = client.pubsub(ignore_subscribe_messages=True)
    listener.subscribe("py:news", "py:other")
    listener.psubscribe("py:n*")
    others = client.pubsub()
    others.subscribe("py:other")

    def heard(listener, count):
        """The next messages, as far as they are none about subscriptions."""
        found = []
        while len(found) < count:
            message = listener.get_message(timeout=30)
            if message is not None and message["type"].endswith("message"):
                found.append((message["type"], message["channel"], message["data"]))
        return found

    # A subscription is known when its confirmation has come.
    while not listener.subscribed or client.pubsub_numsub("py:news", "py:other") != [("py:news", 1), ("py:other", 2)]:
        listener.get_message(timeout=0.1)
        others.get_message(timeout=0.1)
    while client.pubsub_numpat() != 1:
        listener.get_message(timeout=0.1)
    assert client.publish("py:news", "one") == 2
    assert client.publish("py:other", "two") == 2
    assert heard(listener, 2) == [("message", "py:news", "one"), ("pmessage", "py:news", "one")]
    assert heard(listener, 1) == [("message", "py:other", "two")]
    assert heard(others, 1) == [("message", "py:other", "two")]
    assert sorted(client.pubsub_channels("py:*")) == ["py:news", "py:other"]
    listener.unsubscribe()
    listener.punsubscribe()
    listener.close()
    others.close()
    while client.pubsub_channels("py:*") or client.pubsub_numpat():
        pass
    assert client.info()["redis_version"]
    assert client.client_setname("some-name") and client.client_getname() == "some-name"
    client.close()

binary = redis.Redis(port=port, **{name: value for name, value in chosen.items() if name != "protocol"})
value = bytes(range(256)) * 5000
assert binary.set(b"py:\r\n\x00\xff", value)
assert binary.get(b"py:\r\n\x00\xff") == value
print("ok")
