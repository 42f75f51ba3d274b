"""migrate.precopy: the loop ends, whatever memory and files do, and what a wait brings is sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.errors import NoSpace
from migrate.messages import Done
from migrate.page_compare import Tally
from migrate.precopy import CALM, MAX_PASSES, PreCopy, describe, round_of
from migrate.progress import Progress
from migrate.protocol import from_failure, send
from migrate.rootfs_send import PassReport
from migrate.switchover import Costs, Limits, Reason
from tests.unit.migrate.memory_channel import pair

COSTS = Costs(freeze=0.01, dump=0.1, restore=0.1, scan_all=True, memory=1 << 30)


LIMITS = Limits()


class Clock:
    """Rounds take the time that a link of 50 MB/s gives them, and no time of ours."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


CLOCK = Clock()


@pytest.fixture(autouse=True, scope="module")
def clock() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("migrate.precopy.time", CLOCK)
        yield


def report(read: int, failed: int = 0, seconds: float = 0.0) -> PassReport:
    return PassReport(
        entries=9, files=1, items=1, bytes=read, dirty_bytes=read, failed=failed, seconds=seconds,
        settle_seconds=0.0,
    )  # fmt: skip


class World:
    """Memory and files that change as they are told, and a destination that says `Done`.

    `dirty`: pages of each round; `read`: bytes of each pass; the last ones go on for ever.
    """

    def __init__(
        self, dirty: list[int], read: list[PassReport], limits: Limits = LIMITS,
        throttler: Any = None,
    ) -> None:  # fmt: skip
        self.log: list[str] = []
        self.dirty, self.read = dirty, read
        self.fail: dict[str, Exception] = {}
        self.channel, self.far = pair()
        memory: Any = self
        files: Any = _Files(self)
        self.precopy = PreCopy(
            self.channel, memory, files, COSTS, limits, Progress(quiet=True), CLOCK.now, throttler
        )

    def _do(self, name: str) -> None:
        self.log.append(name)
        if name in self.fail:
            raise self.fail[name]

    def round(self) -> Tally:
        self._do("round")
        dirty = self.dirty.pop(0) if len(self.dirty) > 1 else self.dirty[0]
        send(self.far, Done())
        CLOCK.now += 0.3 + dirty * 4000 / 50e6
        return Tally(scanned=262_144, dirty=dirty, literal=dirty, sent=dirty * 4000)


class _Files:
    def __init__(self, world: World) -> None:
        self._world = world

    def run(self, *, final: bool) -> PassReport:
        assert not final
        world = self._world
        world._do("pass")
        send(world.far, Done())
        return world.read.pop(0) if len(world.read) > 1 else world.read[0]


class Throttler:
    def __init__(self) -> None:
        self.cuts: list[int] = []
        self.lifted = 0
        self.problem = ""

    def set(self, cut: int) -> str:
        self.cuts.append(cut)
        return self.problem

    def lift(self) -> None:
        self.lifted += 1


QUIET = [report(0)]


def test_memory_that_hardly_changes_needs_few_rounds() -> None:
    world = World([262_144, 10], QUIET)
    decision = world.precopy.run()
    assert decision.stop
    assert decision.reason in (Reason.WITHIN_LIMIT, Reason.LITTLE_LEFT)
    assert world.log == ["pass", "round", "round"]
    assert [one.number for one in world.precopy.rounds] == [1, 2]
    assert [one.dirty for one in world.precopy.rounds] == [262_144, 10]
    shown = world.precopy.report()
    assert len(shown) == 2
    assert world.precopy.decision is decision


def test_no_rounds_are_no_rounds() -> None:
    world = World([1], QUIET, Limits(max_rounds=0))
    decision = world.precopy.run()
    assert decision.reason == Reason.MAX_ROUNDS
    assert world.log == ["pass"]
    assert world.precopy.rounds == []


# -- while it waits for its turn ------------------------------------------------------------------


def test_what_changes_during_a_wait_is_sent() -> None:
    world = World([262_144, 10, 20_000, 30], [report(0), report(CALM)], Limits(0.0, 30))
    world.precopy.run()
    rounds, passes = len(world.precopy.rounds), world.precopy.passes
    CLOCK.now += 20.0
    assert world.precopy.keep_up(slowly=True)
    assert [one.dirty for one in world.precopy.rounds[rounds:]] == [20_000]
    assert world.precopy.passes == passes + 1
    CLOCK.now += 2.5  # longer than it took
    assert not world.precopy.keep_up(slowly=True), "the others are to get the processors"
    assert world.precopy.keep_up(slowly=False)
    assert len(world.precopy.report()) == rounds + 2
    assert world.precopy.decision.predicted < 1.0


@pytest.mark.parametrize(
    ("since", "slowly", "due"),
    [(0.0, False, False), (0.3, False, False), (0.6, False, True), (0.8, True, False),
     (4.0, True, False), (6.0, True, True)],
)  # fmt: skip
def test_a_round_is_worth_it_when_the_last_is_longer_ago_than_it_took(
    since: float, slowly: bool, due: bool
) -> None:
    world = World([262_144, 3000], QUIET)  # 3000 pages take 0.54 s
    world.precopy.run()
    CLOCK.now += since
    assert world.precopy.keep_up(slowly=slowly) is due


def test_a_pass_over_many_files_is_no_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes 5 s; what was written to memory meanwhile is not left to the freeze for it."""
    world = World([262_144, 10], QUIET, Limits(0.0, 30))
    files: Any = world.precopy._files
    run = files.run

    def slowly(*, final: bool) -> PassReport:
        CLOCK.now += 5.0
        done: PassReport = run(final=final)
        return done

    monkeypatch.setattr(files, "run", slowly)
    world.precopy.run()
    CLOCK.now += 60.0
    assert world.precopy.keep_up(slowly=True)
    CLOCK.now += 4.9
    assert not world.precopy.keep_up(slowly=True)
    assert world.precopy.keep_up(slowly=False)


def test_a_last_round_that_was_long_is_followed_by_another() -> None:
    world = World([262_144, 10, 200_000, 20], QUIET, Limits(0.5, 30))
    world.precopy.run()
    CLOCK.now += 9.0
    assert world.precopy.keep_up(slowly=False)
    assert [one.dirty for one in world.precopy.rounds] == [262_144, 10, 200_000, 20]
    assert world.precopy.decision.predicted < 1.0


def test_a_wait_gives_rounds_only_where_there_are_some() -> None:
    world = World([1], QUIET, Limits(max_rounds=0))
    world.precopy.run()
    CLOCK.now += 20.0
    assert world.precopy.keep_up(slowly=False)
    assert world.precopy.rounds == []
    assert world.precopy.passes == 2
    world = World([262_144], QUIET, Limits(max_rounds=1))
    world.precopy.run()
    CLOCK.now += 60.0
    assert world.precopy.keep_up(slowly=False)
    assert len(world.precopy.rounds) == 2


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_rounds_are_limited(rounds: int) -> None:
    # Ever fewer pages, never few enough.
    world = World([262_144 - 20_000 * i for i in range(10)], QUIET, Limits(0.0, rounds))
    decision = world.precopy.run()
    assert decision.reason == Reason.MAX_ROUNDS
    assert world.log.count("round") == rounds


def test_files_that_change_for_ever_are_passed_over_some_times() -> None:
    world = World([262_144, 10], [report(CALM)])
    world.precopy.run()
    assert world.log.count("pass") == world.precopy.passes == MAX_PASSES


@pytest.mark.parametrize(
    ("passes", "told"),
    [([report(1 << 35, seconds=99.0)], True), ([report(1 << 35, seconds=99.0), report(0)], False)],
)
def test_files_that_will_be_read_for_long_in_the_freeze_are_told_of(
    passes: list[PassReport], told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World([0], passes)
    world.precopy.run()
    assert ("took 99.0 s" in capsys.readouterr().err) == told


def test_files_that_could_not_be_read_are_read_again() -> None:
    world = World([10], [report(0, failed=1), report(0)])
    world.precopy.run()
    assert world.log.count("pass") == 2


def test_calm_files_are_left_to_the_last_pass() -> None:
    world = World([262_144, 200_000, 150_000, 100_000, 10], [report(CALM), report(CALM - 1)])
    world.precopy.run()
    assert world.log[:4] == ["pass", "round", "pass", "round"]
    assert world.log.count("pass") == 2


@given(
    dirty=st.lists(st.integers(0, 262_144), min_size=1, max_size=12),
    read=st.lists(st.integers(0, 2 * CALM), min_size=1, max_size=5),
    rounds=st.integers(0, 12), downtime=st.sampled_from([0.0, 0.3, 100.0]),
    throttle=st.booleans(),
)  # fmt: skip
def test_it_ends(
    dirty: list[int], read: list[int], rounds: int, downtime: float, throttle: bool
) -> None:
    throttler = Throttler() if throttle else None
    world = World(dirty, [report(each) for each in read], Limits(downtime, rounds), throttler)
    assert world.precopy.run().stop
    assert world.log.count("round") == len(world.precopy.rounds) <= rounds
    assert 1 <= world.log.count("pass") <= MAX_PASSES
    assert len(world.precopy.report()) == len(world.precopy.rounds)
    if throttler:
        assert throttler.lifted == 0, "it goes on while the container waits"
        world.precopy.lift()
        assert throttler.lifted == 1
        assert throttler.cuts == sorted(throttler.cuts)


# -- the throttle ---------------------------------------------------------------------------------


def test_a_container_that_is_too_fast_is_throttled_and_set_free() -> None:
    throttler = Throttler()
    world = World([200_000], QUIET, Limits(0.0, 12), throttler)
    world.precopy.run()
    assert throttler.cuts[:2] == [20, 30]
    CLOCK.now += 60.0
    world.precopy.keep_up(slowly=True)
    assert throttler.lifted == 0


def test_it_is_not_without_being_asked_for() -> None:
    world = World([200_000], QUIET, Limits(0.0, 12))
    assert world.precopy.run().reason == Reason.NOT_SHRINKING


def test_a_limit_that_cannot_be_set_does_not_stop_it() -> None:
    throttler = Throttler()
    throttler.problem = "no"
    world = World([200_000], QUIET, Limits(0.0, 12), throttler)
    assert world.precopy.run().stop
    world.precopy.lift()
    assert throttler.lifted == 1


def test_a_destination_that_has_failed_is_believed() -> None:
    world = World([10], QUIET)
    send(world.far, from_failure(NoSpace("full")))
    with pytest.raises(NoSpace, match="full"):
        world.precopy.run()


# -- words ----------------------------------------------------------------------------------------


def test_a_round_in_words() -> None:
    tally = Tally(scanned=1000, dirty=10, zero=1, duplicate=2, cached=3, literal=4, sent=1 << 20)
    one = round_of(3, 1.5, 0.5, tally)
    assert (one.number, one.started, one.seconds) == (3, 1.5, 0.5)
    assert (one.scanned, one.dirty, one.zero, one.duplicate) == (1000, 10, 1, 2)
    text = describe(one, 0.25)
    assert text.startswith("round 3: 1000 pages read in 0.50 s, 40.0 KiB dirty")
    assert "(1 zero, 2 duplicate, 3 cached, 4 new), 1.0 MiB sent (2.0 MiB/s)" in text
    assert text.endswith("predicted downtime 250 ms")


def test_a_round_that_took_no_time_has_no_rate() -> None:
    assert "(0 B/s)" in describe(round_of(1, 0.0, 0.0, Tally(sent=5)), 0.0)
