"""migrate.evacuate, return_home, command_evacuate: how many, by which words, what is said."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate import command_evacuate, evacuate, host_setup, inventory, metrics, return_home
from migrate.candidates import Wish
from migrate.cli import parser
from migrate.command_evacuate import run_of, show
from migrate.errors import BadPlan, DockerUnavailable, OtherRun
from migrate.evacuate import MOST, Settings, fitting_parallel, move_words, only_run
from migrate.evacuated import Record, Records
from migrate.plan import Move, Plan
from migrate.return_home import Homecoming
from migrate.run_report import of_jobs, of_plan
from migrate.schedule import FAILED, GONE, LEFT, MOVED, UNSURE, Job, Result
from tests.unit.migrate.fleet import FACTS, MIB, candidate
from transport.bucket import LEAST, RateLimit
from transport.errors import BadTarget, HostUnreachable


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


@pytest.mark.parametrize(
    ("containers", "limit", "expected"),
    [(0, None, 1), (2, None, 2), (9, None, MOST), (9, 8 << 20, 2), (9, 1 << 20, 1)],
)
def test_as_many_to_return(containers: int, limit: float | None, expected: int) -> None:
    found = return_home.fitting_parallel(containers, RateLimit(limit) if limit else None)
    assert found == expected


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


@pytest.mark.parametrize(("parallel", "share"), [(4, 1 << 18), (1000, LEAST)])
def test_those_that_return_have_their_parts(parallel: int, share: float) -> None:
    settings = Settings(bwlimit=RateLimit(1 << 20))
    given = given_of(return_home.fetch_words(job(), settings, parallel))
    assert (given.command, given.container, given.host) == ("fetch", "web", "b")
    assert given.bwlimit == RateLimit(share)


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
    evacuate.note(records, job(state=state, result=Result(0, summary={"new_id": "new"})))
    found = records.all()
    assert bool(found) == kept
    if kept:
        (record,) = found
        assert (record.host, record.sure, record.after, record.size) == ("b", sure, ("db",), 5)
        assert record.new_id == ("new" if sure else "")


@pytest.mark.parametrize(
    ("result", "here", "kept", "becomes"),
    [
        (Result(0), False, False, MOVED),
        (Result(10, "no", phase="fetch"), False, False, FAILED),  # removed there, or has moved on
        (Result(10, "no", phase="fetch"), True, False, GONE),  # came back by another way
        (Result(10, "no", phase="prepare"), False, True, FAILED),  # it was there, a moment ago
        (Result(11, "no", phase="fetch"), False, True, FAILED),  # it has ended there
        (Result(20, "no"), False, True, FAILED), (Result(20, "no"), True, True, FAILED),
        (Result(40, "the name is taken", phase="prepare"), True, True, FAILED),
        (Result(51, "no", phase="prepare"), False, True, FAILED),
        (Result(56, "no", phase="confirm"), False, True, UNSURE),
        (Result(60, "no"), False, True, UNSURE), (Result(130, "no"), False, True, LEFT),
    ],
)  # fmt: skip
def test_what_becomes_of_a_return_and_of_its_record(
    tmp_path: Path, result: Result, here: bool, kept: bool, becomes: str
) -> None:
    """Each is said; the record goes only when its host was reached and has no such container."""
    records = Records(tmp_path)
    records.write(Record("web", "b", 1.0, sure=True))
    schedule = Homecoming([Move("web", "b", "")], 1, {"web"} if here else set())
    now = 0.0
    while not schedule.over:
        for one in schedule.ready(now):
            schedule.ended(one.name, result, now)
            return_home.note(records, one)
        now += 5.0
    one = schedule.jobs["web"]
    assert bool(records.all()) == kept
    assert one.state == becomes
    report = of_jobs("return", Plan((), ()), [one], 1.0)
    assert report.exit_code == {MOVED: 0, GONE: 0}.get(becomes, 80)
    assert "no other host" not in one.note
    assert ("record" in one.note) == (result.phase == "fetch" and result.exit_code == 10)


def test_which_are_meant() -> None:
    records = [Record("a", "x", 1.0), Record("b", "y", 2.0), Record("c", "x", 3.0)]
    assert return_home.wanted(records, [], "") == records
    assert [r.name for r in return_home.wanted(records, [], "x")] == ["a", "c"]
    assert [r.name for r in return_home.wanted(records, ["b", "c"], "x")] == ["c"]


@pytest.mark.parametrize(
    ("names", "host", "said"),
    [
        ([], "", []), (["a"], "", []), (["a", "nosuch"], "", ["`nosuch` was not evacuated"]),
        ([], "z", ["nothing that was evacuated from here is at z"]),
        (["b"], "root@x", ["none of these containers is at root@x"]), (["a"], "root@x", []),
    ],
)  # fmt: skip
def test_what_has_no_record_is_said(names: list[str], host: str, said: list[str]) -> None:
    found = return_home.unmatched([Record("a", "x", 1.0), Record("b", "y", 2.0)], names, host)
    assert len(found) == len(said)
    assert all(one.startswith(words) for one, words in zip(found, said, strict=True))


def test_an_evacuation_says_which_selector_matches_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("DockerHost", Docker), ("facts", lambda: FACTS)):
        monkeypatch.setattr(evacuate, name, value)
    given = parser().parse_args(["evacuate", "b", "--name", "hree", "--dry-run"])
    assert command_evacuate.evacuate(given) == 81
    assert "migrate: no running container matches --name hree\n" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["b", "root@b", "me@b", "b:22", "root@b:22", "B"])
def test_a_host_is_meant_however_it_is_spelled(host: str) -> None:
    records = [
        Record("a", "b", 1.0), Record("b", "root@b", 1.0), Record("c", "b:22", 1.0),
        Record("d", "b:2222", 1.0), Record("e", "c", 1.0), Record("f", "-x", 1.0),
    ]  # fmt: skip
    assert [r.name for r in return_home.wanted(records, [], host)] == ["a", "b", "c"]


def test_what_is_no_host_is_refused() -> None:
    with pytest.raises(BadTarget):
        return_home.wanted([Record("f", "-x", 1.0)], [], "-x")


class Docker:
    def containers(self) -> list[dict[str, Any]]:
        return [
            {"Id": "1", "Names": ["/here", "/x/link"], "State": "running"},
            {"Id": "2", "Names": ["/stopped"], "State": "exited"},
        ]


@pytest.mark.parametrize(
    ("result", "here", "comes"),
    [
        (Result(42, "no"), False, False), (Result(10, "no", phase="fetch"), False, False),
        (Result(11, "no", phase="fetch"), False, False), (Result(60, "no"), False, False),
        (Result(20, "no"), False, False), (Result(10, "no", phase="fetch"), True, True),
        (Result(0), False, True),
    ],
)  # fmt: skip
def test_what_depends_on_one_that_does_not_come_stays_there(
    result: Result, here: bool, comes: bool
) -> None:
    moves = [
        Move("db", "b", ""), Move("web", "c", "", after=("db",)),
        Move("proxy", "c", "", after=("web",)), Move("other", "c", ""),
    ]  # fmt: skip
    schedule = Homecoming(moves, 1, {"db"} if here else set())
    begun, now = [], 0.0
    while not schedule.over:
        for one in schedule.ready(now):
            begun.append(one.name)
            schedule.ended(one.name, result if one.name == "db" else Result(0), now)
        now += 5.0
    assert ("web" in begun, "proxy" in begun) == (comes, comes)
    assert schedule.jobs["other"].state == MOVED
    if not comes:
        web, proxy = schedule.jobs["web"], schedule.jobs["proxy"]
        assert web.state == proxy.state == FAILED
        assert "stays at c: `db`, on which it depends" in web.note
        assert "`web`, on which it depends" in proxy.note
        assert of_jobs("return", Plan((), ()), [web], 1.0).exit_code == 80


def test_an_interrupted_return_leaves_the_rest() -> None:
    schedule = Homecoming([Move("db", "b", ""), Move("web", "b", "", after=("db",))], 1)
    schedule.ready(0.0)
    schedule.stop("interrupted by SIGINT")
    schedule.ended("db", Result(130, "undone"), 0.0)
    assert {one.name: one.state for one in schedule.jobs.values()} == {"db": LEFT, "web": LEFT}


def test_who_runs_here() -> None:
    assert return_home.running_here(Docker()) == {"here"}  # type: ignore[arg-type]


def test_the_plan_of_a_return(monkeypatch: pytest.MonkeyPatch) -> None:
    def settle(host: str) -> list[str]:
        if host == "dead":
            raise HostUnreachable("nothing answers")
        return []

    monkeypatch.setattr(return_home, "settle", settle)
    planned = return_home.plan([
        Record("web", "b", 1.0, after=("db", "elsewhere"), size=1), Record("db", "b", 1.0, size=9),
        Record("lost", "dead", 1.0), Record("needs", "b", 1.0, after=("lost",)),
        Record("proxy", "b", 1.0, after=("needs", "db")),
    ])  # fmt: skip
    assert [(move.name, move.after) for move in planned.moves] == [("db", ()), ("web", ("db",))]
    stays = {stay.name: stay for stay in planned.stays}
    assert set(stays) == {"lost", "needs", "proxy"}
    assert stays["lost"].code == "HostUnreachable"
    assert "`lost`, on which it depends, does not come" in stays["needs"].why
    assert "`needs`, on which it depends, does not come" in stays["proxy"].why
    assert [one.host for one in planned.left_out] == ["dead"]


@pytest.mark.parametrize(
    "after",
    [
        {"a": ("b",), "b": ("a",)}, {"a": ("a",)}, {"a": ("b",), "b": ("c",), "c": ("a",)},
        {"a": ("../x", "-y", "a")},
    ],
)  # fmt: skip
def test_a_circle_in_the_records_holds_nothing_up(
    monkeypatch: pytest.MonkeyPatch, after: dict[str, tuple[str, ...]]
) -> None:
    """All come, one after the other, and one line says what was not heeded."""
    monkeypatch.setattr(return_home, "settle", lambda host: [])
    made = return_home.plan([Record(name, "b", 1.0, after=on) for name, on in after.items()])
    schedule = Homecoming(made.moves, 1)
    begun = 0
    while not schedule.over:
        (one,) = schedule.ready(0.0)
        schedule.ended(one.name, Result(0), 0.0)
        begun += 1
    assert begun == len(after)
    (note,) = made.notes
    assert "depends on what depends on it" in note


# -- nothing but looks ----------------------------------------------------------------------------


def forbidden(*_: object, **__: object) -> Any:
    raise AssertionError("this changes something")


def files_below(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*") if path.is_file()
    }  # fmt: skip


def test_a_dry_return_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    records = Records(tmp_path)
    for name in ("web", "moved-on", "ended", "here", "taken"):
        records.write(Record(name, "b", 1.0, sure=True))
    records.write(Record("needs", "b", 1.0, after=("ended",)))
    records.write(Record("lost", "dead", 1.0))
    (tmp_path / "half.json").write_text("{")
    before = files_below(tmp_path)

    def containers_at(host: str) -> dict[str, bool]:
        if host == "dead":
            raise HostUnreachable("nothing answers")
        return {"web": True, "ended": False, "taken": True, "needs": True}

    for place, name in (
        (return_home, "settle"), (command_evacuate, "make_state_dirs"),
        (command_evacuate, "only_run"), (metrics, "note"),
    ):  # fmt: skip
        monkeypatch.setattr(place, name, forbidden)
    monkeypatch.setattr(return_home, "containers_at", containers_at)
    monkeypatch.setattr(return_home, "refuse_unfit", lambda: None)
    monkeypatch.setattr(return_home, "running_here", lambda docker: {"here", "taken"})
    monkeypatch.setattr(command_evacuate, "DockerHost", lambda: None)
    monkeypatch.setattr(command_evacuate, "Records", lambda: records)
    words = ["return", "--dry-run", "--json", "--metrics", str(tmp_path / "m.prom")]
    assert command_evacuate.come_back(parser().parse_args(words)) == 80
    assert files_below(tmp_path) == before
    report = json.loads(capsys.readouterr().out)
    found = {one["container"]: (one["outcome"], one["error"]) for one in report["containers"]}
    assert found == {
        "web": ("planned", ""), "moved-on": ("stays", "ContainerNotFound"),
        "ended": ("stays", "ContainerNotRunning"), "here": ("gone", ""),
        "taken": ("stays", "NameTaken"), "lost": ("stays", "HostUnreachable"),
        "needs": ("stays", "NotAllMoved"),
    }  # fmt: skip
    assert "half.json" in report["notes"][0]


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
    asked: list[Any] = []

    def ask(hosts: list[str], here: Any, own_id: Any, parallel: int) -> Any:
        asked.append(own_id)
        return [], []

    monkeypatch.setattr(inventory, "ask", ask)
    evacuate.Evacuation(Wish(), Settings(), dry=True).plan(["b"])
    assert asked == [host_setup.known_host_id]
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
    with pytest.raises(type(why)):
        command(parser().parse_args(words))
    after = metrics.read(path, action)
    assert (after.exit_code, after.succeeded, before.succeeded) == (code, 0.0, 1.0)
    assert (after.success, after.outcomes) == (before.success, before.outcomes)
    assert after.run >= before.run
    path.unlink()
    monkeypatch.setattr(command_evacuate, "Evacuation", lambda *_, **__: fails())
    monkeypatch.setattr(command_evacuate, "Records", fails)
    with pytest.raises(type(why)):
        command(parser().parse_args([*words, "--dry-run"]))
    assert not path.exists()


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
