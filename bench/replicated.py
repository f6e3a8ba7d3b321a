"""The part `replicated`: three copies beside one copy, beside stores without a proxy, beside tuned twemproxy.

All of them use the same three stores, in turns. Keys of three copies have names of their own, of the same length as the
others: a write that goes around their records would make them disagree. docs/performance.md says what the columns mean.
"""
import random
import re
import struct
import urllib.request
from dataclasses import dataclass

import peers as programs
from cells import value
from machine import Client, cpu_of, encode, pids_of

N3, N1, TUNED, DIRECT = "quoit-n3", "quoit", "twemproxy-tuned", "direct"
SIZE_BYTES = 32
KEYS = 100_000
# A worker remembers the ballots of some 16,000 keys: of these it owns each, of those hardly any.
COUNTERS_OWNED, COUNTERS = 5_000, 100_000
# Counters begin here, so that replies have one length however long the run is.
COUNTER_FIRST = 1_000_000_000
# Dynomite with three copies and quorum reads took 43 us of CPU per GET at pipeline 16 where tuned twemproxy took 2.3.
DYNOMITE_RATIO = 43 / 2.3
DYNOMITE_LESS = 5


@dataclass(frozen=True)
class Cell:
    name: str
    verb: str
    pipeline: int
    keys: int
    # The most that a request may cost the proxy, as a ratio to one copy in the same run.
    ratio_max: float | None = None
    connections: int = 50
    # One key after the other, and the next sample goes on where the last one ended: nobody has written a key lately.
    in_order: bool = False


CELLS = [Cell(f"{verb.lower()}-32-p{p}", verb, p, KEYS, most)
         for verb, most in (("GET", 2.2), ("SET", 3.5)) for p in (1, 16, 64)]
CELLS += [Cell(f"incr-owned-p{p}", "INCR", p, COUNTERS_OWNED) for p in (1, 16, 64)]
CELLS += [Cell("incr-p16", "INCR", 16, COUNTERS, in_order=True)]


def prefix(peer, cell):
    """Names of one length: what differs is not the number of bytes."""
    kind = {"GET": "get", "SET": "set", "INCR": "own" if cell.keys == COUNTERS_OWNED else "cnt"}[cell.verb]
    return f"{kind}{'3' if peer == N3 else '1'}:".encode()


def request(peer, cell, number):
    key = prefix(peer, cell) + b"%06d" % number
    return encode("SET", key, value(SIZE_BYTES)) if cell.verb == "SET" else encode(cell.verb, key)


REPLY_BYTES = {"GET": len(b"$32\r\n\r\n") + SIZE_BYTES, "SET": len(b"+OK\r\n"), "INCR": len(b":%d\r\n" % COUNTER_FIRST)}


def write_batches(peer, cell, path, first=0):
    """As `cells.write_batches`; the form is described in batchload.c. `first` is where keys in order begin."""
    rng = random.Random(7)
    count = (cell.keys if cell.in_order else max(KEYS, 3 * cell.keys)) // cell.pipeline
    with open(path, "wb") as f:
        for batch in range(count):
            at = first + batch * cell.pipeline
            numbers = [(at + i) % cell.keys if cell.in_order else rng.randrange(cell.keys) for i in range(cell.pipeline)]
            raw = b"".join(request(peer, cell, n) for n in numbers)
            f.write(struct.pack("=III", len(raw), REPLY_BYTES[cell.verb] * cell.pipeline, cell.pipeline))
            f.write(raw)


def fill(port, peer, cell):
    """Every key that the cell may ask for, written through this port."""
    payload = str(COUNTER_FIRST).encode() if cell.verb == "INCR" else value(SIZE_BYTES)
    with Client(port, 60) as client:
        for first in range(0, cell.keys, 500):
            numbers = range(first, min(first + 500, cell.keys))
            client.send(b"".join(encode("SET", prefix(peer, cell) + b"%06d" % n, payload) for n in numbers))
            for _ in numbers:
                client.read()


def record_key(key):
    """The name that the version record of a key without a hash tag has (`src/version/names.rs`)."""
    return b"\0qv{" + key + b"}"


def records(store_ports, cell, count=500):
    """The length of the records of some keys of the cell, and what one takes of a store's memory with its name."""
    rng = random.Random(11)
    lengths, memory, of_values = [], [], []
    with Client(store_ports[0]) as store:
        for _ in range(count):
            key = prefix(N3, cell) + b"%06d" % rng.randrange(cell.keys)
            lengths.append(int(store.command("STRLEN", record_key(key))))
            memory.append(int(store.command("MEMORY", "USAGE", record_key(key))))
            of_values.append(int(store.command("MEMORY", "USAGE", key)))
    return {"bytes_max": max(lengths), "bytes_mean": sum(lengths) / count, "memory_mean": sum(memory) / count,
            "value_memory_mean": sum(of_values) / count}


def counted(running):
    """What the proxy says of its own work: requests to stores, operations by rounds, reads that were asked again."""
    with urllib.request.urlopen(f"http://127.0.0.1:{running.admin_port}/metrics", timeout=5) as answer:
        text = answer.read().decode()

    def total(pattern):
        return sum(float(x) for x in re.findall(rf"^{pattern} (\S+)$", text, re.M))
    return {"sent": total(r"quoit_node_requests_total\{[^}]*\}"),
            "one": total(r'quoit_replication_(?:reads|writes)_total\{[^}]*rounds="one"[^}]*\}'),
            "more": total(r'quoit_replication_(?:reads|writes)_total\{[^}]*rounds="more"[^}]*\}'),
            "hedges": total(r"quoit_replication_hedges_total\{[^}]*\}")}


class Part:
    """Measures the cells of this part with the processes of a `Bench`."""

    def __init__(self, bench, chosen):
        self.bench, self.chosen = bench, chosen
        self.running, self.filled = {}, set()
        # Of cells in order: how many requests each peer has played.
        self.played_ops = {}

    def run(self, peers, result, progress):
        self.start(peers)
        rounds, seconds = self.bench.options.rounds, self.bench.options.seconds
        result["replicated"] = {"peers": [p.name for p in peers], "cells": []}
        for cell in self.chosen:
            self.fill(cell)
            record = {"name": cell.name, "samples": {}, "errors": {}}
            for peer in peers:
                self.guarded(record, peer.name, cell, warm_up_s(cell))
            record["samples"].clear()
            for number in range(rounds):
                turn = number % len(peers)
                order = peers[turn:] + peers[:turn]
                for peer in order if number % 2 == 0 else order[::-1]:
                    self.guarded(record, peer.name, cell, seconds)
            if N3 in self.running:
                record["records"] = records(self.bench.store_ports, cell)
            result["replicated"]["cells"].append(record)
            progress(record)
        for one in self.running.values():
            self.bench.processes.stop(one.procs)

    def start(self, peers):
        for port in self.bench.store_ports:  # Three copies begin on empty stores.
            with Client(port, 60) as client:
                client.command("FLUSHALL")
        self.bench.filled_bytes = None
        for peer in peers:
            self.running[peer.name] = self.bench.start(peer)

    def fill(self, cell):
        """Three copies are written by the proxy that makes them; the others find their keys on every store."""
        for name in (N3, N1):
            if name in self.running and prefix(name, cell) not in self.filled:
                for port in [self.running[N3].port] if name == N3 else self.bench.store_ports:
                    fill(port, name, cell)
                self.filled.add(prefix(name, cell))

    def prepare_one(self, peer, cell):
        """One peer alone, ready to be measured in one cell."""
        self.start([peer])
        self.fill(cell)
        return self.running[peer.name], self.played(peer.name, cell)

    def guarded(self, record, name, cell, seconds):
        if name in record["errors"]:
            return
        try:
            record["samples"].setdefault(name, []).append(self.sample(name, cell, seconds))
        except (OSError, RuntimeError) as e:  # A peer that fails is reported; the others go on.
            record["errors"][name] = str(e)

    def played(self, name, cell):
        played, paths = Played(f"{name}-{cell.name}", cell.connections), self.bench.batch_paths
        if played.name not in paths or cell.in_order:
            paths[played.name] = f"{self.bench.folder}/batches-{played.name}"
            write_batches(name, cell, paths[played.name], self.played_ops.get(played.name, 0))
        return played

    def sample(self, name, cell, seconds):
        bench, running = self.bench, self.running[name]
        stores, best = pids_of(bench.stores), None
        for _ in range(bench.options.tries):
            played = self.played(name, cell)
            before, cpu = counted(running) if running.admin_port else None, cpu_of(stores)["total"]
            got = bench.sample(running, played, list(self.running.values()), seconds)
            self.played_ops[played.name] = self.played_ops.get(played.name, 0) + got["ops"]
            got["store_us"] = (cpu_of(stores)["total"] - cpu) / max(1, got["ops"])
            if before:
                after = counted(running)
                spent = {k: after[k] - before[k] for k in after}
                got["sent"] = spent["sent"] / max(1, got["ops"])
                got["in_one"] = spent["one"] / max(1, spent["one"] + spent["more"])
                got["hedges"] = spent["hedges"] / max(1, got["ops"])
            if best is None or got["foreign_cores"] < best["foreign_cores"]:
                best = got
            if best["foreign_cores"] <= bench.options.foreign_max:
                break
        return best


def warm_up_s(cell):
    """Long enough that a worker has written each key that it can own."""
    return 1.5 if cell.verb == "INCR" else 0.3


@dataclass(frozen=True)
class Played:
    """What `Bench.load` asks of a cell whose requests are written already."""
    name: str
    connections: int


def known():
    """The peers of this part, in the order of the columns."""
    by_name = {p.name: p for p in programs.known()}
    n3 = programs.Peer(N3, "quoit", "quoit-n3.toml", ["{path}", "serve", "--config", "{dir}/quoit-n3.toml"], ["--version"])
    return [n3] + [by_name[n] for n in (N1, TUNED, DIRECT)]
