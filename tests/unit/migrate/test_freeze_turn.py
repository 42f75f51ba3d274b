"""migrate.freeze_turn: one at a time; it ends with its process; nobody waits for ever."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from migrate import freeze_turn
from migrate.errors import Interrupted
from migrate.freeze_turn import Slot, Turn

HOLD = """
import sys
from pathlib import Path
from migrate.freeze_turn import Slot
slot = Slot(Path(sys.argv[1]))
print(slot.take(), flush=True)
sys.stdin.read()
"""


@contextmanager
def another(place: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has asked for the turn; what it was told comes on its stdout."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(place)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield holder
    finally:
        holder.kill()
        holder.communicate()


def told(holder: subprocess.Popen[str]) -> bool:
    assert holder.stdout
    return holder.stdout.readline().strip() == "True"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "turn"


def test_one_at_a_time(place: Path) -> None:
    slot = Slot(place)
    assert slot.take()
    assert slot.take()  # asked once more
    with another(place) as other:
        assert not told(other)
    slot.leave()
    with another(place) as other:
        assert told(other)
        assert not slot.take()
    assert slot.take()  # killed: it is free
    slot.leave()
    slot.leave()


def test_children_that_are_forked_do_not_have_it(place: Path) -> None:
    slot = Slot(place)
    assert slot.take()
    hear, say = os.pipe()
    child = os.fork()
    if child == 0:  # as the scanners, and the keeper of the lazy server
        os.close(say)
        os.read(hear, 1)
        os._exit(0)
    try:
        slot.leave()
        with another(place) as other:
            assert told(other)
    finally:
        os.close(say)
        os.close(hear)
        os.waitpid(child, 0)


def test_where_there_is_no_room_for_a_lock_nobody_waits(tmp_path: Path) -> None:
    slot = Slot(tmp_path / "missing" / "turn")
    assert slot.take()
    slot.leave()


class Asked:
    """The destination: gives its turn at the `at`-th time."""

    def __init__(self, at: int, slot: Slot) -> None:
        self.at = at
        self.times = 0
        self._slot = slot

    def __call__(self) -> bool:
        assert self._slot._fd >= 0, "first here"
        self.times += 1
        return self.times >= self.at


def test_it_is_asked_for_on_both_hosts_and_given_back(place: Path) -> None:
    slot = Slot(place)
    asked = Asked(3, slot)
    freed: list[bool] = []

    def check() -> None:
        with another(place) as other:
            freed.append(told(other))

    turn = Turn(asked, slot)
    turn.wait(check)
    assert asked.times == 3
    assert freed == [True, True]  # nobody holds one while waiting for the other
    with another(place) as other:
        assert not told(other)
    turn.end()
    with another(place) as other:
        assert told(other)


def test_patience_ends(place: Path) -> None:
    slot = Slot(place)
    began = time.monotonic()
    with another(place) as other:
        assert told(other)
        waited = Turn(lambda: True, slot).wait(lambda: None, 0.1)
    assert 0.1 <= waited <= time.monotonic() - began
    assert slot.take(), "nothing is held that was not given"


def test_a_signal_ends_the_wait(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freeze_turn, "PAUSE", 0.0)

    def check() -> None:
        raise Interrupted("by SIGTERM", "")

    slot = Slot(place)
    with pytest.raises(Interrupted):
        Turn(lambda: False, slot).wait(check)
    with another(place) as other:
        assert told(other)


def test_two_that_ask_each_other_do_not_stay_in_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is the other's destination: who is asked while it holds its own refuses. The pauses must
    differ by more than the time for which it holds it, which is that of a question."""
    now = 0.0
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        nonlocal now
        now += seconds
        pauses.append(seconds)

    def asks() -> bool:
        nonlocal now
        now += 0.1
        return False

    clock: Any = SimpleNamespace(monotonic=lambda: now, sleep=pause)
    monkeypatch.setattr(freeze_turn, "time", clock)
    slot: Any = SimpleNamespace(take=lambda: True, leave=lambda: None)
    Turn(asks, slot).wait(lambda: None, 100.0)
    assert len(pauses) > 100
    assert max(pauses) - min(pauses) > 0.1
    assert sum(pauses) / len(pauses) < 0.2
