"""The agent's side of a held restore: pending directory, `docker start`, the supervisor's words.

`docker start` is called before the freeze: it does what does not need the images (0.13 s of Docker
and containerd) and then waits in `migrate-runc create`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import queue
import shutil
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from migrate.docker_host import DockerHost
from migrate.errors import RestoreFailed
from migrate.restore_supervisor import DOOMED
from transport.errors import Failure

PENDING = Path("/run/migrate/pending")
HELD = 7 * 86400
"""Seconds that pre-copy may take: who dies meanwhile is noticed by the socket to it."""
DOCKER_S_REASON = 5.0  # seconds that it may come after the supervisor's


class HeldRestore:
    """One container whose `docker start` waits for its images."""

    def __init__(
        self, docker: DockerHost, container: str, images: Path, work: Path, options: Sequence[str],
        *, deaf: bool = False,
    ) -> None:  # fmt: skip
        """`deaf`: nothing may come in by its network before all of its sockets are there."""
        self._docker = docker
        self.container = container
        self.directory = PENDING / container
        self._images = images
        self._work = work
        self._options = tuple(options)
        self._deaf = deaf
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._heard: dict[str, dict[str, Any]] = {}  # while another event was waited for
        self.dockers: dict[str, str] = {}  # Docker's own files, by their path in the container
        self.times: dict[str, float] = {}  # when an event was heard, of time.monotonic
        self._listener: socket.socket | None = None
        self._supervisor: socket.socket | None = None
        self._threads: list[threading.Thread] = []

    def start(self, timeout: float) -> str:
        """Call `docker start` in the background, wait until it is held. Gives the merged rootfs.

        `timeout` in seconds. Raises RestoreFailed with dockerd's reason.
        """
        PENDING.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.directory.mkdir(mode=0o700)
        pending = {
            "images": str(self._images),
            "work": str(self._work),
            "criu_options": self._options,
            "deaf": self._deaf,
            "images_timeout": HELD,
        }
        (self.directory / "pending.json").write_text(json.dumps(pending))
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.directory / "agent.sock"))
        self._listener.listen(1)
        self._run(self._listen, "supervisor")
        self._run(self._call_start, "docker-start")
        created = self.wait("created", timeout)
        self.dockers = dict(created["dockers"])
        return str(created["rootfs"])

    def _run(self, target: Any, name: str) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _call_start(self) -> None:
        try:
            self._docker.start(self.container, HELD)
        except Failure as failure:
            self._events.put({"event": "failed", "reason": failure.message, "final": True})
        else:
            self._events.put({"event": "started"})

    def _listen(self) -> None:
        assert self._listener is not None
        try:
            self._supervisor, _ = self._listener.accept()
            with self._supervisor.makefile("r") as lines:
                for line in lines:
                    heard = json.loads(line)
                    self.times[heard["event"]] = time.monotonic()
                    self._events.put(heard)
        except (OSError, ValueError):
            pass
        self._events.put({"event": "gone"})

    def say(self, word: str) -> None:
        """Tell the supervisor one of its words (migrate/restore_supervisor.py)."""
        if self._supervisor is None:
            raise RestoreFailed("the restore's supervisor is gone")
        try:
            self._supervisor.sendall(json.dumps({"do": word}).encode() + b"\n")
        except OSError as problem:
            raise RestoreFailed(f"the restore's supervisor is gone: {problem.strerror}") from None

    def check(self) -> None:
        """Raise RestoreFailed when it has failed while nobody waited: as when dockerd has ended."""
        heard = []
        with contextlib.suppress(queue.Empty):
            while True:
                heard.append(self._events.get_nowait())
        for one in heard:
            self._events.put(one)
        if any(one["event"] in ("failed", "gone") for one in heard):
            self.wait("ready", DOCKER_S_REASON)

    def wait(self, event: str, timeout: float) -> dict[str, Any]:
        """Wait up to `timeout` seconds for an event; others that come meanwhile are kept.

        Two threads tell of them: on a busy host `docker start` may return before the supervisor's
        own word that it runs is heard.

        Raises RestoreFailed with the reason when the restore fails instead.
        """
        deadline = time.monotonic() + timeout
        late = f"the restore did not come to `{event}` within {timeout:.0f} s"
        while True:
            if event in self._heard:
                return self._heard.pop(event)
            try:
                heard = self._events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise RestoreFailed(late) from None
            if heard["event"] == event:
                return heard
            if heard["event"] == "failed":
                # Docker has told it to, as when it cannot publish a port: it says why itself.
                if heard["reason"] != DOOMED or heard.get("final"):
                    raise RestoreFailed(str(heard["reason"]))
                late, deadline = DOOMED, min(deadline, time.monotonic() + DOCKER_S_REASON)
            if heard["event"] == "gone" and event != "started":
                # dockerd's own reason says more, if it comes.
                deadline = min(deadline, time.monotonic() + DOCKER_S_REASON)
            self._heard[heard["event"]] = heard

    def close(self) -> None:
        """Let go of the supervisor; one that was not told `commit` gives up."""
        for end in (self._supervisor, self._listener):
            if end is not None:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
        self._supervisor = self._listener = None

    def forget(self) -> None:
        """Remove what is left of the pending directory after the container runs."""
        shutil.rmtree(self.directory, ignore_errors=True)


def supervisor_is_done(directory: Path) -> bool:
    """Whether no supervisor holds the gates of this pending directory any more."""
    try:
        with open(os.path.join(directory, "hold.start")) as hold:
            fcntl.flock(hold, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True
