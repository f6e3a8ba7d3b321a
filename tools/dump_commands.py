#!/usr/bin/env python3
"""Asks real servers for their command tables and condenses the answers into one file of facts.

    tools/dump_commands.py redis-6.2=PATH redis-7.0=PATH redis-8.2=PATH valkey-9.1=PATH > tests/data/commands/commands.json

Each server is started alone on a free loopback port, asked `COMMAND` and `COMMAND DOCS`, and stopped.
Servers are given oldest first; for each command the facts of the last one that has it are kept, except arity, where
the one that accepts most is kept (newer servers accept optional arguments; the server itself refuses what it lacks).
Summaries and groups are text: they are kept only from servers whose text is under the BSD licence (BSD_TEXT).
No module is loaded: only the servers' own commands come out.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time

BSD_TEXT = ("redis-6.2", "redis-7.0", "valkey-9.1")
FLAGS_DROPPED = ("sort_for_script", "random", "module")  # 6.2's words for what later became tips; not facts of ours


class Connection:
    """The least RESP2 client that can read a command table."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.file = self.socket.makefile("rb")

    def ask(self, *words):
        parts = [b"*%d\r\n" % len(words)]
        for word in words:
            word = word.encode()
            parts.append(b"$%d\r\n%s\r\n" % (len(word), word))
        self.socket.sendall(b"".join(parts))
        return self.read()

    def read(self):
        line = self.file.readline()
        if not line:
            raise ConnectionError("closed")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest.decode()
        if kind == b"-":
            return RuntimeError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            length = int(rest)
            return None if length < 0 else self.file.read(length + 2)[:-2].decode("utf-8", "replace")
        if kind == b"*":
            return [self.read() for _ in range(int(rest))]
        raise ValueError(f"unexpected reply type {kind!r}")


def as_map(flat):
    return dict(zip(flat[::2], flat[1::2]))


def dump(binary):
    """The two replies of one server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        server = subprocess.Popen(
            [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", directory],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + 10
            while True:
                try:
                    connection = Connection(port)
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)
            commands = connection.ask("COMMAND")
            docs = connection.ask("COMMAND", "DOCS")
            return commands, {} if isinstance(docs, RuntimeError) else as_map(docs)
        finally:
            server.terminate()
            server.wait()


def key_spec(raw):
    """One key specification as a short, flat object."""
    spec = as_map(raw)
    begin, find = as_map(spec["begin_search"]), as_map(spec["find_keys"])
    condensed = {"flags": sorted(flag for flag in spec["flags"] if flag)}
    for side, part in (("begin", begin), ("find", find)):
        condensed[side] = {"type": part["type"], **as_map(part["spec"])}
    return condensed


def condense(entry):
    """One element of the `COMMAND` reply; 6.2 answers with fewer fields."""
    name, arity, flags, first, last, step = entry[:6]
    row = {
        "name": name.lower(),
        "arity": arity,
        "flags": sorted(flag for flag in flags if flag not in FLAGS_DROPPED),
        "position": [first, last, step],
    }
    if len(entry) > 6:
        row["categories"] = sorted(category.removeprefix("@") for category in entry[6])
    if len(entry) > 9:
        row["tips"] = entry[7]
        row["keys"] = [key_spec(spec) for spec in entry[8]]
    children = entry[9] if len(entry) > 9 else []
    return [row] + [child for sub in children for child in condense(sub)]


def documented(docs):
    """Name -> the documentation of every command and subcommand."""
    found = {}
    for name, raw in docs.items():
        doc = as_map(raw)
        found[name.lower()] = doc
        found.update(documented(as_map(doc.get("subcommands", []))))
    return found


def more_tolerant(one, other):
    """Negative means "at least"; the smaller bound accepts more."""
    if one == other:
        return one
    if one < 0 and other < 0:
        return max(one, other)
    return -min(abs(one), abs(other))


def merge(dumps):
    """dumps: [(label, (commands, docs))], oldest first."""
    rows = {}
    for label, (commands, docs) in dumps:
        texts = documented(docs)
        for entry in commands:
            for row in condense(entry):
                old = rows.get(row["name"], {})
                merged = {**old, **row}
                if old:
                    merged["arity"] = more_tolerant(old["arity"], row["arity"])
                merged["servers"] = old.get("servers", []) + [label]
                text = texts.get(row["name"], {})
                if label in BSD_TEXT:
                    for field in ("summary", "group"):
                        if field in text:
                            merged[field] = text[field]
                if "since" in text and "since" not in old:
                    merged["since"] = text["since"]
                if "group" not in merged and "group" in text:
                    merged["group"] = text["group"]
                rows[row["name"]] = merged
    return [rows[name] for name in sorted(rows)]


def main():
    dumps = []
    for argument in sys.argv[1:]:
        label, binary = argument.split("=", 1)
        dumps.append((label, dump(os.path.expanduser(binary))))
    if not dumps:
        sys.exit(__doc__)
    print("[")
    lines = [json.dumps(row, sort_keys=True) for row in merge(dumps)]
    print(",\n".join(lines))
    print("]")


if __name__ == "__main__":
    main()
