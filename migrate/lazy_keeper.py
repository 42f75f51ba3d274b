"""Keeps the server of lazy pages of one restored container: started by the destination's agent,
and outliving it once the container runs.

`criu lazy-pages` fills in the memory while the container executes already. When it dies before its
time, its userfaultfds are closed, and the kernel from then on gives the tasks *zeros* for pages
that are still missing (fs/userfaultfd.c: userfaultfd_release). So the keeper holds duplicates of
them: a task that needs a page then waits instead, and the keeper kills the container.

Words, one JSON object per line. From here: ready, filled{seconds}, failed{reason}; to here, on
stdin: held{pid} (the restored init stands still; the server has all its descriptors), commit. An
end of stdin before `commit` ends the server, and nothing else.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from migrate.criu_log import criu_reason

LOG = "lazy-pages.log"
UFFD = "anon_inode:[userfaultfd]"
OOM_SCORE = "-1000"  # proc_pid_oom_score_adj(5): the container's memory hangs on this process
SYS_PIDFD_GETFD = 438  # of all architectures (asm-generic/unistd.h)
TICK = 0.2


def server_argv(directory: str, work: str, status_fd: int) -> list[str]:
    """The call of the server. `--auto-dedup`: what it has filled in is taken out of the files, so
    that memory is not needed twice (criu/pagemap.c: read_local_page, punch_hole)."""
    return [
        "criu", "lazy-pages", "--images-dir", directory, "--work-dir", work, "--log-file", LOG,
        "-v2", "--auto-dedup", "--status-fd", str(status_fd),
    ]  # fmt: skip


class Keeper:
    """One server. `run` gives the exit code."""

    def __init__(self, directory: str, work: str) -> None:
        self.directory = directory
        self.work = work
        self.uffds: list[int] = []
        self.init: int | None = None  # a pidfd
        self.committed = False
        self.began = 0.0

    def tell(self, event: str, **facts: Any) -> None:
        with contextlib.suppress(OSError):  # an agent that is gone
            print(json.dumps({"event": event, **facts}), flush=True)

    def run(self) -> int:
        status, theirs = os.pipe()
        os.set_inheritable(theirs, True)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)  # the server inherits it
        server = subprocess.Popen(
            server_argv(self.directory, self.work, theirs), pass_fds=[theirs],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs)
        if os.read(status, 1):
            self.tell("ready")
        os.close(status)
        ended = os.pidfd_open(server.pid)
        with selectors.DefaultSelector() as selector:
            selector.register(ended, selectors.EVENT_READ, "ended")
            selector.register(0, selectors.EVENT_READ, "agent")
            while self._serve(selector, server):
                pass
        return self._end(server.wait())

    def _serve(self, selector: selectors.BaseSelector, server: subprocess.Popen[bytes]) -> bool:
        """Wait for what comes next; False when the server has ended, or is to."""
        keys = {key.data for key, _ in selector.select()}
        if "agent" in keys:
            said = os.read(0, 4096)
            for line in said.splitlines():
                self._hear(json.loads(line), server.pid)
            if not said:
                selector.unregister(0)
                if not self.committed:
                    server.kill()
        return "ended" not in keys

    def _hear(self, word: dict[str, Any], server: int) -> None:
        if word["do"] == "held":
            self.init = os.pidfd_open(int(word["pid"]))
            self.uffds = duplicate(server, UFFD)
        elif word["do"] == "commit":
            self.committed = True
            self.began = time.monotonic()

    def _end(self, code: int) -> int:
        if code == 0 or self._container_ended():
            self.tell("filled", seconds=time.monotonic() - self.began)
            return 0
        reason = self.reason(code)
        if self.committed and self.init is not None:
            # Its death takes the other tasks of its pid namespace along; `docker ps` shows it.
            signal.pidfd_send_signal(self.init, signal.SIGKILL)
            reason += "; the container was killed, since it could never have all of its memory"
        self.tell("failed", reason=reason)
        return 1

    def _container_ended(self) -> bool:
        if self.init is None:
            return False
        with selectors.DefaultSelector() as selector:  # a pidfd is readable when it has ended
            selector.register(self.init, selectors.EVENT_READ)
            return bool(selector.select(TICK))

    def reason(self, code: int) -> str:
        try:
            said = criu_reason(Path(self.work, LOG).read_text(errors="replace"))
        except OSError:
            said = ""
        return f"the server of lazy pages ended ({code}){': ' if said else ''}{said}"


def duplicate(pid: int, kind: str) -> list[int]:
    """Duplicates of all descriptors of a process that are links to `kind` (pidfd_getfd(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(pid)
    found = []
    try:
        for entry in os.scandir(f"/proc/{pid}/fd"):
            if os.readlink(entry.path) == kind:
                fd = libc.syscall(SYS_PIDFD_GETFD, pidfd, int(entry.name), 0)
                if fd < 0:
                    raise OSError(ctypes.get_errno(), "pidfd_getfd")
                found.append(fd)
    finally:
        os.close(pidfd)
    return found


if __name__ == "__main__":
    sys.exit(Keeper(sys.argv[1], sys.argv[2]).run())
