"""Ctrl-C and SIGTERM: an orderly `Interrupted` before commit, deaf afterwards."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from migrate.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """While entered, a signal raises Interrupted in the main thread, until `hold`."""

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._held = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
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

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if not self._held:
            self._held = True  # one is enough: the undoing is not to be interrupted
            name = signal.Signals(number).name
            raise Interrupted(f"interrupted by {name}; the container runs on as before", "")
