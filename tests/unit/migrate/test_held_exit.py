"""migrate.held_exit: a child stops on its way out, whatever ends it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from migrate.held_exit import HeldExit
from tests.unit.migrate.lazy_server import eventually

CHILD = """
import signal, sys
signal.signal(signal.SIGUSR1, lambda *_: print("heard", flush=True))
print("up", flush=True)
for line in sys.stdin:
    if line.startswith("end"):
        sys.exit(int(line[3:]))
    print(line, end="", flush=True)
"""


class Child:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.held = HeldExit(process)

    def says(self, seconds: float = 20.0) -> bytes:
        """A line that it prints; b"" when its end of the pipe is closed."""
        assert self.process.stdout
        deadline = time.monotonic() + seconds
        while not select.select([self.process.stdout], [], [], 0.01)[0]:
            self.held.look()  # passes its signals on
            assert time.monotonic() < deadline, "it says nothing"
        return self.process.stdout.readline()

    def hears(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def dies(self) -> int:
        eventually(lambda: self.held.look() is not None, "it does not end")
        code = self.held.look()
        assert code is not None
        return code


@contextmanager
def child() -> Iterator[Child]:
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout
    assert process.stdout.readline() == b"up\n"
    made = Child(process)
    yield made
    made.held.kill()
    made.dies()
    made.held.let_go()
    for end in (process.stdin, process.stdout):
        assert end
        end.close()


@pytest.mark.parametrize(
    ("end", "code"),
    [("end0", 0), ("end7", 7), (signal.SIGKILL, -9), (signal.SIGTERM, -15), (signal.SIGSEGV, -11)],
)
def test_its_files_are_open_until_it_may_go(end: str | signal.Signals, code: int) -> None:
    with child() as one:
        assert one.held.look() is None
        if isinstance(end, str):
            one.hears(end)
        else:
            os.kill(one.process.pid, end)
        assert one.dies() == code
        assert one.held.held
        with pytest.raises(AssertionError, match="it says nothing"):
            one.says(0.3)
        one.held.let_go()
        assert one.says() == b""
        assert one.process.returncode == code


def test_signals_come_through() -> None:
    with child() as one:
        os.kill(one.process.pid, signal.SIGUSR1)
        assert one.says() == b"heard\n"


def test_it_may_be_stopped_and_goes_on() -> None:
    with child() as one:
        os.kill(one.process.pid, signal.SIGSTOP)
        one.hears("hello")
        with pytest.raises(AssertionError, match="it says nothing"):
            one.says(0.3)
        os.kill(one.process.pid, signal.SIGCONT)
        assert one.says() == b"hello\n"
        assert one.held.look() is None


def test_one_that_was_dead_before() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    held = HeldExit(process)
    assert held.look() == 0
    assert not held.held
    held.kill()
    held.let_go()
    assert process.returncode == 0
