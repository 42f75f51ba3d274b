"""migrate.switchover: when to freeze, against a model of a link and of a container's memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from migrate.switchover import (
    FEW_PAGES,
    GO_ON,
    LONG,
    PAGE,
    SENTENCES,
    Costs,
    Decision,
    Limits,
    Reason,
    Round,
    bandwidth,
    bytes_per_page,
    compared,
    decide,
    dirty_rate,
    expected_dirty,
    predict,
    scan_rate,
    shown,
)

COSTS = Costs(freeze=0.01, dump=0.1, restore=0.1, scan_all=False, scan_rate=1e9)
MB = 1 << 20
PAGES = MB // PAGE


# -- a model ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    """A container of `memory` pages that dirties `rate(seconds since the begin)` bytes/s, but never
    more than its working set between two looks; a link, and a scan that goes on beside it."""

    memory: int
    working_set: int
    rate: Callable[[float], float]
    link: float
    scan: float
    costs: Costs
    density: float = 1.0

    def dirtied(self, at: float, seconds: float) -> int:
        return min(int(self.rate(at) * seconds / PAGE), self.working_set, self.memory)

    def scanned(self, dirty: int) -> float:
        return (self.memory if self.costs.scan_all else dirty) * PAGE / self.scan

    def sent(self, dirty: int) -> int:
        return int(dirty * PAGE * self.density)

    def downtime(self, dirty: int) -> float:
        """What it really is, when so many pages are dirty."""
        dump = max(self.costs.dump, self.scanned(dirty))
        return self.costs.freeze + dump + self.sent(dirty) / self.link + self.costs.restore

    def round(self, number: int, started: float, dirty: int) -> Round:
        seconds = max(self.scanned(dirty), self.sent(dirty) / self.link)
        return Round(
            number, started, seconds, self.memory, dirty, literal=dirty, sent=self.sent(dirty)
        )


@dataclass(frozen=True)
class Run:
    model: Model
    history: list[Round]
    decisions: list[Decision]
    downtimes: list[float]
    """Real ones, if it had been frozen after so many rounds; the first: stop and copy."""

    @property
    def cost(self) -> float:
        """Of the longest round that was made."""
        return max((one.seconds for one in self.history), default=0.0)


def play(model: Model, limits: Limits, further: int = 0) -> Run:
    """Pre-copy until the rule says stop, and `further` rounds to see what was missed."""
    history: list[Round] = []
    decisions = [decide(history, model.costs, limits)]
    downtimes = [model.downtime(model.memory)]
    at, dirty, left = 0.0, model.memory, further
    while not decisions[-1].stop or left > 0:
        left -= decisions[-1].stop
        assert len(history) <= limits.max_rounds + further
        history.append(model.round(len(history) + 1, at, dirty))
        dirty = model.dirtied(at, history[-1].seconds)
        at += history[-1].seconds
        downtimes.append(model.downtime(dirty))
        if not decisions[-1].stop:
            decisions.append(decide(history, model.costs, limits))
    return Run(model, history, decisions, downtimes)


def rates(values: list[float]) -> Callable[[float], float]:
    """Any dirty rate: another one each tenth of a second."""
    return lambda at: values[int(at * 10) % len(values)]


positive = st.floats(0.001, 2.0)
costs = st.builds(
    Costs, freeze=positive, dump=positive, restore=positive, scan_all=st.booleans(),
    scan_rate=st.just(0.0), memory=st.integers(0, 1 << 34),
)  # fmt: skip
limits = st.builds(Limits, max_downtime=st.floats(0.001, 10.0), max_rounds=st.integers(0, 40))
speeds = st.floats(1e5, 1e10)
dirty_rates = st.floats(0, 1e10)


@st.composite
def models(draw: st.DrawFn, constant: bool) -> Model:
    memory = draw(st.integers(1, 1 << 22))
    values = draw(st.lists(dirty_rates, min_size=1, max_size=1 if constant else 20))
    scan = draw(st.floats(1e8, 1e10))
    return Model(
        memory, draw(st.integers(0, memory)), rates(values), draw(speeds), scan,
        replace(draw(costs), scan_rate=scan), draw(st.floats(0.01, 1.0)) if constant else 1.0,
    )  # fmt: skip


@st.composite
def histories(draw: st.DrawFn) -> list[Round]:
    """Anything at all, as long as it is a history."""
    history: list[Round] = []
    at = 0.0
    for number in range(1, draw(st.integers(0, 12)) + 1):
        seconds = draw(st.floats(0, 100))
        zero, duplicate, cached, literal = (draw(st.integers(0, 1 << 22)) for _ in range(4))
        scanned, sent = draw(st.integers(0, 1 << 24)), draw(st.integers(0, 1 << 36))
        dirty = zero + duplicate + cached + literal
        history.append(
            Round(number, at, seconds, scanned, dirty, zero, duplicate, cached, literal, sent)
        )
        at += seconds + draw(st.floats(0, 1))
    return history


# -- properties -----------------------------------------------------------------------------------


@given(models(constant=False), limits)
def test_it_ends_for_every_dirty_rate(model: Model, limits: Limits) -> None:
    run = play(model, limits)
    assert len(run.history) <= limits.max_rounds
    assert run.decisions[-1].stop
    assert not any(decision.stop for decision in run.decisions[:-1])


@given(models(constant=False), limits)
def test_never_worse_than_stop_and_copy_by_more_than_a_round(model: Model, limits: Limits) -> None:
    run = play(model, limits)
    assert run.downtimes[-1] <= run.downtimes[0] + run.cost + 1e-6


@given(models(constant=True), limits)
def test_as_good_as_the_best_point_within_a_round(model: Model, limits: Limits) -> None:
    """Whatever the rule gives up, ten more rounds would not have brought more than one costs."""
    run = play(model, limits, further=10)
    if run.decisions[-1].reason in (Reason.WITHIN_LIMIT, Reason.MAX_ROUNDS):
        return
    stopped = len(run.decisions) - 1
    tolerance = 0.05 * run.downtimes[stopped]  # LITTLE_LEFT gives that up
    cost = run.history[stopped - 1].seconds
    assert run.downtimes[stopped] <= min(run.downtimes) + cost + tolerance


@given(models(constant=True), limits)
def test_with_a_steady_container_it_never_promises_too_little(model: Model, limits: Limits) -> None:
    run = play(model, limits)
    for decision, real in list(zip(run.decisions, run.downtimes, strict=True))[1:]:
        assert real <= decision.predicted * (1 + 1e-6) + LONG
    if run.decisions[-1].reason is Reason.WITHIN_LIMIT:
        assert run.downtimes[-1] <= limits.max_downtime * (1 + 1e-6) + LONG


@given(histories(), costs, limits)
def test_predicted_is_a_time_and_at_least_the_fixed_costs(
    history: list[Round], costs: Costs, limits: Limits
) -> None:
    decision = decide(history, costs, limits)
    assert math.isfinite(decision.predicted)
    assert decision.predicted >= costs.freeze + costs.dump + costs.restore
    assert decision.reason in Reason
    assert decision.sentence == SENTENCES[decision.reason]
    assert decision.stop == (decision.reason not in GO_ON)
    assert decision.reason is not Reason.THROTTLED


@given(histories(), costs, limits, st.floats(0, 10), st.integers(0, 40))
def test_who_allows_more_downtime_or_less_rounds_stops_no_later(
    history: list[Round], costs: Costs, limits: Limits, more: float, fewer: int
) -> None:
    assume(decide(history, costs, limits).stop)
    loose = Limits(limits.max_downtime + more, max(limits.max_rounds - fewer, 0))
    assert decide(history, costs, loose).stop


@given(histories(), costs, st.floats(0, 10))
def test_dearer_costs_predict_more(history: list[Round], costs: Costs, more: float) -> None:
    dear = replace(costs, freeze=costs.freeze + more, restore=costs.restore + more)
    assert predict(history, dear) >= predict(history, costs) + more


def test_every_reason_has_a_sentence() -> None:
    assert set(SENTENCES) == set(Reason)


# -- stories ---------------------------------------------------------------------------------------


def steady(rate: float, memory: int = 1024 * PAGES, link: float = 1e8, **changes: float) -> Model:
    return Model(memory, memory, lambda at: rate, link, 1e9, replace(COSTS, **changes))  # type: ignore[arg-type]


def reasons(model: Model, limits: Limits | None = None) -> list[Reason]:
    return [decision.reason for decision in play(model, limits or Limits()).decisions]


def test_an_idle_container_takes_two_rounds() -> None:
    assert reasons(steady(0.0)) == [Reason.FIRST_ROUND, Reason.FIRST_ROUND, Reason.WITHIN_LIMIT]


def test_a_busy_one_as_many_as_it_takes_to_get_below_the_limit() -> None:
    run = play(steady(3e7), Limits())
    assert run.decisions[-1].reason is Reason.WITHIN_LIMIT
    assert 4 <= len(run.history) <= 8
    assert run.downtimes[-1] <= 0.3
    assert Reason.SHRINKING in [decision.reason for decision in run.decisions]


def test_one_that_dirties_faster_than_the_link_is_given_up_early() -> None:
    run = play(steady(3e8), Limits())
    assert run.decisions[-1].reason in (Reason.GROWING, Reason.NOT_SHRINKING)
    assert len(run.history) <= 4


def test_a_small_one_needs_no_second_round() -> None:
    assert reasons(steady(1e6, memory=PAGES)) == [Reason.FIRST_ROUND, Reason.WITHIN_LIMIT]
    tiny = Limits(max_downtime=0.001)
    # Few pages over a slow link: much beside the fixed costs, but no round makes them fewer.
    few = steady(1e9, memory=FEW_PAGES, link=1e6)
    assert reasons(few, tiny) == [Reason.FIRST_ROUND, Reason.LITTLE_LEFT]
    assert reasons(replace(few, memory=10 * FEW_PAGES), tiny)[-2:] == [
        Reason.FIRST_ROUND,
        Reason.LITTLE_LEFT,
    ]


def test_an_aim_below_the_fixed_costs_does_not_make_it_go_on_for_ever() -> None:
    run = play(steady(1e7), Limits(max_downtime=0.05))
    assert run.decisions[-1].reason is Reason.LITTLE_LEFT
    assert len(run.history) <= 5


def test_a_final_scan_of_all_memory_is_no_reason_to_go_on() -> None:
    """4 GiB are read in 4 s, whatever the rounds do."""
    model = steady(1e6, memory=4096 * PAGES)
    run = play(replace(model, costs=replace(COSTS, scan_all=True)), Limits())
    assert run.decisions[-1].reason is Reason.LITTLE_LEFT
    assert len(run.history) <= 3
    assert run.decisions[-1].predicted == pytest.approx(4.5, rel=0.1)


def test_no_rounds_at_all() -> None:
    decision = decide([], replace(COSTS, memory=1 << 30), Limits(max_rounds=0))
    assert (decision.stop, decision.reason) == (True, Reason.MAX_ROUNDS)
    assert decision.predicted > 60  # 1 GiB over the link that is assumed
    assert decide([], COSTS, Limits(max_downtime=9.0)).reason is Reason.FIRST_ROUND


def test_a_working_set_is_not_mistaken_for_a_rate() -> None:
    """100 MB that are written all the time, seen after 10 s: in 1 s, 100 MB will be dirty again."""
    first = Round(1, 0.0, 10.0, 256 * PAGES, 256 * PAGES, literal=256 * PAGES, sent=256 * MB)
    second = Round(2, 10.0, 1.0, 256 * PAGES, 100 * PAGES, literal=100 * PAGES, sent=100 * MB)
    assert expected_dirty([first, second], COSTS) == 100 * PAGES
    third = replace(second, number=3, started=11.0, seconds=0.1)
    assert expected_dirty([first, second, third], COSTS) == 100 * PAGES
    # But when the shorter time has dirtied less, a shorter one still dirties still less.
    rate = replace(second, number=3, started=11.0, seconds=0.1, dirty=10 * PAGES)
    assert expected_dirty([first, second, rate], COSTS) == pytest.approx(PAGES, rel=0.01)
    # More time than before: as many times more pages, but not more than there are.
    slow = replace(second, seconds=20.0)
    assert expected_dirty([first, slow], COSTS) == 200 * PAGES
    assert expected_dirty([first, replace(slow, seconds=90.0)], COSTS) == 256 * PAGES


def test_growth_of_ten_percent_is_the_end() -> None:
    history = [Round(1, 0.0, 10.0, 10**6, 10**6, sent=10**9)]
    for number, dirty in ((2, 10**5), (3, int(1.05 * 10**5))):
        history.append(Round(number, number * 10.0 - 10, 5.0, 10**6, dirty, sent=dirty * PAGE))
    assert decide(history, COSTS, Limits()).reason is Reason.SHRINKING
    history[-1] = replace(history[-1], dirty=int(1.2 * 10**5))
    assert decide(history, COSTS, Limits()).reason is Reason.GROWING


# -- what the rounds have shown --------------------------------------------------------------------


def test_the_link_is_measured_by_rounds_that_waited_for_it() -> None:
    full = Round(1, 0.0, 10.0, 1024 * PAGES, 1024 * PAGES, sent=1024 * MB)
    scan = Round(2, 10.0, 1.0, 1024 * PAGES, 10 * PAGES, sent=10 * MB)
    costs = replace(COSTS, scan_all=True)
    assert bandwidth([full, scan], costs) == pytest.approx(102.4 * MB)
    # The newest one counts: the link has become slower.
    slow = Round(3, 11.0, 10.0, 1024 * PAGES, 100 * PAGES, sent=100 * MB)
    assert bandwidth([full, scan, slow], costs) == pytest.approx(10 * MB)
    # A round of next to nothing says nothing.
    assert bandwidth([full, replace(scan, seconds=9.0, sent=MB - 1)], costs) == pytest.approx(
        102.4 * MB
    )
    # Unless it took long, and there is nothing better.
    crawl = Round(1, 0.0, 2.0, PAGES, PAGES, sent=MB // 2)
    assert bandwidth([crawl], costs) == MB / 4
    assert bandwidth([replace(crawl, seconds=0.09)], costs) == 12.5e6
    assert bandwidth([full, crawl], costs) == pytest.approx(102.4 * MB)
    assert bandwidth([], costs) == bandwidth([replace(scan, sent=5)], costs) == 12.5e6


def test_how_fast_memory_is_read_is_what_the_fastest_round_did() -> None:
    costs = replace(COSTS, scan_all=True, scan_rate=0.0)
    slow, fast = Round(1, 0.0, 10.0, PAGES, PAGES), Round(2, 10.0, 0.5, PAGES, 0)
    assert scan_rate([slow, fast], costs) == 2 * MB
    assert scan_rate([slow, fast], replace(costs, scan_rate=1e9)) == 1e9
    assert scan_rate([], costs) == scan_rate([Round(1, 0.0, 1.0, 0, 0)], costs) == 1e9
    assert scan_rate([slow, fast], replace(costs, scan_all=False)) == MB / 10


def test_bytes_of_a_page_are_those_of_the_last_rounds() -> None:
    first = Round(1, 0.0, 1.0, 1000, 1000, sent=100)
    assert bytes_per_page([first]) == 0.1
    later = [replace(first, number=n, dirty=10, sent=sent) for n, sent in ((2, 900), (3, 10))]
    assert bytes_per_page([first, *later]) == 910 / 20
    assert bytes_per_page([first, replace(first, dirty=0, sent=0)]) == 0.1
    assert bytes_per_page([]) == PAGE


# -- the report ------------------------------------------------------------------------------------


def test_the_rounds_as_json_gives_them() -> None:
    first, second = Round(1, 2.0, 4.0, 9, 9, sent=5), Round(2, 7.0, 1.0, 9, 5, literal=5)
    rows = shown([first, second], [1.5, 0.25])
    assert [row["dirty_rate"] for row in rows] == [None, 5 * PAGE / 5.0]
    assert [row["predicted"] for row in rows] == [1.5, 0.25]
    assert rows[0] == {
        "number": 1, "started": 2.0, "seconds": 4.0, "scanned": 9, "dirty": 9, "zero": 0,
        "duplicate": 0, "cached": 0, "literal": 0, "sent": 5, "dirty_rate": None, "predicted": 1.5,
    }  # fmt: skip
    assert dirty_rate([first]) is None


def test_predicted_against_measured() -> None:
    assert compared(0.31, 0.341) == "predicted 310 ms, measured 341 ms (10 % more)"
    assert compared(0.2, 0.1) == "predicted 200 ms, measured 100 ms (50 % less)"
    assert compared(0.2, 0.2) == "predicted 200 ms, measured 200 ms (as predicted)"
    assert compared(0.0, 0.2) == "predicted 0 ms, measured 200 ms"
