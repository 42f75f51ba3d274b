"""Silences: of one move, and what many of them come to."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.quake.gaps import Gap, Move, lines, longest, made_of, percentile, report, spread
from migrate.summary import Summary

VALUES = st.lists(st.floats(0, 1e6), min_size=1, max_size=60)


def summary(downtime: float, **parts: float) -> Summary:
    return Summary("quake", "a", "b", downtime=downtime, total=4.0, parts=parts)


def test_the_longest_silence_during_a_move() -> None:
    arrivals = [0.0, 0.05, 5.0, 5.05, 5.5, 5.55, 9.0, 9.05]
    assert longest(arrivals, 5.02, 6.0) == Gap(5.55, 9.0)
    assert longest(arrivals, 5.02, 5.3) == Gap(5.05, 5.5)
    assert longest(arrivals, 5.06, 5.52).ms == pytest.approx(450)


def test_a_silence_that_only_begins_in_the_move_counts_whole() -> None:
    assert longest([0.0, 1.0, 1.1, 3.0, 3.1], 1.05, 1.2) == Gap(1.1, 3.0)


@pytest.mark.parametrize("arrivals", [[], [1.5, 2.5], [0.5, 1.5], [1.2, 1.3]])
def test_without_a_snapshot_before_and_after_there_is_no_figure(arrivals: list[float]) -> None:
    with pytest.raises(ValueError, match="did not listen"):
        longest(arrivals, 1.0, 2.0)


@given(
    st.lists(st.floats(0, 100), min_size=2, max_size=40).map(sorted),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_no_silence_inside_of_the_move_is_longer(
    arrivals: list[float], one: float, other: float
) -> None:
    first, span = arrivals[0], arrivals[-1] - arrivals[0]
    begin, end = (min(first + share * span, arrivals[-1]) for share in sorted((one, other)))
    found = longest(arrivals, begin, end)
    assert (found.begin, found.end) in set(pairwise(arrivals))
    for before, after in pairwise(arrivals):
        if begin <= before and after <= end:
            assert found.end - found.begin >= (after - before) * (1 - 1e-9)


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(number) for number in range(1, 26)]
    assert percentile(values, 50) == 13
    assert percentile(values, 95) == 24
    assert percentile(values, 100) == 25
    assert percentile(values, 0) == 1
    assert percentile([7.0], 95) == 7


@given(VALUES, st.floats(0, 100))
def test_so_many_percent_are_not_above(values: list[float], percent: float) -> None:
    found = percentile(values, percent)
    assert found in values
    assert sum(value <= found for value in values) * 100 >= len(values) * percent * (1 - 1e-9)
    below = sum(value < found for value in values)
    assert below * 100 < len(values) * percent or below == 0


@given(VALUES)
def test_the_spread_is_in_order(values: list[float]) -> None:
    found = spread(values)
    assert min(values) <= found["p50"] <= found["p95"] <= found["max"] == max(values)


def test_the_median_of_each_part_in_ms() -> None:
    found = made_of([summary(1, dump=0.1, restore=0.3), summary(1, dump=0.2, restore=0.1)])
    assert found == pytest.approx({"dump": 150, "restore": 200})
    assert made_of([summary(1, dump=0.1), summary(1, dump=0.3, resume=0.2)]) == pytest.approx(
        {"dump": 200, "resume": 100}
    )


def test_a_series_as_json_and_for_people() -> None:
    moves = [Move(0, 4, summary(0.2, dump=0.2)), Move(10, 14, summary(0.4, dump=0.4))]
    made = report(moves, [Gap(1, 1.25), Gap(11, 11.5)])
    assert made["moves"] == 2
    assert made["gap_ms"] == {"p50": 250.0, "p95": 500.0, "max": 500.0}
    assert made["downtime_ms"] == {"p50": 200.0, "p95": 400.0, "max": 400.0}
    assert made["parts_ms_median"] == {"dump": 300.0}
    assert [one["gap_ms"] for one in made["each"]] == [250.0, 500.0]
    text = "\n".join(lines(made))
    assert "p50 250 ms, p95 500 ms, max 500 ms" in text
    assert "dump 300" in text


def test_a_gap_for_each_move() -> None:
    with pytest.raises(ValueError):
        report([Move(0, 4, summary(0.2, dump=0.2))], [Gap(1, 2), Gap(3, 4)])
