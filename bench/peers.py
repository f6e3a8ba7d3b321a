"""The programs that are compared, and how each is set up: one worker, three stores, no access log."""
import json
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field

from machine import free_port, wait_ready

HERE = os.path.dirname(os.path.abspath(__file__))


@dataclass
class Peer:
    name: str
    program: str
    template: str = ""
    argv: list = field(default_factory=list)
    version: list = field(default_factory=list)
    workers_settable: bool = False
    path: str | None = None


def known():
    """`direct` is no proxy: the clients talk to one store. twemproxy's options: `-v 4` saves it a getpeername(2) a
    request, `-m 1024` the 16 KiB buffer that each request in flight takes otherwise."""
    twemproxy = ["{path}", "-c", "{dir}/twemproxy.yml", "-o", "{dir}/log", "-s", "{stats_port}", "-a", "127.0.0.1"]
    return [
        Peer("quoit", "quoit", "quoit.toml", ["{path}", "serve", "--config", "{dir}/quoit.toml"], ["--version"], True),
        Peer("twemproxy", "nutcracker", "twemproxy.yml", twemproxy, ["-V"]),
        Peer("twemproxy-tuned", "nutcracker", "twemproxy.yml", twemproxy + ["-v", "4", "-m", "1024"], ["-V"]),
        Peer("haproxy", "haproxy", "haproxy.cfg", ["{path}", "-db", "-f", "{dir}/haproxy.cfg"], ["-v"], True),
        Peer("predixy", "predixy", "predixy.conf", ["{path}", "{dir}/predixy.conf"], ["-v"], True),
        Peer("direct", "redis-server", version=["--version"]),
    ]


def find(peer, quoit):
    if peer.program == "quoit":
        return quoit
    # Debian puts nutcracker and haproxy where the PATH of a plain user does not look.
    return shutil.which(peer.program, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def build_quoit():
    """Builds the release and asks cargo where it put the program."""
    print("building quoit (cargo build --release) …", flush=True)
    run = subprocess.run(["cargo", "build", "--release", "--locked", "--bin", "quoit",
                          "--message-format", "json-render-diagnostics"],
                         cwd=os.path.dirname(HERE), stdout=subprocess.PIPE, text=True, check=True)
    for line in run.stdout.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message.get("executable"):
            return message["executable"]
    raise RuntimeError("cargo named no program")


def version(peer):
    try:
        run = subprocess.run([peer.path, *peer.version], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "?"
    lines = [x.strip() for x in (run.stdout + run.stderr).splitlines() if x.strip()]
    return re.sub(r" - https?://\S+| sha=.*", "", lines[0])[:80] if lines else "?"


def render(text, values, backends):
    """`@name@` becomes a value; the lines between `@each backends` and `@end` come once for each store."""
    def substitute(line, v):
        return re.sub(r"@([a-z_.]+)@", lambda m: str(v[m.group(1)]), line)
    out, block = [], None
    for line in text.split("\n"):
        if line == "@each backends":
            block = []
        elif line == "@end":
            for i, port in enumerate(backends):
                out += [substitute(x, {**values, "it.i": i, "it.port": port}) for x in block]
            block = None
        elif block is not None:
            block.append(line)
        else:
            out.append(substitute(line, values))
    return "\n".join(out)


@dataclass
class Running:
    peer: Peer
    port: int
    procs: list
    # Where quoit tells what it counted.
    admin_port: int | None = None


def start(peer, processes, backends, cpus, folder, workers=1, clients_max=9900):
    """Starts a peer on free ports and waits until it answers from every store. `direct` starts nothing."""
    if peer.name == "direct":
        return Running(peer, backends[0], [])
    home = tempfile.mkdtemp(prefix=peer.name + "-", dir=folder)
    values = {"path": peer.path, "dir": home, "port": free_port(), "admin_port": free_port(), "stats_port": free_port(),
              "workers": workers, "clients_max": clients_max}
    with open(os.path.join(HERE, "templates", peer.template)) as f:
        text = render(f.read(), values, backends)
    with open(os.path.join(home, peer.template), "w") as f:
        f.write(text)
    log = os.path.join(home, "output")
    proc = processes.start([a.format(**values) for a in peer.argv], cpus, log, home)
    try:
        wait_ready(values["port"], [proc], [("PING",)] + [("GET", f"ready:{k}") for k in range(40)])
    except RuntimeError as e:
        processes.stop([proc])
        with open(log, errors="replace") as f:
            said = [x.strip() for x in f.read().splitlines() if x.strip()]
        raise RuntimeError(f"{e}" + (f"; it said: {said[-1][:160]}" if said else "")) from e
    return Running(peer, values["port"], [proc], values["admin_port"] if peer.program == "quoit" else None)
