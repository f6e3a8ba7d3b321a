#!/usr/bin/env python3
"""Writes the golden vectors of the ring: which member the *real* programs choose for a key.

    python3 tests/data/ring/generate.py          (Debian: nutcracker, redis-server, libmemcached11)

* twemproxy.json     the real `nutcracker` in front of sinks on loopback; a sink answers every GET with its own number.
* libmemcached.json  `memcached_generate_hash` of the real library, through ctypes: no server is needed.
* slots.json         `CLUSTER KEYSLOT` of a real redis-server in cluster mode.

Keys come from a fixed seed. Server names that twemproxy hashes may hold a port, so the ports are part of the data. Owners are
written one character a key: the server's place in the fleet, in base 36.
"""

import asyncio
import ctypes
import json
import os
import random
import socket
import subprocess
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
HASHES = ("one_at_a_time md5 crc16 crc32 crc32a fnv1_64 fnv1a_64 fnv1_32 fnv1a_32 hsieh murmur jenkins").split()
# memcached_hash_t, by our names; the library's CRC is twemproxy's `crc32`.
LIBMEMCACHED_HASHES = {"one_at_a_time": 0, "md5": 1, "crc32": 2, "fnv1_64": 3, "fnv1a_64": 4, "fnv1_32": 5, "fnv1a_32": 6,
                       "hsieh": 7, "murmur": 8, "jenkins": 9}
BEHAVIOR_HASH, BEHAVIOR_KETAMA_WEIGHTED = 2, 16


def keys():
    rng = random.Random(20261123)
    out = [f"user:{i}".encode() for i in range(120)]
    out += [bytes(rng.randrange(256) for _ in range(length)) for length in range(1, 65)]
    out += [bytes(rng.randrange(128, 256) for _ in range(length)) for length in range(1, 33)]
    out += ["ключ".encode(), "鍵".encode(), b"\r\n", b"\0", b"a\r\nb", b" ", b"x" * 250]
    out += [b"{", b"}", b"{}", b"{}a", b"a{}", b"a{b}c", b"x{b}y", b"{b}", b"{{b}}", b"}{b}", b"{b", b"b}", b"{a}{b}", b"{b}{a}",
            b"a$b$c", b"x$b$y", b"$$b$", b"$b", b"b$", b"a$b", b"{}{b}", b"a{\r\n}b", b"\r\n"]
    out += [f"{{tag:{i % 20}}}:field:{i}".encode() for i in range(40)]
    out += [f"session${i % 10}$:{i}".encode() for i in range(20)]
    return list(dict.fromkeys(out))


def free_ports(count):
    sockets = []
    for _ in range(count):
        s = socket.socket()
        s.bind(("127.0.0.1", 0))
        sockets.append(s)
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def request(*words):
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)


async def read_words(reader):
    count = int((await reader.readline())[1:])
    words = []
    for _ in range(count):
        length = int((await reader.readline())[1:])
        words.append((await reader.readexactly(length + 2))[:-2])
    return words


def sink(number):
    async def serve(reader, writer):
        try:
            while True:
                await read_words(reader)
                writer.write(b"$1\r\n" + DIGITS[number].encode() + b"\r\n")
        except (ValueError, asyncio.IncompleteReadError, ConnectionError):
            writer.close()
    return serve


async def ask(port, keys):
    deadline = time.monotonic() + 10
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            break
        except OSError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)
    owners = ""
    for key in keys:
        writer.write(request(b"GET", key))
        head = await asyncio.wait_for(reader.readline(), 10)
        assert head == b"$1\r\n", (key, head)
        owners += (await reader.readexactly(3))[:1].decode()
    writer.close()
    return owners


async def run_fleet(fleet, pools, keys):
    """pools: list of (hash, distribution). Returns one owner string a pool."""
    servers = []
    for number, (host, port, _, _) in enumerate(fleet["servers"]):
        servers.append(await asyncio.start_server(sink(number), host, port))
    ports = free_ports(len(pools) + 1)
    lines = []
    for (hash_name, distribution), port in zip(pools, ports):
        lines += [f"{hash_name}_{distribution}:", f"  listen: 127.0.0.1:{port}", f"  hash: {hash_name}",
                  f"  distribution: {distribution}", "  redis: true", "  timeout: 10000"]
        if fleet.get("hash_tag"):
            lines.append(f"  hash_tag: \"{fleet['hash_tag']}\"")
        lines.append("  servers:")
        lines += [f"   - {host}:{p}:{w}" + (f" {name}" if name else "") for host, p, w, name in fleet["servers"]]
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "nutcracker.yml")
        with open(path, "w") as out:
            out.write("\n".join(lines) + "\n")
        proxy = subprocess.Popen(["nutcracker", "-c", path, "-a", "127.0.0.1", "-s", str(ports[-1]), "-o",
                                  os.path.join(directory, "log"), "-p", os.path.join(directory, "pid")])
        try:
            return [await ask(port, keys) for port in ports[:len(pools)]]
        finally:
            proxy.terminate()
            proxy.wait()
            for server in servers:
                server.close()
            # The sinks' sessions end with the proxy's connections; a cancelled one would only make noise.
            sessions = asyncio.all_tasks() - {asyncio.current_task()}
            if sessions:
                await asyncio.wait(sessions, timeout=10)


def twemproxy(keys):
    both = [(h, d) for h in HASHES for d in ("ketama", "modula")]
    some = [("fnv1a_64", "ketama"), ("fnv1a_64", "modula"), ("md5", "ketama"), ("murmur", "modula")]
    names = ["alpha", "beta", "gamma", "delta", "eta", "theta", "io"]
    ports = iter(free_ports(100))
    fleets = [
        ({"label": "unnamed", "servers": [("127.0.0.1", next(ports), 1, None) for _ in range(5)]}, both),
        ({"label": "named, weighted", "servers": [("127.0.0.1", next(ports), w, n)
                                                   for n, w in zip(names, (1, 2, 3, 5, 8, 1, 100))]}, both),
        ({"label": "unnamed, weighted", "servers": [("127.0.0.1", next(ports), w, None) for w in (3, 1, 2, 2)]}, some),
        ({"label": "port 11211", "servers": [(f"127.77.0.{i}", 11211, 1, None) for i in (1, 2, 10, 3)]
          + [("127.0.0.1", next(ports), 1, None), ("127.77.0.9", 11211, 1, "named:11211")]}, some),
        ({"label": "tag {}", "hash_tag": "{}", "servers": [("127.0.0.1", next(ports), 1, n) for n in names]}, some),
        ({"label": "tag $$", "hash_tag": "$$", "servers": [("127.0.0.1", next(ports), 1, n) for n in names]}, some),
    ]
    pool = [("127.0.0.1", next(ports), 1, f"node-{i}") for i in range(36)]
    # A vnode count is a product of floats rounded down: some fleet sizes lose four vnodes a server by it.
    fleets += [({"label": f"{size} servers", "servers": pool[:size]}, [("fnv1a_64", "ketama")]) for size in range(1, 37)]
    out = []
    for fleet, pools in fleets:
        vectors = asyncio.run(run_fleet(fleet, pools, keys))
        out.append({"label": fleet["label"], "hash_tag": fleet.get("hash_tag"), "servers": fleet["servers"],
                    "owners": {f"{h} {d}": owners for (h, d), owners in zip(pools, vectors)}})
    version = subprocess.run(["nutcracker", "-V"], capture_output=True, text=True).stderr.splitlines()[0]
    return {"source": version.removeprefix("This is "), "fleets": out}


def libmemcached(keys):
    lib = ctypes.CDLL("libmemcached.so.11")
    lib.memcached_create.restype = ctypes.c_void_p
    lib.memcached_lib_version.restype = ctypes.c_char_p
    lib.memcached_behavior_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64]
    lib.memcached_server_add_with_weight.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint16, ctypes.c_uint32]
    lib.memcached_generate_hash.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
    lib.memcached_generate_hash.restype = ctypes.c_uint32
    lib.memcached_free.argtypes = [ctypes.c_void_p]

    def owners(servers, hash_number):
        client = lib.memcached_create(None)
        assert lib.memcached_behavior_set(client, BEHAVIOR_KETAMA_WEIGHTED, 1) == 0
        if hash_number is not None:
            if lib.memcached_behavior_set(client, BEHAVIOR_HASH, hash_number) != 0:
                return None  # Debian builds without hsieh and the like.
        for host, port, weight in servers:
            assert lib.memcached_server_add_with_weight(client, host.encode(), port, weight) == 0
        out = "".join(DIGITS[lib.memcached_generate_hash(client, key, len(key))] for key in keys)
        lib.memcached_free(client)
        return out

    fleets = [
        ("ports", [(f"10.0.0.{i}", 6379 + i, 1) for i in range(1, 6)], LIBMEMCACHED_HASHES),
        ("weighted", [("cache-a.example", 6379, 1), ("cache-b.example", 6379, 2), ("cache-c.example", 6380, 3),
                      ("cache-d.example", 6379, 10)], {"md5": 1, "fnv1a_64": 4}),
        ("port 11211", [(f"10.0.1.{i}", 11211, 1) for i in range(1, 8)], {"md5": 1, "murmur": 8}),
    ]
    fleets += [(f"{size} servers", [(f"10.1.0.{i}", 6379, 1) for i in range(size)], {"md5": 1}) for size in range(1, 37)]
    out = []
    for label, servers, hashes in fleets:
        vectors = {name: owners(servers, number) for name, number in hashes.items()}
        vectors = {name: vector for name, vector in vectors.items() if vector is not None}
        assert vectors["md5"] == owners(servers, None), "md5 is the default of the weighted ketama"
        out.append({"label": label, "servers": servers, "owners": vectors})
    return {"source": "libmemcached " + lib.memcached_lib_version().decode(), "fleets": out}


def slots(keys):
    port = free_ports(1)[0]
    with tempfile.TemporaryDirectory() as directory:
        server = subprocess.Popen(["redis-server", "--port", str(port), "--cluster-enabled", "yes", "--cluster-port",
                                   str(free_ports(1)[0]), "--bind", "127.0.0.1", "--dir", directory, "--save", "", "--logfile",
                                   os.path.join(directory, "log")])
        try:
            deadline = time.monotonic() + 10
            while True:
                try:
                    connection = socket.create_connection(("127.0.0.1", port))
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)
            replies, out = connection.makefile("rb"), []
            for key in [b""] + keys:
                connection.sendall(request(b"CLUSTER", b"KEYSLOT", key))
                out.append(int(replies.readline()[1:]))
        finally:
            server.terminate()
            server.wait()
    version = subprocess.run(["redis-server", "--version"], capture_output=True, text=True).stdout.split()[2]
    return {"source": f"redis-server {version}", "empty_key": out[0], "slots": out[1:]}


def write(name, data):
    with open(os.path.join(HERE, name), "w") as out:
        text = json.dumps(data, separators=(",", ":"))
        text = text.replace('{"label"', '\n{"label"').replace('],"owners":{', '],\n "owners":{')
        out.write(text)
        out.write("\n")


def main():
    every = keys()
    write("keys.json", [key.hex() for key in every])
    write("slots.json", slots(every))
    write("libmemcached.json", libmemcached(every))
    write("twemproxy.json", twemproxy(every))


if __name__ == "__main__":
    main()
