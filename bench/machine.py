"""What the benchmark needs of the machine: processes of its own, their CPU and memory, ports, a small RESP client.

Nothing here knows a proxy or a cell. Everything reads /proc, so it runs on Linux only.
"""
import ctypes
import glob
import os
import resource
import signal
import socket
import subprocess
import tempfile
import time

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1


def raise_file_limit():
    """As many open files as the hard limit allows: a TCP relay holds two for each client. Returns that number."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    want = 65000 if hard == resource.RLIM_INFINITY else min(hard, 65000)
    resource.setrlimit(resource.RLIMIT_NOFILE, (want, hard))
    return want


def free_port():
    """A port that nobody listens on now. `wait_ready` checks later that it is our process who got it."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


# ---------------------------------------------------------------- processes

class Processes:
    """Starts processes on given CPUs and ends exactly those, with their children."""

    def __init__(self):
        self.all = []

    def start(self, argv, cpus=None, log=None, cwd=None):
        def before_exec():
            os.setsid()
            # If this script is killed, its children must not stay behind.
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if cpus:
                os.sched_setaffinity(0, cpus)
        out = open(log, "ab") if log else subprocess.DEVNULL
        try:
            p = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                                 preexec_fn=before_exec, cwd=cwd)
        finally:
            if log:
                out.close()
        self.all.append(p)
        return p

    def stop(self, procs):
        for p in procs:
            self._signal(p, signal.SIGTERM)
        for p in procs:
            try:
                p.wait(3)
            except subprocess.TimeoutExpired:
                self._signal(p, signal.SIGKILL)
                p.wait(5)
            if p in self.all:
                self.all.remove(p)

    def stop_all(self):
        self.stop(list(self.all))

    @staticmethod
    def _signal(p, sig):
        if p.poll() is not None:
            return  # Its number may belong to somebody else by now.
        for pid in reversed(descendants(p.pid)):
            try:
                os.kill(pid, sig)
            except ProcessLookupError:
                pass


def descendants(pid):
    """The process and all below it."""
    children = {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            with open(path) as f:
                stat = f.read()
        except OSError:
            continue
        me, parent = int(stat.split(" ", 1)[0]), int(stat.rsplit(")", 1)[1].split()[1])
        children.setdefault(parent, []).append(me)
    out, todo = [], [pid]
    while todo:
        p = todo.pop(0)
        out.append(p)
        todo += children.get(p, [])
    return out


def pids_of(procs):
    return [x for p in procs for x in descendants(p.pid)]


def run_on(argv, cpus, timeout_s, cwd=None):
    """Runs a command to its end. Returns (exit code, output, CPU in us)."""
    def before_exec():
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if cpus:
            os.sched_setaffinity(0, cpus)
    with tempfile.TemporaryFile() as out:
        p = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, cwd=cwd,
                             preexec_fn=before_exec)
        deadline = time.monotonic() + timeout_s
        while True:
            pid, status, usage = os.wait4(p.pid, os.WNOHANG)
            if pid:
                p.returncode = os.waitstatus_to_exitcode(status)
                break
            if time.monotonic() > deadline:
                os.kill(p.pid, signal.SIGKILL)
            time.sleep(0.01)
        out.seek(0)
        return p.returncode, out.read().decode("utf8", "replace"), (usage.ru_utime + usage.ru_stime) * 1e6


# ---------------------------------------------------------------- CPU and memory

def cpu_of(pids):
    """CPU in us of the processes with all their threads. `total` counts nanoseconds (schedstat), `user` and `sys`
    come in ticks of 10 ms; where the kernel keeps no schedstat, `total` is their sum."""
    total = user = system = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat") as f:
                fields = f.read().rsplit(")", 1)[1].split()
            user += int(fields[11]) * 1e6 / TICKS_PER_SECOND
            system += int(fields[12]) * 1e6 / TICKS_PER_SECOND
            total += sum(threads_of(pid).values())
        except OSError:
            pass  # It ended between two reads.
    return {"total": total or user + system, "user": user, "sys": system}


def threads_of(pid):
    """CPU in us by thread."""
    out = {}
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{thread}/schedstat") as f:
                out[thread] = int(f.read().split()[0]) / 1e3
        except OSError:
            pass
    return out


def machine_cpu():
    """CPU in us that the machine used, and that its host took away, since boot."""
    with open("/proc/stat") as f:
        v = [int(x) for x in f.readline().split()[1:]]
    return {"busy": (v[0] + v[1] + v[2] + v[5] + v[6]) * 1e6 / TICKS_PER_SECOND, "steal": v[7] * 1e6 / TICKS_PER_SECOND}


def memory_kib(pids, field):
    """`VmRSS` (now) or `VmHWM` (peak) of the processes. Socket buffers are the kernel's and not in it."""
    kib = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/status") as f:
                kib += sum(int(line.split()[1]) for line in f if line.startswith(field + ":"))
        except OSError:
            pass
    return kib


def reset_peak(pids):
    """Makes `VmHWM` start again from the memory of now (proc(5), clear_refs, 5)."""
    for pid in pids:
        try:
            with open(f"/proc/{pid}/clear_refs", "w") as f:
                f.write("5")
        except OSError:
            pass


def open_files(pids):
    count = 0
    for pid in pids:
        try:
            count += len(os.listdir(f"/proc/{pid}/fd"))
        except OSError:
            pass
    return count


def wait_quiet(pids, least_s=0, deadline_s=20):
    """Waits until the processes use under 1 % of a core and their memory stays the same for half a second twice, and
    `least_s` at the least: what gives memory back by a timer shall have had its chance."""
    start, still = time.monotonic(), 0
    while time.monotonic() < start + deadline_s and (still < 2 or time.monotonic() < start + least_s):
        cpu, kib = cpu_of(pids)["total"], memory_kib(pids, "VmRSS")
        time.sleep(0.5)
        quiet = cpu_of(pids)["total"] - cpu < 5000 and memory_kib(pids, "VmRSS") == kib
        still = still + 1 if quiet else 0
    return still >= 2


def wait_traced(tool, tracer, pids, deadline_s=5):
    """Waits until strace holds the processes. perf leaves no trace of being ready: it gets a moment, which at worst
    leaves out the first requests."""
    deadline = time.monotonic() + deadline_s
    while tracer.poll() is None and time.monotonic() < deadline:
        time.sleep(0.3)
        if tool == "perf":
            return tracer.poll() is None
        held = []
        for pid in pids:
            with open(f"/proc/{pid}/status") as f:
                held.append("TracerPid:\t0\n" not in f.read())
        if all(held):
            return True
    return False


def describe():
    with open("/proc/cpuinfo") as f:
        text = f.read()
    with open("/proc/meminfo") as f:
        gib = int(f.readline().split()[1]) / 1024 / 1024
    model = next((x.split(":", 1)[1].strip() for x in text.splitlines() if x.startswith("model name")), "unknown CPU")
    kind = "virtual machine" if "hypervisor" in text else "no hypervisor"
    return f"{os.cpu_count()} × {model} ({kind}), {gib:.0f} GiB, Linux {os.uname().release.split('-')[0]}"


# ---------------------------------------------------------------- RESP

def encode(*args):
    parts = [b"*%d\r\n" % len(args)]
    for a in args:
        a = a if isinstance(a, bytes) else str(a).encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(a), a))
    return b"".join(parts)


class Client:
    """A small blocking client: enough to fill a store and to check a proxy, not to load one."""

    def __init__(self, port, timeout_s=10):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.reader.close()
        self.socket.close()

    def send(self, raw):
        self.socket.sendall(raw)

    def command(self, *args):
        self.send(encode(*args))
        return self.read()

    def read(self):
        line = self.reader.readline()
        if not line:
            raise ConnectionError("closed by the other side")
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise RuntimeError(rest.decode("utf8", "replace"))
        if kind == b"$":
            return None if int(rest) < 0 else self.reader.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self.read() for _ in range(max(0, int(rest)))]
        if kind not in (b"+", b":"):
            raise RuntimeError(f"not RESP: {line[:60]!r}")
        return rest


def listens(pids, port):
    """Whether one of these processes holds the listening socket: another user of the machine may have the port."""
    inodes = set()
    with open("/proc/net/tcp") as f:
        for line in f.read().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].split(":")[1], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    for pid in pids:
        for path in glob.glob(f"/proc/{pid}/fd/*"):
            try:
                if os.readlink(path) in inodes:
                    return True
            except OSError:
                pass
    return False


def wait_ready(port, procs, probes=(("PING",),), deadline_s=15):
    """Waits until our own processes listen on the port and answer every probe."""
    deadline, cause = time.monotonic() + deadline_s, "nobody of ours listens"
    while time.monotonic() < deadline:
        if any(p.poll() is not None for p in procs):
            raise RuntimeError("it ended at start")
        if listens(pids_of(procs), port):
            try:
                with Client(port, 2) as client:
                    for probe in probes:
                        client.command(*probe)
                return
            except (OSError, RuntimeError, ValueError) as e:
                cause = e
        time.sleep(0.05)
    raise RuntimeError(f"not ready after {deadline_s} s: {cause}")
