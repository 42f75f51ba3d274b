"""A `criu` that is a server of lazy pages which does as it is told, and a container to serve."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# The last argument is that of --status-fd. Descriptor 9 stands for the userfaultfds.
SCRIPT = """#!/bin/sh
for fd; do :; done
echo "$@" > {home}/argv
exec 9> {home}/held
echo $$ > {home}/pid.new
mv {home}/pid.new {home}/pid
read -r code < {home}/ready
[ "$code" = ready ] || exit "$code"
eval "printf '\\0' >&$fd; exec $fd>&-"
read -r code < {home}/end
exit "$code"
"""
LATE = 20.0


def eventually(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + LATE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def is_over(pidfd: int, seconds: float = LATE) -> bool:
    """Whether a process ends within that time."""
    return bool(select.select([pidfd], [], [], seconds)[0])


class Server:
    """The server as a test sees it; below `home` the directories `lazy` and `work`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        for fifo in ("held", "ready", "end"):
            os.mkfifo(home / fifo)
        self.lazy, self.work = home / "lazy", home / "work"
        for directory in (self.lazy, self.work):
            directory.mkdir()
        self._held = os.open(home / "held", os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(self._held, True)

    @property
    def pid(self) -> int:
        path = self.home / "pid"
        eventually(path.exists, "the server does not start")
        return int(path.read_text())

    def pidfd(self) -> int:
        return os.pidfd_open(self.pid)

    def becomes(self, said: str) -> None:
        """`ready`, or the exit code that it ends with before that."""
        (self.home / "ready").write_text(f"{said}\n")

    def becomes_soon(self, said: str) -> None:
        """The same for a caller that then waits for it."""
        threading.Thread(target=self.becomes, args=(said,), daemon=True).start()

    def ends(self, code: int) -> None:
        (self.home / "end").write_text(f"{code}\n")

    def is_held(self) -> None:
        """Wait until it stands still at its end."""
        stat = Path(f"/proc/{self.pid}/stat")
        eventually(lambda: stat.read_text().rpartition(")")[2].split()[0] == "t", "it is not held")

    def is_killed(self) -> None:
        """Whatever a test that failed has left of it."""
        path = self.home / "pid"
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            pid = int(path.read_text())
            if str(self.home) in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(pid, signal.SIGKILL)
        os.close(self._held)

    def has_let_go(self, seconds: float = LATE) -> bool:
        """Whether its descriptors are closed within that time."""
        assert self.pid
        return bool(select.select([self._held], [], [], seconds)[0])


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    made = Server(tmp_path)
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "criu"
    program.write_text(SCRIPT.format(home=tmp_path))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    yield made
    made.is_killed()


@pytest.fixture
def init() -> Iterator[subprocess.Popen[bytes]]:
    """Stands for the first process of the container."""
    with subprocess.Popen(["sleep", "100"]) as process:
        yield process
        process.kill()
