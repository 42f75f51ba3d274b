"""A real process whose memory can be changed from here, and read through /proc."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from migrate.address_spaces import Region
from migrate.page_batch import PAGE

CGROUP = ":"  # what every process is in: a part of each line of /proc/PID/cgroup

CODE = """
import ctypes, mmap, os, sys
PAGE = 4096
def at(m):
    return ctypes.addressof(ctypes.c_char.from_buffer(m))
def private(size, prot=3):
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=prot)
m = private(int(sys.argv[1]))
print(at(m), flush=True)
for line in sys.stdin:
    said = None
    exec(line)
    print(said, flush=True)
"""


class GuineaPig:
    """Private anonymous memory of `size` bytes is `m` there, at `address`."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._process = subprocess.Popen(
            [sys.executable, "-ISc", CODE, str(size)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.pid = self._process.pid
        self.address = int(self._hear())

    def __enter__(self) -> GuineaPig:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.kill()

    def _hear(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, "the guinea pig has died"
        return line.strip()

    def do(self, statement: str) -> str:
        """Let it execute one line of Python; gives what that leaves in `said`."""
        assert self._process.stdin
        self._process.stdin.write(statement + "\n")
        self._process.stdin.flush()
        return self._hear()

    def put(self, page: int, *content: bytes) -> None:
        """Write pages of `m`, each filled with what is given."""
        for i, each in enumerate(content, page):
            self.do(f"m[{i}*PAGE:{i + 1}*PAGE] = ({each!r} * PAGE)[:PAGE]")

    def region(self, number: int = 1) -> Region:
        """All of `m`."""
        return Region(number, self.pid, self.address, self.address + self.size, self.page, False)

    @property
    def page(self) -> int:
        """The number of the first page of `m`."""
        return self.address // PAGE

    def stop(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)
        for _ in range(2000):
            if Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                return
            time.sleep(0.005)
        raise AssertionError("it does not stop")

    def memory(self, page: int, count: int = 1) -> bytes:
        with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as file:
            file.seek(page * PAGE)
            data: bytes = file.read(count * PAGE)
            return data

    def kill(self) -> None:
        """End it; may be called again."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()


def container(top: Path, *pids: int) -> str:
    """A directory that looks like the freezer cgroup of these processes."""
    directory = top / CGROUP
    directory.mkdir(exist_ok=True)
    (directory / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
    return str(directory)
