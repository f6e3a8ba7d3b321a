"""redis-py's cluster client with its defaults, against an emulated cluster on the port that is the only argument."""

import sys

import redis

port = int(sys.argv[1])
for protocol in (2, 3):
    client = redis.RedisCluster(host="127.0.0.1", port=port, decode_responses=True, protocol=protocol)
    assert client.ping()
    assert [node.port for node in client.get_nodes()] == [port]
    assert client.get_primaries() and not client.get_replicas()
    for number in range(200):
        assert client.set(f"cluster:{number}", number)
    assert all(client.get(f"cluster:{number}") == str(number) for number in range(200))
    keys = [f"cluster:{number}" for number in range(200)]
    assert client.mget_nonatomic(*keys) == [str(number) for number in range(200)]
    assert client.mset_nonatomic({f"cluster:m:{number}": number for number in range(50)})
    assert client.mget("{tag}:a", "{tag}:b") == [None, None]
    pipeline = client.pipeline()
    for number in range(300):
        pipeline.set(f"cluster:p:{number}", number).get(f"cluster:p:{number}")
    assert pipeline.execute()[1::2] == [str(number) for number in range(300)]
    client.hset("cluster:hash", mapping={"a": "1", "b": "2"})
    assert client.hgetall("cluster:hash") == {"a": "1", "b": "2"}
    assert client.keyslot("foo") == client.cluster_keyslot("foo") == 12182
    assert client.dbsize() >= 200
    assert len(list(client.scan_iter(match="cluster:p:*"))) == 300
    assert client.delete(*keys) == 200
    reader = redis.RedisCluster(
        host="127.0.0.1", port=port, decode_responses=True, protocol=protocol, read_from_replicas=True
    )
    assert reader.get("cluster:p:7") == "7"
    reader.close()
    client.close()
print("ok")
