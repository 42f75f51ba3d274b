"""What a person sees meanwhile: a tqdm bar per phase on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from tqdm import tqdm


class Progress:
    """Reports phases to stderr. `quiet`: nothing but warnings (for `--json`).

    A terminal that is gone, or a closed pipe, is no reason to stop: nothing here raises OSError.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False, out: TextIO | None = None):
        self._out = out or sys.stderr
        self._quiet = quiet
        self.verbose = verbose
        self._bar: Any = None
        self._bytes = 0

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Progress]:
        """One phase; `advance` within it counts bytes, of `total` if that is known."""
        began = time.monotonic()
        self._bytes = 0
        terminal = self._out.isatty() and not self._quiet
        if terminal:
            with suppress(OSError):
                self._bar = tqdm(
                    total=total or None, desc=f"{name:<10}", unit="B", unit_scale=True,
                    unit_divisor=1024, file=self._out, leave=True, dynamic_ncols=True,
                )  # fmt: skip
        try:
            yield self
        finally:
            bar, self._bar = self._bar, None
            if bar is not None:
                with suppress(OSError):
                    bar.close()
        if not terminal and not self._quiet:
            seconds = time.monotonic() - began
            self._line(f"{name}: {self._figures(seconds)}")

    def _figures(self, seconds: float) -> str:
        if not self._bytes:
            return f"{seconds:.2f} s"
        rate = self._bytes / seconds if seconds > 0 else 0.0
        return f"{human(self._bytes)} in {seconds:.2f} s ({human(rate)}/s)"

    def advance(self, amount: int) -> None:
        """More bytes of the current phase are done. From any thread; cheap."""
        self._bytes += amount
        if self._bar is not None:
            with suppress(OSError):
                self._bar.update(amount)

    def reached(self, name: str) -> None:
        """Within the current phase, something has come to the one of that name: for programs."""

    def note(self, text: str) -> None:
        """A line that only `-v` shows."""
        if self.verbose and not self._quiet:
            self._line(text)

    def say(self, text: str) -> None:
        """A line about what is going to be done."""
        if not self._quiet:
            self._line(text)

    def warn(self, text: str) -> None:
        self._line(f"warning: {text}")

    def _line(self, text: str) -> None:
        with suppress(OSError):
            if self._bar is not None:
                tqdm.write(text, file=self._out)
            else:
                print(text, file=self._out, flush=True)


def human(amount: float) -> str:
    """Bytes for a person: `831 B`, `1.4 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(amount) < 1024 or unit == "GiB":
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError
