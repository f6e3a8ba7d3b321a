#!/usr/bin/env python3
"""quoit beside its peers, on this machine, over loopback only.

  bench/run.py                     builds quoit, runs everything with short samples (some six minutes)
  bench/run.py --full              longer samples, for figures to publish (about twenty-five minutes)
  bench/run.py --quick             one short round: does all of it work?
  bench/run.py --parts replicated  three copies beside one (some four minutes)
  bench/run.py --perf get-32-p16   where quoit's CPU goes in a cell (needs perf)
  bench/run.py --report FILE       the tables of an earlier run again

Needs Python 3.11, cc and redis-server; a peer that is not installed is named and left out.
docs/performance.md says what the columns mean. It ends only the processes that it started.
"""
import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import cells as catalogue
import machine
import peers as programs
import replicated
import report
from cells import CELLS, IDLE_CONNECTIONS, KEYS
from machine import Client, cpu_of, machine_cpu, memory_kib, pids_of

HERE = os.path.dirname(os.path.abspath(__file__))
PARTS = ["load", "syscalls", "idle", "workers", "replicated"]
SYSCALL_CELLS = ["get-32-p1", "get-32-p16", "mget10-32-p1"]
# strace names them all; perf counts those it is told.
SYSCALLS_NAMED = ["read", "readv", "recvfrom", "recvmsg", "write", "writev", "sendto", "sendmsg", "epoll_wait", "epoll_pwait",
                  "epoll_pwait2", "epoll_ctl", "futex", "getpeername", "clock_gettime", "gettimeofday", "accept4"]
TRACEFS = "/sys/kernel/tracing/events"
STORES = 3
WARM_UP_S = 0.3
IDLE_SETTLE_S = 5


class Bench:
    def __init__(self, options):
        self.options = options
        self.files_max = machine.raise_file_limit()
        self.folder = tempfile.mkdtemp(prefix="quoit-bench-")
        self.processes = machine.Processes()
        self.cpus = sorted(os.sched_getaffinity(0))
        self.pinned = not options.no_pin and len(self.cpus) > 1
        self.proxy_cpus = self.cpus[:1] if self.pinned else None
        # With four CPUs two workers get a core each, and one worker is measured beside the same load cores.
        self.load_cpus = self.cpus[2 if len(self.cpus) >= 4 else 1:] if self.pinned else None
        self.batchload = os.path.join(self.folder, "batchload")
        subprocess.run(["cc", "-O2", "-o", self.batchload, os.path.join(HERE, "batchload.c")], check=True)
        self.stores, self.store_ports, self.filled_bytes = [], [], None
        self.batch_paths = {}

    def close(self):
        self.processes.stop_all()
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- stores

    def start_stores(self):
        for i in range(STORES):
            home = os.path.join(self.folder, f"store-{i}")
            os.mkdir(home)
            port = machine.free_port()
            argv = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
                    "--maxclients", str(max(100, self.files_max - 100)), "--tcp-backlog", "4096", "--dir", home]
            store = self.processes.start(argv, self.load_cpus, os.path.join(home, "output"))
            machine.wait_ready(port, [store])
            self.stores.append(store)
            self.store_ports.append(port)

    def fill(self, size_bytes):
        if self.filled_bytes != size_bytes:
            for port in self.store_ports:
                catalogue.fill(port, size_bytes)
            self.filled_bytes = size_bytes

    # -- proxies

    def start(self, peer, cpus=None, workers=1):
        return programs.start(peer, self.processes, self.store_ports, cpus or self.proxy_cpus, self.folder, workers,
                              min(9900, (self.files_max - 100) // 2))

    def check(self, running):
        """Writes and reads back through the proxy. Returns how many of the keys each store got."""
        count = 300
        with Client(running.port) as client:
            for i in range(count):
                client.command("SET", f"check:{i}", f"value {i}")
            for i in range(count):
                if client.command("GET", f"check:{i}") != b"value %d" % i:
                    raise RuntimeError(f"check:{i} did not read back")
            pairs = [x for i in range(10) for x in (f"check:{i}", b"value %d" % i)]
            if client.command("MGET", *pairs[::2]) != pairs[1::2]:
                raise RuntimeError("MGET did not read back in order")
        spread = []
        for port in self.store_ports:
            with Client(port) as store:
                names = [f"check:{i}" for i in range(count)]
                spread.append(int(store.command("EXISTS", *names)))
                store.command("DEL", *names)
        return spread

    # -- load

    def load(self, port, cell, seconds, processes=1):
        """Plays the cell's requests. With more processes the latencies are the worst of theirs."""
        if cell.name not in self.batch_paths:
            path = os.path.join(self.folder, "batches-" + cell.name)
            catalogue.write_batches(cell, path)
            self.batch_paths[cell.name] = path
        argv = [self.batchload, "127.0.0.1", str(port), str(cell.connections), f"{seconds}", self.batch_paths[cell.name],
                str(processes)]
        code, output, cpu_us = machine.run_on(argv, self.load_cpus, seconds + 15)
        lines = output.splitlines()
        got = [json.loads(x) for x in lines if x.startswith("{")]
        if code != 0 or len(got) != processes:
            raise RuntimeError("load: " + " ".join(x for x in lines if not x.startswith("{"))[:200])
        return {"ops": sum(x["ops"] for x in got), "rate": sum(x["rate"] for x in got), "load_cpu_us": cpu_us,
                **{k: max(x[k] for x in got) for k in ("p50_us", "p99_us", "p999_us")}}

    def sample(self, running, cell, others, seconds, processes=1):
        proxy, stores = pids_of(running.procs), pids_of(self.stores)
        rest = [x for o in others if o is not running for x in pids_of(o.procs)] + [os.getpid()]
        machine.reset_peak(proxy)

        def now():
            return time.monotonic() * 1e6, machine_cpu(), cpu_of(proxy), cpu_of(stores)["total"], cpu_of(rest)["total"]
        before = now()
        out = self.load(running.port, cell, seconds, processes)
        after = now()
        wall_us = after[0] - before[0]
        spent = {k: after[2][k] - before[2][k] for k in after[2]}
        stores_us, rest_us = after[3] - before[3], after[4] - before[4]
        busy_us = after[1]["busy"] - before[1]["busy"]
        ours_us = spent["total"] + stores_us + rest_us + out["load_cpu_us"]
        ops = max(1, out["ops"])
        out.update(cpu_us=spent["total"] / ops, user_us=spent["user"] / ops, sys_us=spent["sys"] / ops,
                   proxy_cores=spent["total"] / wall_us, load_cores=(stores_us + out["load_cpu_us"]) / wall_us,
                   rss_peak_kib=memory_kib(proxy, "VmHWM"), foreign_cores=max(0, busy_us - ours_us) / wall_us,
                   steal_cores=(after[1]["steal"] - before[1]["steal"]) / wall_us)
        return out

    def quiet_sample(self, *args):
        """The quietest of some tries: what others do on the machine is not the proxy's."""
        best = None
        for _ in range(self.options.tries):
            got = self.sample(*args)
            if best is None or got["foreign_cores"] < best["foreign_cores"]:
                best = got
            if best["foreign_cores"] <= self.options.foreign_max:
                break
        return best

    # -- the parts

    def measure_load(self, peers, chosen, result):
        for cell in chosen:
            self.fill(cell.size_bytes)
            record = {"name": cell.name, "samples": {}, "errors": {}}
            running = {}
            for peer in peers:
                try:
                    running[peer.name] = self.start(peer)
                    if peer.name not in result["spread"] and peer.name != "direct":
                        result["spread"][peer.name] = self.check(running[peer.name])
                    self.load(running[peer.name].port, cell, WARM_UP_S)
                except (OSError, RuntimeError) as e:  # A peer that fails is reported; the others go on.
                    record["errors"][peer.name] = str(e)
            for number in range(self.options.rounds):
                turn = number % len(peers)
                order = peers[turn:] + peers[:turn]
                for peer in order if number % 2 == 0 else order[::-1]:
                    if peer.name in record["errors"]:
                        continue
                    try:
                        got = self.quiet_sample(running[peer.name], cell, list(running.values()), self.options.seconds)
                        record["samples"].setdefault(peer.name, []).append(got)
                    except (OSError, RuntimeError) as e:
                        record["errors"][peer.name] = str(e)
            for one in running.values():
                self.processes.stop(one.procs)
            if cell.name in self.batch_paths:
                os.remove(self.batch_paths.pop(cell.name))
            result["load"].append(record)
            report.progress(record)

    def measure_syscalls(self, peers, chosen, result):
        """A run of its own: tracing slows the proxy, so no other figure may come from it."""
        tool = "perf" if shutil.which("perf") and os.path.exists(TRACEFS + "/raw_syscalls") else "strace"
        if not shutil.which(tool):
            result["notes"].append("syscalls: neither perf with a mounted tracefs nor strace is here")
            return
        result["syscalls"] = {"tool": tool, "cells": []}
        for cell in chosen:
            self.fill(cell.size_bytes)
            record = {"name": cell.name, "peers": {}}
            for peer in peers:
                try:
                    running = self.start(peer)
                    self.load(running.port, cell, WARM_UP_S)
                    record["peers"][peer.name] = self.count_syscalls(tool, running, cell)
                    self.processes.stop(running.procs)
                except (OSError, RuntimeError) as e:
                    record["peers"][peer.name] = {"error": str(e)}
            result["syscalls"]["cells"].append(record)
            print("syscalls", cell.name, {n: round(v.get("all", -1), 2) for n, v in record["peers"].items()}, flush=True)

    def count_syscalls(self, tool, running, cell):
        path = os.path.join(self.folder, "syscalls")
        pids = pids_of(running.procs)
        if tool == "perf":
            events = ["raw_syscalls:sys_enter"] + ["syscalls:sys_enter_" + n for n in SYSCALLS_NAMED
                                                   if os.path.exists(f"{TRACEFS}/syscalls/sys_enter_{n}")]
            argv = ["perf", "stat", "-x,", "-o", path, "-e", ",".join(events), "-p", ",".join(map(str, pids))]
        else:
            argv = ["strace", "-c", "-f", "-qq", "-o", path] + [x for p in pids for x in ("-p", str(p))]
        tracer = self.processes.start(argv, self.load_cpus)
        if not machine.wait_traced(tool, tracer, pids):
            raise RuntimeError(f"{tool} could not attach")
        ops = self.load(running.port, cell, self.options.seconds)["ops"]
        tracer.send_signal(signal.SIGINT)
        tracer.wait(10)
        self.processes.all.remove(tracer)
        counts = {}
        with open(path) as f:
            for line in f:
                if tool == "perf":
                    fields = line.split(",")
                    if len(fields) > 2 and fields[0].isdigit():
                        name = fields[2].rpartition("sys_enter")[2].lstrip("_")
                        counts[name or "all"] = int(fields[0])
                elif m := re.match(r"\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", line):
                    counts["all" if m[2] == "total" else m[2]] = int(m[1])
        if "all" not in counts:
            raise RuntimeError(f"{tool} counted nothing")
        return {k: v / ops for k, v in counts.items() if v / ops >= 0.005}

    def measure_idle(self, peers, result):
        """Memory of connections that were used once and then left alone."""
        wanted = min(IDLE_CONNECTIONS, (self.files_max - 200) // 2)
        if wanted < IDLE_CONNECTIONS:
            result["notes"].append(f"idle: {wanted} connections, the hard limit of open files allows no more")
        result["idle"] = {"connections": wanted, "peers": {}}
        self.fill(32)
        request = machine.encode("GET", catalogue.key(1))
        reply_bytes = len(b"$32\r\n") + 32 + 2
        for peer in peers:
            clients, running = [], None
            try:
                running = self.start(peer)
                pids = pids_of(running.procs)
                quiet = machine.wait_quiet(pids)
                got = {"start_kib": memory_kib(pids, "VmRSS")}
                for _ in range(wanted):
                    clients.append(Client(running.port))
                for client in clients:
                    client.send(request)
                    if len(client.reader.read(reply_bytes)) != reply_bytes:
                        raise RuntimeError("closed by the other side")
                got["quiet"] = machine.wait_quiet(pids, IDLE_SETTLE_S) and quiet
                got["used_kib"] = memory_kib(pids, "VmRSS")
                got["bytes_per_connection"] = (got["used_kib"] - got["start_kib"]) * 1024 / wanted
                for client in clients:
                    client.close()
                clients = []
                machine.wait_quiet(pids)
                got["closed_kib"] = memory_kib(pids, "VmRSS")
            except (OSError, RuntimeError) as e:
                got = {"error": str(e)}
            for client in clients:
                client.close()
            if running:
                self.processes.stop(running.procs)
            result["idle"]["peers"][peer.name] = got
            print("idle", peer.name, got, flush=True)

    def measure_workers(self, peers, result):
        """One worker, two on one core, two on two cores; the same load from two processes each time."""
        cell = next(c for c in CELLS if c.name == "get-32-p16")
        self.fill(cell.size_bytes)
        own_cores = self.pinned and len(self.cpus) >= 4
        result["workers"] = {"cell": cell.name, "own_cores": own_cores, "peers": {}}
        layouts = {"one": (1, self.proxy_cpus), "two": (2, self.cpus[:2] if self.pinned else None)}
        if self.pinned:
            layouts["two_on_one_core"] = (2, self.proxy_cpus)
        for peer in [p for p in peers if p.workers_settable]:
            samples = {}
            try:
                running = {name: self.start(peer, cpus, count) for name, (count, cpus) in layouts.items()}
                for one in running.values():
                    self.load(one.port, cell, WARM_UP_S, 2)
                for _ in range(self.options.rounds):
                    for name, one in running.items():
                        before = {t: v for p in pids_of(one.procs) for t, v in machine.threads_of(p).items()}
                        got = self.quiet_sample(one, cell, list(running.values()), self.options.seconds, 2)
                        after = {t: v for p in pids_of(one.procs) for t, v in machine.threads_of(p).items()}
                        shares = sorted((after[t] - before.get(t, 0) for t in after), reverse=True)
                        got["thread_shares"] = [x / max(1, sum(shares)) for x in shares[:2]]
                        samples.setdefault(name, []).append(got)
                for one in running.values():
                    self.processes.stop(one.procs)
                result["workers"]["peers"][peer.name] = samples
            except (OSError, RuntimeError) as e:
                result["workers"]["peers"][peer.name] = {"error": str(e)}
            print("workers", peer.name, "done", flush=True)

    def perf(self, running, cell):
        """Where the proxy's CPU goes. `cpu-clock` also works in virtual machines, which often have no counters."""
        self.load(running.port, cell, WARM_UP_S)
        path = os.path.join(self.folder, "perf.data")
        pids = ",".join(map(str, pids_of(running.procs)))
        argv = ["perf", "record", "-q", "-e", "cpu-clock", "-F", "997", "-o", path, "-p", pids]
        tracer = self.processes.start(argv, self.load_cpus)
        got = self.sample(running, cell, [running], max(3, self.options.seconds))
        tracer.send_signal(signal.SIGINT)
        tracer.wait(20)
        run = subprocess.run(["perf", "report", "-i", path, "--stdio", "--no-children", "--sort", "dso,symbol",
                              "--percent-limit", "0.5"], capture_output=True, text=True, timeout=120)
        print(f"{running.peer.name}, {cell.name}: {got['cpu_us']:.2f} us per request "
              f"({got['user_us']:.2f} user, {got['sys_us']:.2f} system), {got['rate']:,.0f} requests/s\n")
        # perf fills columns that were not asked for with dashes.
        lines = [re.sub(r"(\s+-)+\s*$", "", x) for x in run.stdout.splitlines() if x.strip() and not x.startswith("#")]
        print("\n".join(lines[:60]) if lines else run.stderr)


def options_of(argv):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quoit", metavar="PATH", help="take this quoit and build none")
    p.add_argument("--peers", help="only these, comma separated: " + ",".join(x.name for x in programs.known()))
    p.add_argument("--cells", metavar="REGEX", help="only the cells whose name holds this: " + " ".join(c.name for c in CELLS))
    p.add_argument("--parts", help="only these, comma separated: " + ",".join(PARTS))
    p.add_argument("--full", action="store_true", help="5 rounds of 3 s")
    p.add_argument("--quick", action="store_true", help="1 round of 0.5 s")
    p.add_argument("--rounds", type=int, help="default 3")
    p.add_argument("--seconds", type=float, help="of one sample, default 1")
    p.add_argument("--tries", type=int, default=2, help="samples to take while others use the CPU (default %(default)s)")
    p.add_argument("--foreign-max", type=float, default=0.15, help="cores others may use in a sample (default %(default)s)")
    p.add_argument("--no-pin", action="store_true", help="leave the CPUs to the kernel")
    p.add_argument("--perf", metavar="CELL", help="profile the first of --peers (default quoit) in this cell; with "
                   "`--parts replicated` that is quoit with three copies")
    p.add_argument("--report", metavar="FILE", help="print the tables of a result file")
    o = p.parse_args(argv)
    rounds, seconds = (1, 0.5) if o.quick else (5, 3.0) if o.full else (3, 1.0)
    o.rounds, o.seconds = o.rounds or rounds, o.seconds or seconds
    o.parts = o.parts.split(",") if o.parts else ["load"] if o.perf else PARTS
    if bad := [x for x in o.parts if x not in PARTS]:
        p.error(f"no such part: {bad[0]}")
    names = [x.name for x in programs.known()]
    o.peers = o.peers.split(",") if o.peers else ["quoit"] if o.perf else names
    if bad := [x for x in o.peers if x not in names]:
        p.error(f"no such peer: {bad[0]}")
    o.chosen = [c for c in CELLS if not o.cells or re.search(o.cells, c.name)]
    o.replicated = [c for c in replicated.CELLS if not o.cells or re.search(o.cells, c.name)]
    if o.perf:
        o.chosen = [c for c in CELLS if c.name == o.perf]
        o.replicated = [c for c in replicated.CELLS if c.name == o.perf]
    if not o.chosen and not o.replicated:
        p.error("no such cell")
    return o


def find_peers(o):
    quoit = None
    if "quoit" in o.peers:
        quoit = os.path.abspath(o.quoit) if o.quoit else programs.build_quoit()
    found, missing = [], []
    for peer in programs.known():
        if peer.name in o.peers:
            peer.path = programs.find(peer, quoit)
            (found if peer.path and os.path.exists(peer.path) else missing).append(peer)
    for peer in missing:
        print(f"not installed, left out: {peer.name} ({peer.program})", flush=True)
    return found, [p.name for p in missing]


def replicated_peers(found):
    """Three copies are measured with the quoit that is found, beside those of the others that are there."""
    paths = {p.program: p.path for p in found}
    peers = [p for p in replicated.known() if p.program in paths]
    for peer in peers:
        peer.path = paths[peer.program]
    return peers


def main():
    o = options_of(sys.argv[1:])
    if o.report:
        with open(o.report) as f:
            print(report.markdown(json.load(f)))
        return
    for program in ["redis-server", "cc"] + (["perf"] if o.perf else []):
        if not shutil.which(program):
            sys.exit(f"bench: {program} is not installed")
    found, missing = find_peers(o)
    if not found:
        sys.exit("bench: none of the peers is here")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: told to stop"))
    bench = Bench(o)
    try:
        bench.start_stores()
        if o.perf and "replicated" in o.parts and o.replicated:
            part = replicated.Part(bench, o.replicated)
            bench.perf(*part.prepare_one(replicated_peers(found)[0], o.replicated[0]))
            return
        if o.perf:
            bench.fill(o.chosen[0].size_bytes)
            bench.perf(bench.start(found[0]), o.chosen[0])
            return
        result = {"when": time.strftime("%Y-%m-%d %H:%M"), "machine": machine.describe(), "pinned": bench.pinned,
                  "rounds": o.rounds, "seconds": o.seconds, "peers": [p.name for p in found], "missing": missing,
                  "versions": {p.name: programs.version(p) for p in found},
                  "proxy_cpus": bench.proxy_cpus, "load_cpus": bench.load_cpus,
                  "keys": KEYS, "spread": {}, "notes": [], "load": []}
        path = os.path.join(HERE, "results", time.strftime("%Y%m%d-%H%M%S.json"))
        proxies = [p for p in found if p.name != "direct"]
        if "load" in o.parts:
            bench.measure_load(found, o.chosen, result)
            report.save(result, path)
        if "syscalls" in o.parts:
            bench.measure_syscalls(proxies, [c for c in o.chosen if c.name in SYSCALL_CELLS], result)
            report.save(result, path)
        if "idle" in o.parts:
            bench.measure_idle(proxies, result)
            report.save(result, path)
        if "workers" in o.parts:
            bench.measure_workers(proxies, result)
            report.save(result, path)
        if "replicated" in o.parts:
            replicated.Part(bench, o.replicated).run(replicated_peers(found), result, report.progress)
        report.save(result, path)
        print(f"\n{report.markdown(result)}\nsaved: {os.path.relpath(path)}")
    finally:
        bench.close()


if __name__ == "__main__":
    main()
