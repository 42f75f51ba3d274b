"""Keeps the server of lazy pages of one restored container: started by the destination's agent,
and outliving it once the container runs.

`criu lazy-pages` fills in the memory while the container executes already. When it dies before its
time, its userfaultfds are closed, and the kernel from then on gives the tasks *zeros* for pages
that are still missing (fs/userfaultfd.c: userfaultfd_release). So the keeper kills the container at
once. (To hold duplicates of the descriptors would make the tasks wait instead. But CRIU counts on
its `close` to end the duty of a userfaultfd: with duplicates it spins on descriptors that it has
forgotten, and a task that forks waits for ever. Seen.)

Words, one JSON object per line. From here: ready, filled{seconds}, failed{reason}; to here, on
stdin: commit{pid} (of the restored init). An end of stdin before that ends the server, and nothing
else.
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

LOG = "lazy-pages.log"
OOM_SCORE = "-1000"  # proc_pid_oom_score_adj(5): the container's memory hangs on this process
TICK = 0.2


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
                self._hear(json.loads(line))
            if not said:
                selector.unregister(0)
                if not self.committed:
                    server.kill()
        return "ended" not in keys

    def _hear(self, word: dict[str, Any]) -> None:
        if word["do"] == "commit":
            self.init = os.pidfd_open(int(word["pid"]))
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


if __name__ == "__main__":
    sys.exit(Keeper(sys.argv[1], sys.argv[2]).run())
