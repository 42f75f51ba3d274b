"""From answers to gaps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench.figures import (
    Answer,
    Sample,
    Use,
    answers,
    both_hosts,
    by_row,
    limit,
    median,
    rate,
    row_median,
    silences,
    steps_back,
    used,
)

TIMES = st.lists(st.floats(0, 100), min_size=2).map(sorted)


def test_the_longest_silence_comes_first() -> None:
    assert silences([0, 1, 1.5, 4, 4.25], 0, 4.25) == [2.5, 1, 0.5, 0.25]


def test_only_silences_that_touch_the_move_count() -> None:
    # 0-5 ended before it began, 7-20 began after it was over.
    assert silences([0, 5, 5.5, 6.5, 7, 20], 5.2, 6.8) == [1.0, 0.5, 0.5]


def test_one_that_begins_before_and_ends_after_the_move_counts_whole() -> None:
    assert silences([0, 10], 4, 5) == [10]


def test_a_container_that_never_answers_again_is_not_quick() -> None:
    assert silences([0.0, 0.1], 0, 30)[0] == pytest.approx(29.9)


def test_nothing_heard_at_all_is_one_silence() -> None:
    assert silences([], 3, 10) == [7]


@given(TIMES, st.floats(0, 100), st.floats(0, 100))
def test_silences_cover_the_move(times: list[float], one: float, other: float) -> None:
    begin, end = min(one, other), max(one, other)
    covered = min(end, times[-1]) - max(begin, times[0])
    assert sum(silences(times, begin, end)) >= covered - 1e-6


def test_a_count_that_goes_on_has_no_step_back() -> None:
    assert steps_back([5, 6, 9]) == 0


def test_a_restarted_server_and_a_second_copy_are_noticed() -> None:
    assert steps_back([5, 6, 1, 2]) == 1
    assert steps_back([5, 6, 6, 7]) == 1


def test_answers_from_the_flat_list_of_the_probe() -> None:
    assert answers([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == [Answer(1, 2, 3), Answer(4, 5, 6)]


def test_an_answer_that_was_cut_off_is_left_out() -> None:
    assert answers([1.0, 2.0, 3.0, 4.0]) == [Answer(1, 2, 3)]


def test_rate_between_two_moments() -> None:
    heard = [Answer(0, 1, 0), Answer(1, 2, 100), Answer(3, 3, 300), Answer(9, 4, 5000)]
    assert rate(heard, 0, 4) == 100
    assert rate(heard, 8, 10) == 0  # one answer says nothing


def test_what_a_cgroup_used() -> None:
    series = [Use(0, 1.0, 100), Use(1, 1.5, 700), Use(2, 2.0, 300)]
    assert used(series, 0, 2) == (1.0, 600)
    assert used(series, 5, 6) == (0.0, 0)


def test_a_shared_cgroup_counts_for_a_until_the_handover() -> None:
    idle = [Use(0, 0.0, 0), Use(9, 0.0, 0)]
    shared = [Use(0, 1.0, 50), Use(1, 3.0, 60), Use(6, 3.0, 0), Use(8, 10.0, 80)]
    cpu, memory = both_hosts(idle, idle, shared, handover=5)
    assert cpu == (2.0, 7.0)
    assert memory == (10, 80)


def test_hosts_without_a_shared_cgroup() -> None:
    a, b = [Use(0, 1, 5), Use(1, 2, 9)], [Use(0, 4, 5), Use(1, 4.5, 25)]
    assert both_hosts(a, b, [], handover=0.5) == ((1, 0.5), (4, 20))


def test_the_limit_is_dump_and_restore_and_what_cannot_have_been_sent_before() -> None:
    assert limit((0.1, 0.2), 1_000_000, 10e6, 100e6) == pytest.approx(0.1 + 0.2 + 0.01 + 0.01)


def test_median_of_what_was_measured() -> None:
    assert median([None, 3.0, 1.0, 2.0]) == 2.0
    assert median([None]) is None


def test_failed_samples_do_not_count() -> None:
    good = Sample("w", "l", "p", 1, gap=1.0)
    bad = Sample("w", "l", "p", 2, gap=99.0, error="broken")
    other = Sample("w", "l", "q", 1, gap=5.0)
    rows = by_row([good, bad, other])
    assert list(rows) == [("l", "w", "p"), ("l", "w", "q")]
    assert row_median(rows["l", "w", "p"], lambda s: s.gap) == 1.0
