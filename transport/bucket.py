"""A limit on the bytes that leave per second, for one channel or for all that share a file.

All the state there is, is one moment: when what was let go would have left, at the rate. A process
that wants to send moves that moment on and waits for it, if it lies ahead. So the file of a shared
limit holds one number, whoever comes first is served first, and what one does not use the others
can.
"""

from __future__ import annotations

import fcntl
import math
import os
import re
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

BURST = 0.25  # seconds' worth of bytes that may leave at once after a silence
MAX_DEBT = 60.0  # seconds; also what a number left by an earlier boot can cost at most
LEAST = 16 << 10  # bytes per second: with less, one frame would take minutes
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_RATE = re.compile(r"(\d+(?:\.\d+)?)([KMG]?)(?:i?B)?(?:/s)?", re.IGNORECASE)
_STATE = struct.Struct("=d")


def reserve(free_at: float, now: float, size: int, rate: float) -> tuple[float, float]:
    """Let `size` bytes go: the new state, and how many seconds they have to wait from `now`.

    `free_at` is the old state, in seconds of the clock of `now`. In no span of time does more than
    `rate` per second go, and one burst (or one frame, if that is larger).
    """
    known = free_at if math.isfinite(free_at) else 0.0  # a file may hold anything
    start = min(max(known, now - BURST), now + MAX_DEBT)
    after = start + size / rate
    return after, max(0.0, after - now)


@dataclass(frozen=True)
class RateLimit:
    """`rate`: bytes per second; `file`: whoever names the same one shares it, "" shares nothing."""

    rate: float
    file: str = ""

    def __str__(self) -> str:
        """The text that `parse_limit` reads back into the same limit."""
        return f"{self.rate:.0f}" + (f"@{self.file}" if self.file else "")


def parse_limit(text: str) -> RateLimit:
    """Read `RATE[@FILE]`, such as `20M` or `1.5G@/run/limit`. Raises ValueError for all else."""
    rate, at, file = text.partition("@")
    found = _RATE.fullmatch(rate.strip())
    if not found or (at and not file.startswith("/")):
        raise ValueError(f"{text!r} is not RATE[@FILE], such as 20M")
    value = float(found[1]) * _UNITS[found[2].upper()]
    if value < LEAST:
        raise ValueError(f"{text!r} is less than {LEAST >> 10}K per second")
    return RateLimit(value, file)


class Bucket:
    """Keeps to a limit. `take` from any thread; raises OSError when the file cannot be used."""

    def __init__(self, limit: RateLimit, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = limit.rate
        self._clock = clock  # CLOCK_MONOTONIC is the same in all processes
        self._free_at = 0.0
        self._lock = threading.Lock()
        self._fd = -1
        if limit.file:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            Path(limit.file).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._fd = os.open(limit.file, flags, 0o600)

    def take(self, size: int) -> float:
        """Let `size` bytes go; gives the seconds that they have to wait."""
        with self._lock:
            if self._fd < 0:
                self._free_at, wait = reserve(self._free_at, self._clock(), size, self._rate)
                return wait
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            try:
                noted = os.pread(self._fd, _STATE.size, 0)
                free_at = _STATE.unpack(noted)[0] if len(noted) == _STATE.size else 0.0
                free_at, wait = reserve(free_at, self._clock(), size, self._rate)
                os.pwrite(self._fd, _STATE.pack(free_at), 0)
                return wait
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)
