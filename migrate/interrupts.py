"""Ctrl-C and SIGTERM: an orderly `Interrupted` before commit, deaf afterwards."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

from migrate.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def heeded() -> list[signal.Signals]:
    """Those of them that mean an end: SIGHUP does not for who was started by nohup(1)."""
    deaf = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in SIGNALS if not (deaf and number == signal.SIGHUP)]


class Interrupts:
    """While entered, a signal raises Interrupted in the main thread, until `hold`.

    At once at first; after `polite` only where somebody asks by `check`: an exception in the middle
    of a frame, or under a lock of paramiko's, would spoil the connection that the undoing needs.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._held = False
        self._polite = False
        self._name = ""

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in heeded():
                self._before[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def hold(self) -> None:
        """From here on nothing may stop half-way: signals are ignored."""
        self._held = True

    def noted(self) -> Interrupted | None:
        """The signal that has come and that nobody has heeded yet, unless it came too late."""
        return self._interrupted() if self._name and not self._held else None

    def polite(self) -> None:
        """From here on signals are only noted, for `check`."""
        self._polite = True

    def check(self) -> None:
        """Raise Interrupted when a signal has come, unless it came too late. From any thread."""
        if self._name and not self._held:
            raise self._interrupted()

    def _interrupted(self) -> Interrupted:
        return Interrupted(f"interrupted by {self._name}; the container runs on as before", "")

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if self._held:
            return
        self._name = signal.Signals(number).name
        if not self._polite:
            self._held = True  # one is enough: the undoing is not to be interrupted
            raise self._interrupted()


class Stops(Interrupts):
    """For the planning of a run, which goes on when one of many things fails: each signal raises
    KeyboardInterrupt with its name, which nothing there takes for such a failure. One that comes
    within a second after another is the same wish."""

    _raised = -1.0

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self._held and not 0 <= now - self._raised < 1:
            self._raised = now
            raise KeyboardInterrupt(signal.Signals(number).name)
