"""migrate.journal: what is on disk is what was noted, whatever happens while it is noted."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import tempfile
import time
from io import FileIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from migrate import journal as journal_module
from migrate.announce import Station
from migrate.errors import Busy
from migrate.frontend_record import Lead
from migrate.journal import Header, Journal, find, read_all, restarts
from migrate.same_l2 import Address
from migrate.undo import (
    EndDump,
    EndForwardAt,
    EndPending,
    LeadAway,
    RemoveContainer,
    RemoveForward,
    RemoveImage,
    RemoveNetwork,
    RemoveTree,
    RemoveUnborn,
    RemoveVolume,
    RenameBack,
    RestoreCpuLimit,
    RestoreRestartPolicy,
    StayHere,
    Step,
    SwitchFrontendBack,
    Thaw,
    UnlockNetwork,
    Unmount,
)

STEPS: tuple[Step, ...] = (
    Thaw("/sys/fs/cgroup/freezer/x"),
    UnlockNetwork(17, 4711),
    RemoveTree("/a b\n"),
    Unmount("/run/migrate/sessions/x"),
    RemoveContainer("c" * 64),
    RemoveUnborn("app", 12.5),
    RemoveImage(("sha256:1", "sha256:2")),
    RenameBack("d" * 64, "app"),
    RemoveNetwork("näme"),
    RemoveVolume("data"),
    EndPending("/run/migrate/pending/x"),
    RestoreRestartPolicy("c" * 64, {"Name": "on-failure", "MaximumRetryCount": 3}),
    EndDump(18, 4712),
    RestoreCpuLimit("/sys/fs/cgroup/x/cpu.max", "max 100000"),
    RemoveForward("0123456789abcdef"),
    LeadAway("0123456789abcdef"),
    EndForwardAt("hosta", "0123456789abcdef"),
    SwitchFrontendBack("front", (Lead("game", ("10.0.0.1", 1), ("10.0.0.2", 2)),)),
    StayHere(77, 12, (Station("eth0", "02:00:00:00:00:01", Address("lan", "10.0.0.1", "")),)),
)


def header(session: str = "a" * 16, role: str = "source", container: str = "c" * 64) -> Header:
    return Header(session, role, container, "app", "hostb", 1.5, freezer="/f", keep=True)


def reopened(journal: Journal) -> Journal:
    """What another process would find after ours has died."""
    journal.close(finished=False)
    return Journal.reopen(journal.path)


class Undoing:
    """Stands for migrate.undo.undo: notes the steps, and fails for some."""

    def __init__(self) -> None:
        self.done: list[Step] = []
        self.refused: tuple[Step, ...] = ()

    def __call__(self, step: Step) -> None:
        if step in self.refused:
            raise RuntimeError("no")
        self.done.append(step)


@pytest.fixture
def undoing(monkeypatch: pytest.MonkeyPatch) -> Undoing:
    undoing = Undoing()
    monkeypatch.setattr(journal_module, "undo", undoing)
    return undoing


# -- what was noted is found again ----------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
def test_every_step_comes_back_as_it_was(tmp_path: Path, step: Step) -> None:
    journal = Journal.create(header(), tmp_path)
    journal.push(step)
    again = reopened(journal)
    assert again.steps == [step]
    assert again.header == header()


def test_all_steps_are_in_this_test() -> None:
    assert {type(step) for step in STEPS} == set(Step.__args__)


actions = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.sampled_from(STEPS)),
        st.tuples(st.just("drop"), st.integers(0, 8)),
        st.tuples(st.just("phase"), st.sampled_from(["prepare", "freeze", "owned"])),
        st.tuples(st.just("reopen"), st.none()),
        st.tuples(st.just("torn"), st.binary(min_size=1, max_size=40)),
    ),
    max_size=25,
)


@given(actions)
@example([("torn", b'\x80"')])  # not even text
def test_a_replay_gives_the_state_in_memory(taken: list[tuple[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        journal = Journal.create(header(), Path(directory))
        for name, value in taken:
            if name == "push":
                journal.push(value)
            elif name == "drop":
                journal.drop(value)
            elif name == "phase":
                journal.phase(value)
            else:
                before = (journal.steps, journal.phases)
                if name == "torn":  # what a crash leaves of a line: a part, without its end
                    with journal.path.open("ab") as file:
                        file.write(b'{"type":"' + value.replace(b"\n", b""))
                journal = reopened(journal)
                assert (journal.steps, journal.phases) == before
        before = (journal.steps, journal.phases)
        again = reopened(journal)
        assert (again.steps, again.phases) == before
        again.close(finished=True)


def test_a_number_is_never_given_twice(tmp_path: Path) -> None:
    journal = Journal.create(header(), tmp_path)
    journal.drop(journal.push(STEPS[0]))
    journal.push(STEPS[1])
    again = reopened(journal)
    number = again.push(STEPS[2])
    again.drop(number)
    assert reopened(again).steps == [STEPS[1]]


def test_a_journal_of_half_a_header_is_none(tmp_path: Path) -> None:
    path = find("a" * 16, "source", tmp_path)
    path.write_bytes(b'{"type":"head')
    with pytest.raises(FileNotFoundError):
        Journal.reopen(path)
    assert not path.exists()
    assert read_all(tmp_path) == []


def test_it_is_for_root_only(tmp_path: Path) -> None:
    journal = Journal.create(header(), tmp_path / "journal")
    assert journal.path.parent.stat().st_mode & 0o077 == 0


# -- what others count on -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("relies", "done"),
    [
        ((), [STEPS[0], RemoveImage(("a", "b")), RemoveNetwork("lan")]),
        (("network lan",), [STEPS[0], RemoveImage(("a", "b"))]),
        (("image a b", "network l"), [STEPS[0], RemoveNetwork("lan")]),
        (("network lan", "image a b"), [STEPS[0]]),
    ],
)
def test_what_another_migration_counts_on_stays(
    tmp_path: Path, undoing: Undoing, relies: tuple[str, ...], done: list[Step]
) -> None:
    journal = Journal.create(
        msgspec.structs.replace(header(), relies=("network lan", "image a b")), tmp_path
    )
    other = msgspec.structs.replace(header("b" * 16, container="d" * 64), relies=relies)
    Journal.create(other, tmp_path)
    for step in reversed((STEPS[0], RemoveImage(("a", "b")), RemoveNetwork("lan"))):
        journal.push(step)
    assert journal.rollback() == []
    assert undoing.done == done
    assert journal.steps == []


# -- who may have it ------------------------------------------------------------------------------


def test_one_container_one_migration(tmp_path: Path) -> None:
    Journal.create(header(), tmp_path)
    with pytest.raises(Busy, match="app"):
        Journal.create(header("b" * 16), tmp_path)
    Journal.create(header("c" * 16, role="destination"), tmp_path)
    Journal.create(header("d" * 16, container="e" * 64), tmp_path)


def _compete(directory: Path, session: str, start: float, won: Any) -> None:
    time.sleep(max(0.0, start - time.time()))
    try:
        journal = Journal.create(header(session), directory)
    except Busy:
        return
    won.put(session)
    journal.close(finished=False)


def test_of_many_that_begin_at_once_one_wins(tmp_path: Path, monkeypatch: Any) -> None:
    context = multiprocessing.get_context("fork")
    won = context.Queue()
    # Makes the moment between looking and writing long enough to meet in it.
    honest = read_all

    def slowly(directory: Path) -> list[Header]:
        headers = honest(directory)
        time.sleep(0.05)
        return headers

    monkeypatch.setattr(journal_module, "read_all", slowly)
    start = time.time() + 0.2
    crowd = [
        context.Process(target=_compete, args=(tmp_path, f"{number:016d}", start, won))
        for number in range(4)
    ]
    for process in crowd:
        process.start()
    for process in crowd:
        process.join(30)
        assert process.exitcode == 0
    assert len(read_all(tmp_path)) == 1
    assert won.get(timeout=5) == read_all(tmp_path)[0].session


def test_a_live_session_is_left_alone(tmp_path: Path) -> None:
    journal = Journal.create(header(), tmp_path)
    with pytest.raises(Busy, match="under way"):
        Journal.reopen(journal.path)
    journal.close(finished=False)
    Journal.reopen(journal.path).close(finished=True)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        Journal.reopen(journal.path)


def test_a_journal_that_is_finished_while_it_is_opened_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal.create(header(), tmp_path)
    journal.push(STEPS[0])
    honest = fcntl.flock

    def flock(file: Any, how: int) -> None:
        if journal.path.exists():
            journal.close(finished=True)
        honest(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(FileNotFoundError):
        Journal.reopen(journal.path)


# -- undoing --------------------------------------------------------------------------------------


def test_the_last_step_is_undone_first(tmp_path: Path, undoing: Undoing) -> None:
    journal = Journal.create(header(), tmp_path)
    for step in STEPS:
        journal.push(step)
    said: list[str] = []
    assert journal.rollback(said.append) == []
    assert undoing.done == list(reversed(STEPS))
    assert said == [type(step).__name__ for step in reversed(STEPS)]
    assert reopened(journal).steps == []


def test_a_step_that_fails_does_not_stop_the_others_and_stays(
    tmp_path: Path, undoing: Undoing
) -> None:
    journal = Journal.create(header(), tmp_path)
    for step in STEPS[:4]:
        journal.push(step)
    undoing.refused = (STEPS[2],)
    assert journal.rollback() == ["RemoveTree: no"]
    assert undoing.done == [STEPS[3], STEPS[1], STEPS[0]]
    again = reopened(journal)
    assert again.steps == [STEPS[2]]
    undoing.refused = ()
    assert again.rollback() == []
    assert again.rollback() == []
    assert undoing.done[3:] == [STEPS[2]]


def test_tidying_frees_memory_and_undoes_nothing_else(tmp_path: Path, undoing: Undoing) -> None:
    journal = Journal.create(header(), tmp_path)
    for step in STEPS:
        journal.push(step)
    journal.tidy()
    assert undoing.done == [Unmount("/run/migrate/sessions/x")]
    assert len(reopened(journal).steps) == len(STEPS) - 1


# -- a full disk ----------------------------------------------------------------------------------


class FullDisk:
    """Takes `room` more bytes of the file, then no more, as a full file system does."""

    def __init__(self, file: FileIO, room: int) -> None:
        self._file = file
        self.room = room

    def write(self, data: Any) -> int:
        if self.room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = self._file.write(bytes(data)[: self.room])
        self.room -= count or 0
        return count or 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def fill(journal: Journal, room: int) -> FullDisk:
    full = FullDisk(journal._file, room)
    journal._file = full  # type: ignore[assignment]
    return full


@pytest.mark.parametrize("room", [0, 1, 20])
def test_a_line_that_does_not_fit_leaves_no_trace(tmp_path: Path, room: int) -> None:
    journal = Journal.create(header(), tmp_path)
    journal.push(STEPS[0])
    full = fill(journal, room)
    with pytest.raises(OSError, match="No space"):
        journal.push(STEPS[1])
    full.room = 10_000
    journal.push(STEPS[3])
    assert STEPS[3] in reopened(journal).steps
    assert journal.path.read_bytes().count(b"\n") == 3


def test_a_full_disk_does_not_stop_the_rollback(tmp_path: Path, undoing: Undoing) -> None:
    journal = Journal.create(header(), tmp_path)
    for step in STEPS[:3]:
        journal.push(step)
    fill(journal, 0)
    assert journal.rollback() == []
    assert undoing.done == [STEPS[2], STEPS[1], STEPS[0]]


def test_a_journal_that_cannot_be_begun_does_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Journal, line: Any, sync: bool = True) -> None:
        raise OSError(errno.ENOSPC, "No space")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_write", full)
        with pytest.raises(OSError, match="No space"):
            Journal.create(header(), tmp_path)
    assert list(tmp_path.iterdir()) == []
    Journal.create(header(), tmp_path)


# -- restart policies -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "does"),
    [
        ({}, False),
        ({"Name": ""}, False),
        ({"Name": "no"}, False),
        ({"Name": "always"}, True),
        ({"Name": "unless-stopped"}, True),
        ({"Name": "on-failure", "MaximumRetryCount": 2}, True),
    ],
)
def test_which_policies_restart(policy: dict[str, Any], does: bool) -> None:
    assert restarts(policy) == does
