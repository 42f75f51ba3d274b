"""migrate.return_home: who comes back, what becomes of the records, and what is only looked at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from migrate import command_evacuate, metrics, return_home
from migrate.cli import parser
from migrate.evacuate import MOST, Settings
from migrate.evacuated import Record, Records
from migrate.plan import Move, Plan
from migrate.return_home import Homecoming
from migrate.run_report import of_jobs
from migrate.schedule import FAILED, GONE, LEFT, MOVED, UNSURE, Job, Result
from tests.unit.migrate.test_evacuate import Docker, forbidden, given_of, job
from transport.bucket import LEAST, RateLimit
from transport.errors import BadTarget, HostUnreachable

NEW_ID = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("containers", "limit", "expected"),
    [(0, None, 1), (2, None, 2), (9, None, MOST), (9, 8 << 20, 2), (9, 1 << 20, 1)],
)
def test_as_many_to_return(containers: int, limit: float | None, expected: int) -> None:
    found = return_home.fitting_parallel(containers, RateLimit(limit) if limit else None)
    assert found == expected


@pytest.mark.parametrize(("parallel", "share"), [(4, 1 << 18), (1000, LEAST)])
def test_those_that_return_have_their_parts(parallel: int, share: float) -> None:
    settings = Settings(bwlimit=RateLimit(1 << 20))
    given = given_of(return_home.fetch_words(job(), settings, parallel))
    assert (given.command, given.container, given.host) == ("fetch", "web", "b")
    assert given.bwlimit == RateLimit(share)


def test_it_is_fetched_by_the_id_on_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another may have got its name there meanwhile. Without an id, the name must do."""
    monkeypatch.setattr(return_home, "settle", lambda host: [])
    planned = return_home.plan([
        Record("web", "b", 1.0, sure=True, new_id=NEW_ID), Record("old", "b", 1.0),
    ])  # fmt: skip
    words = {
        move.name: given_of(return_home.fetch_words(Job(move), Settings(), 1)).container
        for move in planned.moves
    }
    assert words == {"web": NEW_ID, "old": "old"}


def test_what_is_said_has_its_name() -> None:
    schedule = Homecoming([Move("web", "b", "", ident=NEW_ID)], 1)
    schedule.ready(0.0)
    missing = Result(11, f"the container `{NEW_ID}` has ended", f"docker start {NEW_ID}")
    schedule.ended("web", missing, 0.0)
    one = schedule.jobs["web"]
    assert one.note == "at b: the container `web` has ended"
    assert one.result
    assert one.result.remedy == "docker start web"


def test_another_of_its_name_is_told_of() -> None:
    schedule = Homecoming([Move("web", "b", "", ident=NEW_ID)], 1)
    schedule.ready(0.0)
    schedule.ended("web", Result(10, f"no container {NEW_ID}", phase="fetch"), 0.0)
    one = schedule.jobs["web"]
    assert one.state == FAILED
    assert one.result
    assert "migrate fetch web b" in one.result.remedy


@pytest.mark.parametrize(
    ("new_id", "code", "why"),
    [
        (NEW_ID, "ContainerNotFound", "but another of that name"), ("id-web", None, None),
        ("", None, None), ("id-ended", "ContainerNotRunning", "does not run"),
    ],
)  # fmt: skip
def test_a_dry_return_asks_for_the_id_too(new_id: str, code: str | None, why: str | None) -> None:
    there = {"web": True, "id-web": True, "ended": False, "id-ended": False}
    stay = return_home.hindrance(Record("web", "b", 1.0, sure=True, new_id=new_id), there, ())
    assert (stay and stay.code) == code
    if why:
        assert stay
        assert why in stay.why


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
