"""migrate.schedule: whatever fails, every container comes to one end, after a few tries."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate.pairing import Candidate, Host
from migrate.plan import Move, Planner
from migrate.schedule import (
    FAILED,
    GONE,
    HOSTS,
    LEFT,
    MOVED,
    PAUSE,
    UNSURE,
    Result,
    Schedule,
    Verdict,
    judge,
)
from tests.unit.migrate import fleet
from tests.unit.migrate.fleet import FACTS, candidate, host

CODES = (
    0,
    0,
    0,
    0,
    -9,
    1,
    10,
    11,
    12,
    13,
    20,
    21,
    23,
    30,
    33,
    40,
    41,
    42,
    50,
    51,
    53,
    54,
    55,
    56,
    60,
    70,
)


def of(
    hosts: list[Host], containers: list[Candidate], parallel: int = 2, *, split: bool = False
) -> Schedule:
    planner = Planner(FACTS, hosts, containers, split=split)

    def place(
        names: Sequence[str], among: Collection[str] | None, without: Collection[str]
    ) -> list[Move]:
        return planner.place(names, among=among, without=without)[0]

    return Schedule(planner.plan().moves, parallel, place, planner.take_back, split=split)


def failure(code: int) -> Result:
    return Result(code, f"failed with {code}")


def states(schedule: Schedule) -> dict[str, str]:
    return {job.name: job.state for job in schedule.jobs.values()}


@settings(max_examples=200, deadline=None)
@given(
    fleet.hosts(), fleet.candidates(), st.integers(1, 4), st.booleans(), st.randoms(),
    st.booleans(),
)  # fmt: skip
def test_any_run_comes_to_an_end(
    hosts: list[Host], containers: list[Candidate], parallel: int, split: bool,
    chance: random.Random, interrupted: bool,
) -> None:  # fmt: skip
    schedule = of(hosts, containers, parallel, split=split)
    now, running, tries = 0.0, [], 0
    while not schedule.over:
        begun = schedule.ready(now)
        for job in begun:
            others = [schedule.jobs[name] for name in job.move.after if name in schedule.jobs]
            assert all(other.over for other in others)
            assert job.move.host not in schedule.lost
        running += begun
        assert len(running) <= parallel
        if not running:
            later = schedule.next_time(now)
            assert later is not None, states(schedule)
            assert now < later <= now + PAUSE
            now = later
            continue
        tries += 1
        assert tries <= 4 * HOSTS * (len(containers) + 1) * (len(hosts) + 1)
        job = running.pop(chance.randrange(len(running)))
        code = chance.choice(CODES)
        verdict = schedule.ended(job.name, failure(code), now)
        if interrupted and tries == 3:
            schedule.stop("interrupted")
        assert (job.state == MOVED) == (code == 0)
        if job.state == "waiting":
            assert verdict in (Verdict.AGAIN, Verdict.ELSEWHERE, Verdict.HOST_LOST)
        if code == 60:
            assert job.state == UNSURE
    assert set(states(schedule).values()) <= {MOVED, FAILED, UNSURE, GONE, LEFT}


@given(st.integers(-20, 255), st.integers(1, 9))
def test_success_is_the_only_success_and_nobody_is_tried_twice_again(code: int, tries: int) -> None:
    verdict = judge(code, tries)
    assert (verdict is Verdict.DONE) == (code == 0)
    assert not (verdict is Verdict.AGAIN and tries >= 2)


def test_once_more_here_then_elsewhere_then_reported() -> None:
    schedule = of([host("x", memory=900), host("y"), host("z", memory=800)], [candidate("a")])
    tried = []
    now = 0.0
    while not schedule.over:
        for job in schedule.ready(now):
            tried.append(job.move.host)
            schedule.ended("a", failure(54), now)
        now += PAUSE
    assert tried == ["y", "y", "x", "x"]
    job = schedule.jobs["a"]
    assert job.state == FAILED
    assert job.note == "failed with 54"


def test_the_second_try_waits_for_a_moment() -> None:
    schedule = of([host("x")], [candidate("a")])
    schedule.ready(10.0)
    schedule.ended("a", failure(51), 10.0)
    assert schedule.ready(10.0) == []
    assert schedule.next_time(10.0) == 10.0 + PAUSE
    assert len(schedule.ready(10.0 + PAUSE)) == 1


def test_what_is_sure_to_fail_again_goes_elsewhere_at_once() -> None:
    schedule = of([host("x"), host("y")], [candidate("a")])
    schedule.ready(0.0)
    assert schedule.ended("a", failure(42), 0.0) is Verdict.ELSEWHERE
    (job,) = schedule.ready(0.0)
    assert job.move.host == "y"


def test_no_other_host_is_tried_for_what_is_the_containers_own() -> None:
    schedule = of([host("x"), host("y")], [candidate("a")])
    for now in (0.0, 5.0):
        schedule.ready(now)
        schedule.ended("a", failure(50), now)
    assert states(schedule) == {"a": FAILED}


def test_a_lost_host_gets_no_further_container() -> None:
    schedule = of([host("x"), host("y", memory=100)], [candidate(n) for n in "abcd"], parallel=1)
    (first,) = schedule.ready(0.0)
    assert first.move.host == "x"
    for now in (0.0, 5.0):
        schedule.ended(first.name, failure(20), now)
        schedule.ready(now + 3.0)
    assert set(schedule.lost) == {"x"}
    assert {job.move.host for job in schedule.jobs.values()} == {"y"}


def test_a_host_that_is_lost_is_lost_for_those_on_their_way_too() -> None:
    pair = [candidate("a", memory=50), candidate("b", memory=60)]
    schedule = of([host("x", images=("app",)), host("y", memory=250)], pair)
    a, b = schedule.ready(0.0)
    assert a.move.host == b.move.host == "x"
    schedule.ended(a.name, failure(21), 0.0)
    assert a.move.host == "y"
    schedule.ended(b.name, failure(51), 0.0)  # no second try there
    assert b.move.host == "y"


def test_an_unsure_one_is_left_alone() -> None:
    schedule = of([host("x"), host("y")], [candidate("a")])
    schedule.ready(0.0)
    assert schedule.ended("a", failure(60), 0.0) is Verdict.UNSURE
    assert schedule.over


@pytest.mark.parametrize(("phase", "becomes"), [("freeze", UNSURE), ("", GONE)])
def test_gone_after_a_kill_is_unsure(phase: str, becomes: str) -> None:
    """Unless it was killed before it had begun, as by a Ctrl-C while Python starts."""
    schedule = of([host("x")], [candidate("a")])
    schedule.ready(0.0)
    schedule.ended("a", replace(failure(-9), phase=phase), 0.0)
    schedule.ready(5.0)
    schedule.ended("a", failure(10), 5.0)
    assert states(schedule) == {"a": becomes}


def test_stop_leaves_what_has_not_begun() -> None:
    schedule = of([host("x")], [candidate("a"), candidate("b")], parallel=1)
    schedule.ready(0.0)
    schedule.stop("interrupted by SIGINT")
    assert states(schedule) == {"a": "running", "b": LEFT}
    schedule.ended("a", failure(130), 0.0)
    assert states(schedule) == {"a": LEFT, "b": LEFT}


def test_an_image_is_sent_once_to_each_host() -> None:
    schedule = of([host("x")], [candidate(name, image=5) for name in "abc"], parallel=3)
    (first,) = schedule.ready(0.0)
    assert schedule.ready(0.0) == []
    schedule.ended(first.name, failure(12), 0.0)  # it did not get there: another one takes it along
    (second,) = [job for job in schedule.ready(0.0) if job is not first]
    schedule.ended(second.name, Result(0), 0.0)
    assert len(schedule.ready(5.0)) == 2


def test_an_image_that_is_there_holds_nobody_up() -> None:
    hosts = [host("x", images=("app",))]
    schedule = of(hosts, [candidate(name, image=5) for name in "abc"], parallel=3)
    assert len(schedule.ready(0.0)) == 3


# -- projects -------------------------------------------------------------------------------------


def shop() -> list[Candidate]:
    return [
        candidate("db", project="p", service="db"),
        candidate("web", project="p", service="web", depends_on=("db",)),
        candidate("proxy", project="p", service="proxy", depends_on=("web",)),
    ]


def test_a_project_waits_for_its_dependencies() -> None:
    schedule = of([host("x")], shop(), parallel=4)
    for name in ("db", "web", "proxy"):
        (job,) = schedule.ready(0.0)
        assert job.name == name
        schedule.ended(name, Result(0), 0.0)
    assert schedule.over


def test_the_whole_project_goes_elsewhere_when_its_first_cannot_go() -> None:
    schedule = of([host("x"), host("y", memory=500)], shop())
    schedule.ready(0.0)
    schedule.ended("db", failure(42), 0.0)
    assert {job.move.host for job in schedule.jobs.values()} == {"y"}
    assert all(job.state == "waiting" for job in schedule.jobs.values())


def test_the_rest_follows_those_that_have_left() -> None:
    schedule = of([host("x"), host("y", memory=500)], shop())
    schedule.ready(0.0)
    schedule.ended("db", Result(0), 0.0)
    schedule.ready(0.0)
    schedule.ended("web", failure(42), 0.0)
    assert states(schedule) == {"db": MOVED, "web": FAILED, "proxy": "waiting"}
    assert "the others of its project are on x" in schedule.jobs["web"].note
    (proxy,) = schedule.ready(0.0)
    assert proxy.move.host == "x"


def test_the_rest_goes_elsewhere_when_the_host_of_the_others_is_lost() -> None:
    schedule = of([host("x"), host("y", memory=500)], shop())
    schedule.ready(0.0)
    schedule.ended("db", Result(0), 0.0)
    schedule.ready(0.0)
    schedule.ended("web", failure(21), 0.0)
    assert schedule.jobs["web"].move.host == schedule.jobs["proxy"].move.host == "y"


def test_the_rest_stays_with_the_first_that_cannot_be_moved() -> None:
    schedule = of([host("x"), host("y")], shop())
    for now in (0.0, 5.0):
        schedule.ready(now)
        schedule.ended("db", failure(50), now)
    assert states(schedule) == {"db": FAILED, "web": FAILED, "proxy": FAILED}
    assert "stays with `db`" in schedule.jobs["web"].note


def test_a_project_that_may_be_split_goes_on() -> None:
    schedule = of([host("x"), host("y")], shop(), split=True)
    for now in (0.0, 5.0):
        schedule.ready(now)
        schedule.ended("db", failure(50), now)
    (web,) = schedule.ready(9.0)
    assert web.name == "web"


@pytest.mark.parametrize("code", [20, 51, 54])
def test_the_only_host_fails(code: int) -> None:
    schedule = of([host("x")], [candidate("a")])
    for now in (0.0, 5.0):
        schedule.ready(now)
        schedule.ended("a", failure(code), now)
    assert states(schedule) == {"a": FAILED}
    assert "no other host" in schedule.jobs["a"].note


# -- after commit ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "result",
    [
        Result(56, "its memory is lost", code="MemoryLost"),
        Result(56, "its memory is lost", phase="confirm"),
        Result(53, "the agent says nothing", code="AgentFailed", phase="confirm"),
        Result(70, "a bug", phase="confirm"), Result(-9, "killed", phase="confirm"),
        Result(1, "no", phase="confirm"), Result(10, "no such container", phase="confirm"),
    ],
)  # fmt: skip
def test_what_fails_after_commit_is_not_tried_again(result: Result) -> None:
    """The container is not here any more: a second try would take it for one that has ended."""
    schedule = of([host("x"), host("y")], [candidate("a")])
    schedule.ready(0.0)
    assert schedule.ended("a", result, 0.0) is Verdict.UNSURE
    assert states(schedule) == {"a": UNSURE}
    assert schedule.jobs["a"].note == result.message


@pytest.mark.parametrize("phase", ["preflight", "pre-copy", "freeze"])
def test_what_fails_before_it_is(phase: str) -> None:
    schedule = of([host("x")], [candidate("a")])
    schedule.ready(0.0)
    assert schedule.ended("a", Result(53, "no", phase=phase), 0.0) is Verdict.AGAIN


def test_gone_after_an_agent_that_failed_is_unsure() -> None:
    schedule = of([host("x")], [candidate("a")])
    schedule.ready(0.0)
    schedule.ended("a", Result(53, "could not undo everything"), 0.0)
    schedule.ready(5.0)
    schedule.ended("a", failure(11), 5.0)
    assert states(schedule) == {"a": UNSURE}
    assert "could not undo everything" in schedule.jobs["a"].note
