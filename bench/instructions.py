#!/usr/bin/env python3
"""Instructions that quoit itself takes for a request, with three copies and with one, counted by valgrind.

  bench/instructions.py                     builds quoit; GET, SET and INCR at pipeline 16 (a minute or two)
  bench/instructions.py --quoit PATH --cells set-32-p64
  bench/instructions.py --functions 20      the dearest functions, too

The figures know nothing of the kernel and of caches, but they are nearly the same however busy the machine is, so they
tell whether a change made a request cheaper where `bench/run.py --parts replicated` drowns in noise.
"""
import argparse
import collections
import glob
import os
import re
import subprocess
import tempfile
from types import SimpleNamespace

import machine
import peers as programs
import replicated
import run

DEFAULT = "get-32-p16,set-32-p16,incr-owned-p16"
# Valgrind makes the proxy some fifty times slower: nothing may be asked again only because it takes long.
PATIENT = "hedge_ms = 0\noperation_timeout_ms = 20000\n"


def start(bench, peer, home):
    """The proxy under valgrind, not counting yet."""
    values = {"port": machine.free_port(), "admin_port": machine.free_port(), "workers": 1}
    with open(os.path.join(run.HERE, "templates", peer.template)) as f:
        text = programs.render(f.read(), values, bench.store_ports)
    config = os.path.join(home, "quoit.toml")
    with open(config, "w") as f:
        f.write(text.replace('level = "linearizable"\n', 'level = "linearizable"\n' + PATIENT))
    argv = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={home}/out", peer.path, "serve",
            "--config", config]
    proc = bench.processes.start(argv, None, os.path.join(home, "log"))
    machine.wait_ready(values["port"], [proc], [("GET", f"ready:{k}") for k in range(40)], 60)
    return programs.Running(peer, values["port"], [proc], values["admin_port"])


def control(proc, *args):
    subprocess.run(["callgrind_control", *args, str(proc.pid)], check=True, capture_output=True)


def count(bench, running, played, cell, home):
    """(instructions a request, the file with where they were)."""
    bench.load(running.port, played, 6 if cell.verb == "INCR" else 2)
    proc = running.procs[0]
    control(proc, "-i", "on")
    control(proc, "-z")
    ops = bench.load(running.port, played, 3)["ops"]
    control(proc, "-d", cell.name)
    control(proc, "-i", "off")
    path = max(glob.glob(f"{home}/out.*"), key=os.path.getmtime)
    with open(path) as f:
        return int(re.search(r"^(?:summary|totals): (\d+)", f.read(), re.M)[1]) / ops, path, ops


def functions(path, ops, most):
    """The dearest functions with what was inlined in them."""
    text = subprocess.run(["callgrind_annotate", "--auto=no", "--threshold=100", path], capture_output=True, text=True).stdout
    spent = collections.Counter()
    for number, name in re.findall(r"^\s*([\d,]+) \(\s*[\d.]+%\)\s+\S+?:(\S.*?)(?: \[[^]]*\])?$", text, re.M):
        spent[re.sub(r"^\S*\.(?:rs|c|h|S):", "", name)] += int(number.replace(",", "")) / ops
    return [f"{each:8.0f}  {name[:120]}" for name, each in spent.most_common(most)]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quoit", metavar="PATH", help="take this quoit and build none")
    p.add_argument("--cells", default=DEFAULT, help="comma separated; default %(default)s")
    p.add_argument("--functions", type=int, default=0, metavar="N", help="print the N dearest functions of each cell")
    o = p.parse_args()
    by_name = {c.name: c for c in replicated.CELLS}
    cells = [by_name[name] for name in o.cells.split(",")]
    quoit = os.path.abspath(o.quoit) if o.quoit else programs.build_quoit()
    counts = {c.name: {} for c in cells}
    for name in (replicated.N3, replicated.N1):
        bench = run.Bench(SimpleNamespace(no_pin=True))
        try:
            bench.start_stores()
            part = replicated.Part(bench, cells)
            peer = next(x for x in replicated.known() if x.name == name)
            peer.path = quoit
            part.start([peer])  # It fills the stores at its own speed.
            for cell in cells:
                part.fill(cell)
            bench.processes.stop(part.running[name].procs)
            home = tempfile.mkdtemp(dir=bench.folder)
            running = start(bench, peer, home)
            for cell in cells:
                counts[cell.name][name], path, ops = count(bench, running, part.played(name, cell), cell, home)
                if o.functions:
                    print(f"{cell.name}, {name}:", *functions(path, ops, o.functions), "", sep="\n", flush=True)
        finally:
            bench.close()
    print("| cell | three copies | one copy | ratio |\n|---|---:|---:|---:|")
    for name, got in counts.items():
        three, one = got[replicated.N3], got[replicated.N1]
        print(f"| {name} | {three:,.0f} | {one:,.0f} | {three / one:.2f} |")


if __name__ == "__main__":
    main()
