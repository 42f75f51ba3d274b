"""Whose turn it is: of the migrations of a host, one at a time freezes its container.

Containers that stand still at the same time do so longer, since they share processors and link. Who
waits for its turn waits running. One that does not come within PATIENCE is done without: the turn
is for speed, and nothing depends on it.
"""

from __future__ import annotations

import fcntl
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

PLACE = Path("/run/migrate/freeze-turn.lock")
PATIENCE = 30.0  # seconds; most stand still for less than one
PAUSE = 0.02  # seconds between two looks, about


class Slot:
    """The turn of this host. A record lock: it ends with the process, and children that are forked
    do not have it (fcntl(2)). One object of a process at a time."""

    def __init__(self, place: Path = PLACE) -> None:
        self._place = place
        self._fd = -1

    def take(self) -> bool:
        """Whether it is ours now; without waiting. A host where it cannot be told gives it."""
        if self._fd >= 0:
            return True
        try:
            fd = os.open(self._place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:  # a full disk, as a rule
            return True
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            return False
        self._fd = fd
        return True

    def leave(self) -> None:
        """The next one may come."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Turn:
    """The turn of a migration: on its source, and by `ask` on its destination, which gives it back
    by itself, after commit or failure."""

    def __init__(self, ask: Callable[[], bool], slot: Slot) -> None:
        """`ask`: whether the destination's is ours."""
        self._ask = ask
        self._slot = slot

    def wait(self, meanwhile: Callable[[], object], patience: float = PATIENCE) -> float:
        """Until both are ours, or for `patience` seconds; gives the seconds that this took.

        `meanwhile` is called between two looks, and raises when the wait is to end. Nobody holds
        one while waiting for the other: two hosts may be each other's destination. Nor do they fall
        into step then, each asking while the other holds: the pause is as long as the question was,
        or not, by chance.
        """
        began = looked = time.monotonic()
        while not (self._slot.take() and self._ask()):
            asked = time.monotonic() - looked
            self._slot.leave()
            if time.monotonic() - began >= patience:
                break
            meanwhile()
            time.sleep(random.uniform(0, 2 * (PAUSE + asked)))
            looked = time.monotonic()
        return time.monotonic() - began

    def end(self) -> None:
        self._slot.leave()
