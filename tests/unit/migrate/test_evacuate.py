"""migrate.evacuate, command_evacuate: how many, by which words, what is said."""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate import (
    candidates,
    command_evacuate,
    evacuate,
    host_setup,
    inventory,
    metrics,
    return_home,
)
from migrate.candidates import Wish
from migrate.cli import parser
from migrate.command_evacuate import run_of, show
from migrate.errors import BadPlan, DockerUnavailable, Interrupted, NoSpace, OtherRun
from migrate.evacuate import MOST, Settings, fitting_parallel, move_words, only_run
from migrate.evacuated import Record, Records
from migrate.journal import Header
from migrate.plan import Move, Plan, Planner
from migrate.progress_many import Quiet
from migrate.run_report import of_jobs, of_plan
from migrate.runner import Runner
from migrate.schedule import FAILED, GONE, LEFT, MOVED, UNSURE, Job, Result
from tests.unit.migrate.fleet import FACTS, MIB, candidate
from transport.bucket import LEAST, RateLimit


def job(name: str = "web", state: str = "running", result: Result | None = None) -> Job:
    return Job(Move(name, "b", "", after=("db",), project="p", size=5), state, result=result)


# -- how many -------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 500), max_size=9), st.none() | st.integers(0, 2000),
    st.none() | st.integers(LEAST, 100 << 20),
)  # fmt: skip
def test_as_many_as_there_is_room_for(
    images: list[int], free: int | None, limit: int | None
) -> None:
    candidates = [candidate(f"c{n}", images=size) for n, size in enumerate(images)]
    memory = None if free is None else free * MIB
    found = fitting_parallel(candidates, memory, RateLimit(limit) if limit else None)
    assert 1 <= found <= max(1, min(MOST, len(images)))
    if found > 1 and memory is not None:
        assert sum(sorted(images)[-found:]) * MIB <= memory // 2
    if found > 1 and limit:
        assert limit / found >= evacuate.PER_MIGRATION


# -- by which words -------------------------------------------------------------------------------


def given_of(words: list[str]) -> argparse.Namespace:
    return parser().parse_args([*words, "--json", "--progress-json"])


@pytest.mark.parametrize(("file", "shared"), [("", "/run/limit"), ("/run/mine", "/run/mine")])
def test_all_migrations_of_a_run_share_its_limit(file: str, shared: str) -> None:
    settings = Settings(bwlimit=RateLimit(1 << 20, file), tcp="close", words=("--max-freeze=5",))
    given = given_of(move_words(job(), settings, Path("/run/limit")))
    assert (given.command, given.container, given.host) == ("move", "web", "b")
    assert given.bwlimit == RateLimit(1 << 20, shared)
    assert (given.tcp, given.max_freeze) == ("close", 5.0)
    assert given_of(move_words(job(), Settings(), Path("/x"))).bwlimit is None


# -- the lock and the records ---------------------------------------------------------------------


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with only_run(tmp_path / "run") as lock:
        os.fstat(lock)
        with pytest.raises(OtherRun), only_run(tmp_path / "run"):
            raise AssertionError
    with only_run(tmp_path / "run"):
        pass


def test_the_lock_lasts_as_long_as_an_heir_has_it(tmp_path: Path) -> None:
    with only_run(tmp_path) as lock:
        heir = os.dup(lock)
    with pytest.raises(OtherRun), only_run(tmp_path):
        raise AssertionError
    os.close(heir)
    with only_run(tmp_path):
        pass


@pytest.mark.parametrize(
    ("state", "kept", "sure"),
    [
        (MOVED, True, True), ("waiting", True, False), (UNSURE, True, False),
        (FAILED, False, False), (GONE, False, False), (LEFT, False, False),
    ],
)  # fmt: skip
def test_the_record_is_true_after_each_try(
    tmp_path: Path, state: str, kept: bool, sure: bool
) -> None:
    records = Records(tmp_path)
    records.write(evacuate.record_of(job()))
    evacuate.note(records, job(state=state, result=Result(0, summary={"new_id": "new"})), {})
    found = records.all()
    assert bool(found) == kept
    if kept:
        (record,) = found
        assert (record.host, record.sure, record.after, record.size) == ("b", sure, ("db",), 5)
        assert record.new_id == ("new" if sure else "")


@pytest.mark.parametrize("state", [FAILED, GONE, LEFT])
def test_the_record_of_another_that_left_earlier_is_kept(tmp_path: Path, state: str) -> None:
    """A new container has the name of one that is at another host, and does not get away."""
    records, old = Records(tmp_path), Record("web", "z", 1.0, sure=True, new_id="old")
    records.write(evacuate.record_of(job()))
    evacuate.note(records, job(state=state, result=Result(42)), {"web": old})
    assert records.all() == [old]


@pytest.mark.parametrize("state", [FAILED, GONE, LEFT])
def test_what_may_have_left_stays_on_record(tmp_path: Path, state: str) -> None:
    """Its `migrate` was killed, perhaps at commit; the next one found only that it was busy."""
    records = Records(tmp_path)
    records.write(evacuate.record_of(job()))
    evacuate.note(records, replace(job(state=state), doubt="a `migrate` that was killed"), {})
    assert [one.host for one in records.all()] == ["b"]


def test_which_are_surely_still_here(monkeypatch: pytest.MonkeyPatch) -> None:
    class Asked:
        def containers(self) -> list[dict[str, Any]]:
            log.append("containers")
            return [{"Id": one, "State": state} for one, state in states.items()]

    def headers() -> list[Header]:
        log.append("journals")
        return [
            Header("5" * 16, "source", "leaving", "x", "b", 0.0),
            Header("6" * 16, "destination", "here", "y", "b", 0.0),
        ]

    log: list[str] = []
    states = {"here": "running", "leaving": "running", "ended": "exited", "paused": "paused"}
    monkeypatch.setattr(evacuate, "read_all", headers)
    asked: Any = Asked()
    assert evacuate.surely_here(asked) == {"here"}
    assert log == ["journals", "containers"]  # else a guard could end one in between

    def fails() -> None:
        raise DockerUnavailable("no")

    asked.containers = fails
    assert evacuate.surely_here(asked) == set()


def test_a_disk_that_becomes_read_only_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = Records(tmp_path)
    records.write(evacuate.record_of(job()))

    def unlink(path: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(NoSpace, match="Read-only"):
        records.drop("web")
    evacuate.note(records, job(state=FAILED, result=Result(42)), {})
    return_home.note(records, job(state=MOVED, result=Result(0)))


@pytest.mark.parametrize(
    ("code", "here", "kept"), [(51, True, []), (53, True, []), (53, False, ["web"])]
)
def test_a_failed_try_leaves_a_record_only_when_it_may_have_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, here: bool, kept: list[str]
) -> None:
    """It failed once, was to be tried again, and then the run was interrupted."""

    class Ended(Runner):
        def run(self) -> None:
            for one in self._schedule.ready(0.0):
                self._begins(one)
                self._schedule.ended(one.name, Result(code, "no"), 0.0)
                self._ended(one)
            self._schedule.stop("interrupted by SIGTERM")

    for name, value in (
        ("DockerHost", Docker), ("facts", lambda: FACTS), ("make_state_dirs", lambda: None),
        ("Runner", Ended), ("RUN", tmp_path),
        ("surely_here", lambda docker: {"id"} if here else set()),
    ):  # fmt: skip
        monkeypatch.setattr(evacuate, name, value)
    records = Records(tmp_path / "records")
    evacuation = evacuate.Evacuation(Wish(), Settings(parallel=1))
    evacuation._planner = Planner(FACTS, [], [])
    evacuation._ids = {"web": "id"}
    report = evacuation.run(Plan((Move("web", "b", ""),), ()), 0, Quiet(), records)
    assert [one.outcome for one in report.containers] == [LEFT]
    assert [record.name for record in records.all()] == kept


def test_an_evacuation_says_which_selector_matches_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("DockerHost", Docker), ("facts", lambda: FACTS)):
        monkeypatch.setattr(evacuate, name, value)
    words = ["evacuate", "b", "--name", "hree", "--dry-run"]
    note = "migrate: no running container matches --name hree\n"
    assert command_evacuate.evacuate(parser().parse_args([*words, "-v"])) == 81
    assert note in capsys.readouterr().err
    # From cron: a host that is empty already is nothing to mail about.
    assert command_evacuate.evacuate(parser().parse_args(words)) == 81
    assert capsys.readouterr() == ("", "")


class Docker:
    def containers(self) -> list[dict[str, Any]]:
        return [
            {"Id": "1", "Names": ["/here", "/x/link"], "State": "running"},
            {"Id": "2", "Names": ["/stopped"], "State": "exited"},
        ]


# -- nothing but looks ----------------------------------------------------------------------------


def forbidden(*_: object, **__: object) -> Any:
    raise AssertionError("this changes something")


def test_where_projects_went_before() -> None:
    records = [
        Record("db", "root@b", 1.0, project="shop"), Record("web", "c", 1.0, project="shop"),
        Record("x", "gone", 1.0, project="blog"), Record("y", "b", 1.0),
    ]  # fmt: skip
    assert evacuate.went_to(records, ["b:22", "c", "d"]) == {"shop": {"b:22", "c"}, "blog": set()}


def test_a_dry_evacuation_makes_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evacuate, "DockerHost", Docker)
    monkeypatch.setattr(evacuate, "facts", lambda: FACTS)
    monkeypatch.setattr(evacuate, "make_state_dirs", forbidden)
    monkeypatch.setattr(evacuate, "look_at", lambda *_: ([candidate("here")], []))
    monkeypatch.setattr(evacuate, "fitting_parallel", lambda *_: 1)
    monkeypatch.setattr(evacuate, "known_host_id", str)
    asked: list[Any] = []

    def ask(hosts: list[str], here: Any, own_id: Any, *_: Any) -> Any:
        asked.append(own_id)
        return [], []

    monkeypatch.setattr(inventory, "ask", ask)
    evacuate.Evacuation(Wish(), Settings(), dry=True).plan(["b"])
    assert asked == [""]
    with pytest.raises(AssertionError):
        evacuate.Evacuation(Wish(), Settings())


def test_an_id_that_is_only_looked_up_is_not_made(tmp_path: Path) -> None:
    places = host_setup.Places(state=tmp_path)
    assert host_setup.known_host_id(places) == ""
    assert list(tmp_path.iterdir()) == []
    assert host_setup.known_host_id(places) != host_setup.host_id(places)
    assert host_setup.known_host_id(places) == host_setup.host_id(places)


# -- what is said ---------------------------------------------------------------------------------


def said(capsys: pytest.CaptureFixture[str], words: list[str], *jobs: Job) -> tuple[str, str]:
    given = parser().parse_args(["evacuate", "b", *words])
    show(given, of_jobs("evacuate", Plan((), ()), jobs, 1.0))
    captured = capsys.readouterr()
    return captured.out, captured.err


GOOD = Result(0, summary={"downtime": 0.2, "total": 1.0, "sent": 10})


def test_success_says_nothing_to_cron(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, [], job(state=MOVED, result=GOOD)) == ("", "")
    assert said(capsys, []) == ("", "")


def test_failures_are_said_with_their_remedies(capsys: pytest.CaptureFixture[str]) -> None:
    bad = replace(job("db", FAILED), result=Result(42, "no", "free the port"), note="no room")
    out, err = said(capsys, [], job(state=MOVED, result=GOOD), bad)
    assert "1 of 2 moved" in out
    assert "no room" in out
    assert err == "db: free the port\n"


def test_notes_are_said_in_any_case(capsys: pytest.CaptureFixture[str]) -> None:
    report = of_plan("return", Plan((), (), notes=("odd",)))
    show(parser().parse_args(["return"]), report)
    assert capsys.readouterr() == ("", "migrate: odd\n")
    assert json.loads(report.to_json())["notes"] == ["odd"]


def test_more_is_said_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = said(capsys, ["-v"], job(state=MOVED, result=GOOD))
    assert "1 of 1 moved" in out
    assert said(capsys, ["-v"])[0] == "nothing to do\n"


def test_json_is_always_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(said(capsys, ["--json"])[0])["error"] == "NothingToDo"


def test_figures_for_the_metrics() -> None:
    jobs = [job(state=MOVED, result=GOOD), job("db", FAILED, Result(42))]
    run = run_of(of_jobs("evacuate", Plan((), ()), jobs, 1.0))
    assert (run.outcomes["moved"], run.outcomes["failed"], run.sent) == (1, 1, 10)
    assert (run.downtimes, run.success, run.exit_code) == ([0.2], False, 80)
    assert run_of(of_plan("return", Plan((), ()))).success  # nothing to do is a success


def test_metrics_that_cannot_be_written_do_not_hide_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evacuate", "b", "--metrics", str(tmp_path / "none" / "m.prom")]
    given = parser().parse_args(words)
    report = of_jobs("evacuate", Plan((), ()), [job(state=MOVED, result=GOOD)], 1.0)
    assert command_evacuate._finish(given, report, 0.0) == 1
    assert "metrics" in capsys.readouterr().err
    report = of_jobs("evacuate", Plan((), ()), [job(state=FAILED, result=Result(42))], 1.0)
    assert command_evacuate._finish(given, report, 0.0) == 80


@pytest.mark.parametrize("action", ["evacuate", "return"])
@pytest.mark.parametrize(
    ("why", "code"),
    [
        (OtherRun("another runs"), 83), (BadPlan("no host"), 82), (DockerUnavailable("no"), 33),
        (ZeroDivisionError("a bug"), 70), (KeyboardInterrupt(), 130),
    ],
)  # fmt: skip
def test_a_run_that_fails_as_a_whole_is_in_the_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str, why: BaseException, code: int
) -> None:
    path = tmp_path / "m.prom"
    good = of_jobs(action, Plan((), ()), [job(state=MOVED, result=GOOD)], 1.0)
    metrics.note(path, action, run_of(good))
    before = metrics.read(path, action)

    def fails() -> Any:
        raise why

    monkeypatch.setattr(command_evacuate, "only_run", fails)
    monkeypatch.setattr(command_evacuate, "DockerHost", fails)
    command = command_evacuate.evacuate if action == "evacuate" else command_evacuate.come_back
    words = [action, *["b"] * (action == "evacuate"), "--metrics", str(path)]
    said = Interrupted if isinstance(why, KeyboardInterrupt) else type(why)
    with pytest.raises(said):
        command(parser().parse_args(words))
    after = metrics.read(path, action)
    assert (after.exit_code, after.succeeded, before.succeeded) == (code, 0.0, 1.0)
    assert (after.success, after.outcomes) == (before.success, before.outcomes)
    assert after.run >= before.run
    path.unlink()
    monkeypatch.setattr(command_evacuate, "Evacuation", lambda *_, **__: fails())
    monkeypatch.setattr(command_evacuate, "Records", fails)
    with pytest.raises(said):
        command(parser().parse_args([*words, "--dry-run"]))
    assert not path.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("action", ["evacuate", "return"])
def test_a_run_that_is_ended_while_it_plans_is_in_the_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str, number: signal.Signals
) -> None:
    """Whatever it hits, nothing takes it for the failure of one container or host."""

    def kill(*_: object, **__: object) -> Any:
        signal.raise_signal(number)

    path, took = tmp_path / "m.prom", signal.getsignal(number)
    monkeypatch.setattr(command_evacuate, "only_run", lambda: evacuate.only_run(tmp_path))
    records = Records(tmp_path / "records")
    records.write(Record("here", "b", 1.0))
    monkeypatch.setattr(command_evacuate, "Records", lambda: records)
    for place, name, value in (
        (evacuate, "DockerHost", Docker), (evacuate, "facts", lambda: FACTS),
        (evacuate, "make_state_dirs", lambda: None), (candidates, "look", kill),
        (command_evacuate, "make_state_dirs", lambda: None), (return_home, "refuse_unfit", kill),
    ):  # fmt: skip
        monkeypatch.setattr(place, name, value)
    command = command_evacuate.evacuate if action == "evacuate" else command_evacuate.come_back
    words = [action, *["b"] * (action == "evacuate"), "--metrics", str(path)]
    with pytest.raises(Interrupted, match=f"by {number.name}; no container is on its way"):
        command(parser().parse_args(words))
    after = metrics.read(path, action)
    assert (after.exit_code, after.succeeded) == (130, 0.0)
    assert after.run > 0
    assert signal.getsignal(number) is took
    with evacuate.only_run(tmp_path):  # the lock is free
        pass


def test_a_signal_that_comes_while_the_end_is_said_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.prom"
    good = of_jobs("evacuate", Plan((), ()), [job(state=MOVED, result=GOOD)], 1.0)
    monkeypatch.setattr(command_evacuate, "_evacuate", lambda given: good)
    monkeypatch.setattr(
        command_evacuate, "show", lambda *_: signal.raise_signal(signal.SIGTERM)
    )  # fmt: skip
    assert command_evacuate.evacuate(parser().parse_args(
        ["evacuate", "b", "--metrics", str(path)]
    )) == 0  # fmt: skip
    assert metrics.read(path, "evacuate").succeeded == 1.0


@pytest.mark.parametrize(
    "words",
    [
        ["evacuate", "b", "--parallel", "0"], ["evacuate", "b", "--bwlimit", "fast"],
        ["return", "--parallel", "x"], ["fetch", "web"], ["source"],
    ],
)  # fmt: skip
def test_wrong_words_are_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(words)
    assert ended.value.code == 2
