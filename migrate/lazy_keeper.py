"""Keeps the server of lazy pages of one restored container: started by the destination's agent,
and outliving it once the container runs.

`criu lazy-pages` fills in the memory while the container executes already. When it dies before its
time, its userfaultfds are closed, and the kernel from then on gives the tasks *zeros* for pages
that are still missing (fs/userfaultfd.c: userfaultfd_release). A program that reads zeros dies of
them, or worse, goes on. So the server is held on its way out, its descriptors still open, until the
container is dead (migrate/held_exit.py). (To hold duplicates of the descriptors would make the
tasks wait as well. But CRIU counts on its `close` to end the duty of a userfaultfd: with duplicates
it spins on descriptors that it has forgotten, and a task that forks waits for ever. Seen.)

Words, one JSON object per line. From here: ready, committed, filled{seconds}, failed{reason}; to
here, on stdin: serve (start the server), then commit{pid} (of the restored init, which may only run
once `committed` is said). An end of stdin before that ends the server, and nothing else.
"""

from __future__ import annotations

import contextlib
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
from migrate.held_exit import HeldExit

LOG = "lazy-pages.log"
OOM_SCORE = "-1000"  # proc_pid_oom_score_adj(5): the container's memory hangs on this process
TICK = 0.2  # seconds that a container may take to end when its memory has gone already
DEATH = 5.0  # seconds for a killed container to end, unless it is frozen: then it dies when thawed


def server_argv(directory: str, work: str, status_fd: int) -> list[str]:
    """The call of the server. Not with `--auto-dedup`, which would give memory back early: CRIU
    then takes a page out of the file before it is in its place, and when the kernel says "again",
    as it does while a task forks, reads zeros the next time (criu/pagemap.c: read_local_page).
    Seen."""
    return [
        "criu", "lazy-pages", "--images-dir", directory, "--work-dir", work, "--log-file", LOG,
        "-v2", "--status-fd", str(status_fd),
    ]  # fmt: skip


class Keeper:
    """One server. `run` gives the exit code."""

    def __init__(self, directory: str, work: str) -> None:
        self.directory = directory
        self.work = work
        # The session's tmpfs has no path any more once the container runs.
        self.work_fd = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.selector = selectors.DefaultSelector()
        self.init: int | None = None  # a pidfd
        self.committed = False
        self.over = False  # the container ended by itself: its memory is needed no more
        self.began = 0.0

    def tell(self, event: str, **facts: Any) -> None:
        with contextlib.suppress(OSError):  # an agent that is gone
            os.write(1, json.dumps({"event": event, **facts}).encode() + b"\n")

    def run(self) -> int:
        if not os.read(0, 4096):  # `serve`; nothing else is said before `ready`
            return 0
        status, theirs = os.pipe()
        os.set_inheritable(theirs, True)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)  # the server inherits it
        self._watch(_signals_of_children(), "server")
        server = subprocess.Popen(
            server_argv(self.directory, self.work, theirs), pass_fds=[theirs],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        held = HeldExit(server)
        os.close(theirs)
        self._watch(status, "status")
        self._watch(0, "agent")
        # One that has done all before the commit has nothing to say yet.
        while (code := held.look()) is None or (code == 0 and self._undecided()):
            self._serve(held)
        try:
            return self._end(code, held.held)
        finally:
            held.let_go()

    def _watch(self, fd: int, what: str) -> None:
        self.selector.register(fd, selectors.EVENT_READ, what)

    def _undecided(self) -> bool:
        """Whether it may still be that the container is going to run."""
        return not self.committed and 0 in self.selector.get_map()

    def _serve(self, server: HeldExit) -> None:
        """Wait for what comes next, and do what it takes."""
        found = {key.data: key.fd for key, _ in self.selector.select()}
        if "status" in found:
            if os.read(found["status"], 1):
                self.tell("ready")
            self.selector.unregister(found["status"])
            os.close(found["status"])
        if "agent" in found:
            said = os.read(0, 4096)
            for line in said.splitlines():
                self._hear(json.loads(line))
            if not said:
                self.selector.unregister(0)
                if not self.committed:
                    server.kill()
        if "server" in found:
            os.read(found["server"], 4096)
        elif "init" in found or self.over:
            # The init of a pid namespace ends as its last one: nobody is there to be served.
            self.over = True
            server.kill()

    def _hear(self, word: dict[str, Any]) -> None:
        if word["do"] == "commit":
            self.committed = True
            self.began = time.monotonic()
            try:
                self.init = os.pidfd_open(int(word["pid"]))
            except ProcessLookupError:
                self.over = True
            else:
                self._watch(self.init, "init")
            self.tell("committed")

    def _end(self, code: int, held: bool) -> int:
        """The server has come to its end; `held`: its descriptors are still open."""
        if code == 0 or self.over or (held and self._container_ends(TICK)):
            seconds = time.monotonic() - self.began if self.committed else 0.0
            self.tell("filled", seconds=seconds)
            return 0
        reason = self.reason(code)
        if self.init is not None:
            # Its death takes the other tasks of its pid namespace along; `docker ps` shows it.
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.init, signal.SIGKILL)
            self._container_ends(DEATH)
            reason += "; the container was killed, since it could never have all of its memory"
        self.tell("failed", reason=reason)
        return 1

    def _container_ends(self, seconds: float) -> bool:
        if self.init is None:
            return False
        with selectors.DefaultSelector() as selector:  # a pidfd is readable when it has ended
            selector.register(self.init, selectors.EVENT_READ)
            return bool(selector.select(seconds))

    def reason(self, code: int) -> str:
        said = ""
        with contextlib.suppress(OSError):
            log = os.open(LOG, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self.work_fd)
            with open(log, errors="replace") as file:
                said = criu_reason(file.read())
        return f"the server of lazy pages ended ({code}){': ' if said else ''}{said}"


def _signals_of_children() -> int:
    """A descriptor that can be read when a child has ended or stopped."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return read


if __name__ == "__main__":
    sys.exit(Keeper(sys.argv[1], sys.argv[2]).run())
