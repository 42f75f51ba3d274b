"""The agent's end of a lazy restore: starts the keeper of its server and hears from it."""

from __future__ import annotations

import contextlib
import json
import selectors
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from migrate.errors import AgentFailed, MemoryLost, RestoreFailed

# Bytes of memory from which on a restore is lazy: below, reading it all takes less than the server.
LAZY_FROM = 64 << 20
READY_TIMEOUT = 20.0
END_TIMEOUT = 5.0


def restore_lazily(wanted: str, memory: int) -> bool:
    """Whether memory is to be filled in after the restore. `wanted`: `auto`, `eager` or `lazy`;
    `memory`: bytes."""
    return wanted == "lazy" or (wanted == "auto" and memory >= LAZY_FROM)


class LazyPages:
    """One server of lazy pages. `close` without `commit` ends it."""

    def __init__(self, directory: Path, work: Path) -> None:
        """Start the keeper, which waits: that takes 60 ms, which the freeze can do without.
        `directory`: what PageStore.lazy_directory will have made; `work`: the work directory of
        the restore, in which the server's socket will be."""
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-m", "migrate.lazy_keeper", str(directory), str(work)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=True,
        )  # fmt: skip
        self._heard = b""

    def serve(self) -> None:
        """The directory is there: start the server, and wait until a restore may begin. Raises
        RestoreFailed with the reason when it cannot."""
        self._say(do="serve")
        self._expect("ready", READY_TIMEOUT)

    def commit(self, pid: int) -> None:
        """The restored init `pid` is about to run; from now on the server goes on by itself.

        Raises RestoreFailed when there is none any more: the container must not run then.
        """
        self._say(do="commit", pid=pid)
        self._expect("committed", READY_TIMEOUT)

    def _say(self, **word: Any) -> None:
        assert self._process.stdin
        with contextlib.suppress(OSError):  # what it said before it ended is waiting
            self._process.stdin.write(json.dumps(word).encode() + b"\n")

    def _expect(self, event: str, timeout: float) -> None:
        heard = self._wait(event, timeout)
        if heard["event"] != event:
            raise RestoreFailed(_reason(heard))

    def filled(self, timeout: float) -> float:
        """Wait, after `commit`, until all memory is in its place; gives the seconds since then.

        Raises MemoryLost when it never will be (the container has ended then), AgentFailed when
        that is not known in time: the container runs on.
        """
        try:
            heard = self._wait("filled", timeout)
        except RestoreFailed as unknown:
            raise AgentFailed(
                unknown.message,
                "the container runs at the destination, and its memory may still be filled in "
                "there (criu lazy-pages)",
            ) from None
        if heard["event"] != "filled":
            raise MemoryLost(_reason(heard))
        return float(heard["seconds"])

    def _wait(self, event: str, timeout: float) -> dict[str, Any]:
        """What is heard next. Raises RestoreFailed when nothing is, or nothing will be."""
        assert self._process.stdout
        deadline = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._heard:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    late = f"the lazy pages did not come to `{event}` within {timeout:.0f} s"
                    raise RestoreFailed(late)
                piece = self._process.stdout.read(4096)
                if not piece:
                    raise RestoreFailed("the lazy pages' keeper has ended")
                self._heard += piece
        line, _, self._heard = self._heard.partition(b"\n")
        heard: dict[str, Any] = json.loads(line)
        return heard

    def close(self) -> None:
        """Let go of it: before `commit` it ends the server, after that it goes on by itself."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_TIMEOUT if self._process.poll() is None else 0)


def _reason(heard: dict[str, Any]) -> str:
    return str(heard.get("reason", f"the lazy pages said {heard}"))
