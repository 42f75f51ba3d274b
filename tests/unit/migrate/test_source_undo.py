"""migrate.source_undo: what is said to be the cause of a failure."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from migrate.errors import (
    ContainerNotRunning,
    DumpFailed,
    Interrupted,
    NoSpace,
    PlacementFailed,
)
from migrate.move_options import Options
from migrate.progress import Progress
from migrate.source_undo import Undoing, has_ended
from migrate.undo import start_time
from transport.errors import ConnectionLost

FULL = OSError(errno.ENOSPC, "No space left on device")


def undoing(*, ended: bool, marks: tuple[str, ...] = ()) -> Undoing:
    made = Undoing(Options("app", "hostb"), Progress(quiet=True))
    pid = os.getpid()
    if ended:
        child = subprocess.Popen(["true"])
        child.wait()
        pid = child.pid
    made._init = (pid, start_time(pid) or 4711)
    frozen: Any = SimpleNamespace(marks=dict.fromkeys(marks, 1.0))
    made.frozen = frozen if marks else None
    return made


def reported() -> PlacementFailed:
    failure = PlacementFailed("no")
    failure.reported = True
    return failure


@pytest.mark.parametrize(
    ("state", "flags", "started", "ended"),
    [
        ("S", 0x400140, 99, False),
        ("Z", 0x400140, 99, True),  # its parent has not looked yet
        ("S", 0x400144, 99, True),  # an init that waits for the end of its namespace
        ("R", 0x400140, 100, True),  # another one has its number
    ],
)
def test_what_is_about_to_end_has_ended(
    tmp_path: Path, state: str, flags: int, started: int, ended: bool
) -> None:
    (tmp_path / "7").mkdir()
    line = f"7 (a) b) {state} 1 7 7 0 -1 {flags} " + "0 " * 12 + f"{started} 0 0\n"
    (tmp_path / "7/stat").write_text(line)
    assert has_ended(7, 99, tmp_path) is ended
    assert has_ended(8, 99, tmp_path)


def test_to_look_for_the_cause_never_stands_in_the_way_of_the_undo(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def breaks(*_: object) -> bool:
        raise UnicodeDecodeError("utf-8", b"", 0, 1, "whatever")

    monkeypatch.setattr("migrate.source_undo.has_ended", breaks)
    failure = DumpFailed("no")
    assert undoing(ended=False)._cause(failure) is failure


def test_this_process_has_not_ended_and_a_zombie_has() -> None:
    assert not has_ended(os.getpid(), start_time(os.getpid()) or 0)
    child = subprocess.Popen(["sleep", "60"])
    started = start_time(child.pid) or 0
    assert not has_ended(child.pid, started)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert start_time(child.pid) == started, "it is still there"
    assert has_ended(child.pid, started)
    child.wait()


@pytest.mark.parametrize(
    "failure", [DumpFailed("no"), FileNotFoundError("/proc/1/maps"), RuntimeError("what?"), FULL]
)
def test_a_container_that_has_ended_is_the_cause_of_what_follows(failure: Exception) -> None:
    cause = undoing(ended=True)._cause(failure)
    assert isinstance(cause, ContainerNotRunning)
    assert cause.exit_code == 11
    assert "`app`" in cause.message


@pytest.mark.parametrize(
    "failure",
    [Interrupted("stop"), ConnectionLost("gone"), reported(), KeyboardInterrupt(), SystemExit(1)],
)
@pytest.mark.parametrize("ended", [True, False])
def test_what_has_a_cause_of_its_own_keeps_it(failure: BaseException, ended: bool) -> None:
    assert undoing(ended=ended)._cause(failure) is failure


def test_after_commit_our_copy_may_be_gone() -> None:
    failure = DumpFailed("no")
    made = undoing(ended=True, marks=("freeze", "commit"))
    assert made._cause(failure) is failure


def test_a_full_disk_here_is_said() -> None:
    made = undoing(ended=False)
    cause = made._cause(FULL)
    assert isinstance(cause, NoSpace)
    assert "this host" in cause.message
    other = DumpFailed("no")
    assert made._cause(other) is other
    made._init = None  # before the container was looked at
    assert isinstance(made._cause(FULL), NoSpace)
