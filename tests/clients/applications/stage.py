"""What the programs for applications share. Each is told the proxy's port, does real work, says when half of it is done
and goes on when it is told to: a store may be gone by then."""

import os
import signal
import subprocess
import sys
import threading
import time

port = int(sys.argv[1])
#: How long one thing may take, on a busy machine.
PATIENCE = 30


def halfway():
    """Half of the work is done; the other half begins when the test has done what it wants to."""
    print("halfway", flush=True)
    assert sys.stdin.readline() == "go on\n", "the test is gone"


def eventually(what, condition, seconds=PATIENCE):
    """The first true value of the condition."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


class Worker:
    """Another process of the application. What it says is shown if the program fails."""

    def __init__(self, *arguments, **environment):
        self.said = []
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.ending = False
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        """Keeps what it says. A worker that ends by itself, or is refused something, ends the program: waiting for its work
        would only take longer."""
        for line in self.process.stdout:
            self.said.append(line)
            if "supported by quoit" in line or "refused by quoit" in line:
                self.give_up()
        if not self.ending:
            self.give_up()

    def give_up(self):
        sys.stderr.write("".join(self.said) + "the worker has ended, or cannot work\n")
        sys.stderr.flush()
        self.process.kill()
        os._exit(1)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        """Asks it to end, as a service manager does, and expects that it can."""
        self.ending = True
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            kind = kind or subprocess.TimeoutExpired
        self.reader.join(PATIENCE)
        if kind is not None:
            sys.stderr.write("".join(self.said))
        assert kind is not subprocess.TimeoutExpired, "the worker does not end"
