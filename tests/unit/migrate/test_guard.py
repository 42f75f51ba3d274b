"""migrate.guard: a word, or the lack of it, through a pipe."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from migrate import fetch, forward_upkeep, guard, recover_remote
from migrate.errors import Busy, DockerUnavailable
from migrate.guard import DONE, Guard, main
from transport.errors import HostUnreachable

SESSION = "a" * 16


class Recovery:
    """Stands for both recoveries; fails with `failures` first."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.failures: list[Exception] = []
        self.untold: list[Exception | str] = []  # what comes of telling an anchor

    def __call__(self, *what: str) -> str:
        self.asked.append(what)
        if self.failures:
            raise self.failures.pop(0)
        return "done"

    def tell(self, session: str) -> str:
        what = self.untold.pop(0) if self.untold else ""
        if isinstance(what, Exception):
            raise what
        return what


Run = Callable[[str, bytes], int]


@pytest.fixture
def recovery(monkeypatch: pytest.MonkeyPatch) -> Recovery:
    recovery = Recovery()
    monkeypatch.setattr(
        fetch, "recover_destination", lambda session, patience: recovery(session, "destination")
    )
    monkeypatch.setattr(recover_remote, "recover_source", recovery)
    monkeypatch.setattr(forward_upkeep, "tell_late", recovery.tell)
    monkeypatch.setattr(guard, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(guard, "LAST_PAUSE", 0.001)
    return recovery


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the guard, with these bytes in its pipe before the end."""

    def run(role: str, said: bytes) -> int:
        read, write = os.pipe()
        os.write(write, said)
        os.close(write)
        monkeypatch.setattr("sys.argv", ["guard", SESSION, role])
        kept = os.dup(0)
        os.dup2(read, 0)
        os.close(read)
        try:
            return main()
        finally:
            os.dup2(kept, 0)
            os.close(kept)

    return run


def test_done_is_done(recovery: Recovery, run: Run) -> None:
    assert run("source", DONE) == 0
    assert recovery.asked == []


@pytest.mark.parametrize("said", [b"", b"don", b"doneX"])
def test_anything_else_is_a_death(recovery: Recovery, run: Run, said: bytes) -> None:
    assert run("destination", said) == 0
    assert recovery.asked == [(SESSION, "destination")]


def test_a_source_may_ask_the_destination(recovery: Recovery, run: Run) -> None:
    assert run("source", b"") == 0
    assert recovery.asked == [(SESSION,)]


def test_it_goes_on_trying(
    recovery: Recovery, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    recovery.failures = [Busy("lock"), DockerUnavailable("down"), DockerUnavailable("down")]
    assert run("destination", b"") == 0
    assert len(recovery.asked) == 4
    said = capsys.readouterr().out
    assert (said.count("down"), said.count("done")) == (1, 1)


def test_it_does_not_try_for_ever(
    recovery: Recovery, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "PATIENCE", -1.0)
    recovery.failures = [DockerUnavailable("down")] * 2
    assert run("destination", b"") == DockerUnavailable.exit_code
    assert len(recovery.asked) == 1


def test_nothing_to_do_is_fine(recovery: Recovery, run: Run) -> None:
    recovery.failures = [FileNotFoundError()]
    assert run("source", b"") == 0
    assert len(recovery.asked) == 1


@pytest.mark.parametrize("journal", [FileNotFoundError(), None])
def test_an_anchor_is_told_when_it_can_be(
    recovery: Recovery, run: Run, capsys: pytest.CaptureFixture[str], journal: Exception | None
) -> None:
    """Most often the migration itself was finished: there is no journal."""
    recovery.failures = [journal] if journal else []
    recovery.untold = [HostUnreachable("no route"), HostUnreachable("no route"), "hosta leads on"]
    assert run("source", b"") == 0
    said = capsys.readouterr().out
    assert (said.count("no route"), said.count("hosta leads on")) == (1, 1)


def test_a_real_one_is_dismissed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "LOG", tmp_path / "guard.log")
    it = Guard.start(SESSION, "destination")
    assert it._process.poll() is None
    it.dismiss()
    assert it._process.wait(20) == 0
    assert (tmp_path / "guard.log").read_text() == ""


def test_the_pipe_stays_with_the_process_that_is_guarded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "LOG", tmp_path / "guard.log")
    it = Guard.start(SESSION, "destination")
    assert not os.get_inheritable(it._pipe)
    it.dismiss()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(it._pipe)
