"""migrate.runner: real processes that behave like `migrate`, well and badly."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from migrate.errors import NoSpace
from migrate.interrupts import SIGNALS
from migrate.plan import Move
from migrate.progress_many import Quiet
from migrate.runner import Runner, result_of
from migrate.schedule import FAILED, LEFT, MOVED, UNSURE, Job, Schedule

# Called as: move NAME HOST --json --progress-json. What it does is said by its name.
PROGRAM = textwrap.dedent(
    """
    import json, os, signal, sys, time
    name, log = sys.argv[2], sys.argv[-1]
    if not name:
        sys.exit(2)
    if name.startswith("slow"):
        def stop(*_):
            print(json.dumps({"error": "Interrupted", "message": "undone", "exit_code": 130}))
            sys.exit(130)
        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, lambda *_: os._exit(99))
    open(os.environ["LOG"], "a").write(name + "\\n")
    print(json.dumps({"phase": "freeze", "total": None}), file=sys.stderr, flush=True)
    print("a line of something else", file=sys.stderr, flush=True)
    if name.startswith("slow"):
        time.sleep(100)
    if name.startswith("lingers"):
        time.sleep(2)
    if name.startswith("killed"):
        os.kill(os.getpid(), 9)
    if name.startswith("fails"):
        print(json.dumps({"error": "PlacementFailed", "message": "no", "remedy": "do"}))
        sys.exit(42)
    if name.startswith("committed"):
        print(json.dumps({"phase": "confirm", "total": None}), file=sys.stderr, flush=True)
        print(json.dumps({"bytes": 5}), file=sys.stderr, flush=True)
        print(json.dumps({"error": "AgentFailed", "message": "it says nothing"}))
        sys.exit(53)
    if name.startswith("mute"):
        sys.exit(12)
    if name.startswith("huge"):
        sys.stdout.write(" " * 3_000_000 + "\\n")
    print(json.dumps({"container": name, "downtime": 0.25}))
    """
)


class Shown(Quiet):
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def event(self, job: Job, event: dict[str, Any]) -> None:
        self.events.append((job.name, event))


Start = Callable[..., Runner]


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """A run leaves them ignored."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    (tmp_path / "program.py").write_text(PROGRAM)

    def start(*names: str, parallel: int = 2, **more: Any) -> Runner:
        schedule = Schedule(
            [Move(name, "h", "") for name in names], parallel, lambda *_: [], lambda *_: None
        )
        lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
        fcntl.flock(lock, fcntl.LOCK_EX)
        values: dict[str, Any] = {
            "shown": Quiet(), "begins": lambda job: None, "ended": lambda job: None, "lock": lock,
            "program": (sys.executable, str(tmp_path / "program.py")),
        } | more  # fmt: skip
        return Runner(schedule, lambda job: ["move", job.name, job.move.host], **values)

    return start


def states(runner: Runner) -> dict[str, str]:
    return {job.name: job.state for job in runner._schedule.jobs.values()}


def test_each_is_run_and_its_words_are_heard(start: Start) -> None:
    shown = Shown()
    ended: list[Job] = []
    runner = start("a", "b", "huge", "fails", shown=shown, ended=ended.append)
    runner.run()
    assert states(runner) == {"a": MOVED, "b": MOVED, "huge": MOVED, "fails": FAILED}
    assert ("a", {"phase": "freeze", "total": None}) in shown.events
    result = runner._schedule.jobs["a"].result
    assert result
    assert result.summary == {"container": "a", "downtime": 0.25}
    failed = runner._schedule.jobs["fails"].result
    assert failed
    assert (failed.exit_code, failed.message, failed.remedy) == (42, "no", "do")
    assert sorted(job.name for job in ended) == ["a", "b", "fails", "huge"]


def test_one_without_json_is_quoted(start: Start) -> None:
    runner = start("mute")
    runner.run()
    result = runner._schedule.jobs["mute"].result
    assert result
    assert result.message == "a line of something else"


def test_a_killed_one_is_tried_again(start: Start, tmp_path: Path) -> None:
    runner = start("killed")
    began = time.monotonic()
    runner.run()
    assert time.monotonic() - began >= 2.0  # and not at once
    assert (tmp_path / "log").read_text().split() == ["killed", "killed"]
    assert states(runner) == {"killed": FAILED}


def test_what_cannot_be_recorded_does_not_begin(start: Start, tmp_path: Path) -> None:
    def begins(job: Job) -> None:
        raise NoSpace("the disk is full")

    runner = start("a", begins=begins)
    runner.run()
    assert states(runner) == {"a": FAILED}
    assert not (tmp_path / "log").exists()


def test_a_program_that_is_not_there(start: Start) -> None:
    runner = start("a", program=("/no/such/program",))
    runner.run()
    assert states(runner) == {"a": FAILED}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_passed_on_as_sigterm_and_nothing_more_begins(
    start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    runner = start("slow1", "slow2", "never")

    def when_both_run() -> None:
        log = tmp_path / "log"
        while not log.exists() or len(log.read_text().split()) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=when_both_run)
    thread.start()
    runner.run()
    thread.join()
    assert runner.interrupted == number.name
    assert states(runner) == {"slow1": LEFT, "slow2": LEFT, "never": LEFT}
    assert sorted((tmp_path / "log").read_text().split()) == ["slow1", "slow2"]


def test_they_hold_the_lock_and_sessions_of_their_own(start: Start, tmp_path: Path) -> None:
    seen: list[int] = []

    class Looks(Quiet):
        def event(self, job: Job, event: dict[str, Any]) -> None:
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            (child,) = map(int, children)
            assert os.getsid(child) == child
            seen.append(child)
            links = {os.readlink(path) for path in Path(f"/proc/{child}/fd").iterdir()}
            assert str(tmp_path / "lock") in links

    start("lingers", shown=Looks()).run()
    assert seen


@pytest.mark.parametrize(
    ("code", "out", "message"),
    [
        (-9, "", "ended by SIGKILL"), (70, "", "said"), (1, "[1]", "said"), (1, "{", "said"),
        (51, json.dumps({"message": "the link broke"}), "the link broke"),
    ],
)  # fmt: skip
def test_results(code: int, out: str, message: str) -> None:
    result = result_of(code, out, "said")
    assert result.exit_code == code
    assert message in result.message


def test_a_success_without_a_summary_is_one() -> None:
    assert result_of(0, "garbage", "").exit_code == 0


def test_the_phase_that_was_reached_is_known(start: Start) -> None:
    """After commit nothing is tried again: what the container was is not here any more."""
    runner = start("committed")
    runner.run()
    job = runner._schedule.jobs["committed"]
    assert (job.state, job.attempts) == (UNSURE, 1)
    assert job.result
    assert (job.result.exit_code, job.result.phase) == (53, "confirm")


def test_signals_are_ignored_afterwards(start: Start) -> None:
    """The end of a run is still to be told when its last migration has ended."""
    start("a").run()
    for number in SIGNALS:
        signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_IGN
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])
