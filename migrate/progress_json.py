"""`--progress-json`: what a person would see, as JSON lines for a program (README, "Usage")."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from migrate.progress import Progress

EVERY = 0.25  # seconds between two lines about bytes


class JsonProgress(Progress):
    """Each line on stderr is an object with one of `phase`, `bytes`, `note` and `warning`."""

    def __init__(self, *, verbose: bool = False, out: TextIO | None = None) -> None:
        super().__init__(quiet=True, verbose=verbose, out=out)
        self._to = out or sys.stderr
        self._said = 0.0

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Progress]:
        self._say({"phase": name, "total": total})
        with super().phase(name, total):
            yield self

    def advance(self, amount: int) -> None:
        super().advance(amount)
        now = time.monotonic()
        if now - self._said >= EVERY:
            self._said = now
            self._say({"bytes": self._bytes})

    def reached(self, name: str) -> None:
        self._say({"phase": name, "total": None})

    def note(self, text: str) -> None:
        if self.verbose:
            self._say({"note": text})

    def warn(self, text: str) -> None:
        self._say({"warning": text})

    def _say(self, what: dict[str, Any]) -> None:
        with suppress(OSError):  # nobody listens any more: no reason to stop
            print(json.dumps(what), file=self._to, flush=True)
