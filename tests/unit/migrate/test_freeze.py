"""The bound of the frozen part: what hangs in it is not waited for."""

from __future__ import annotations

import threading
import time

import pytest

from migrate.errors import FreezeTooLong, Interrupted
from migrate.freeze import Aside, Limit


def test_a_call_aside_gives_its_value_or_what_it_raised() -> None:
    assert Aside(lambda: 7, "seven").join() == 7
    with pytest.raises(IndexError):
        Aside(lambda: [][1], "nothing").join()


def test_a_call_that_hangs_is_left_to_itself() -> None:
    """As when the last pass reads a file of many gigabytes: nothing goes over the link then."""
    over = threading.Event()
    limit = Limit(0.2)
    try:
        aside = Aside(over.wait, "hangs")
        with pytest.raises(FreezeTooLong, match="stood still for 0 s"):
            aside.join(limit.check)
        assert not over.is_set()
    finally:
        over.set()


def test_a_person_can_end_the_waiting() -> None:
    over = threading.Event()

    def signalled() -> None:
        raise Interrupted("interrupted by SIGINT", "")

    try:
        with pytest.raises(Interrupted):
            Aside(over.wait, "hangs").join(signalled)
    finally:
        over.set()


def test_what_is_waited_for_is_ended_when_the_time_is_over() -> None:
    cut, abandoned = threading.Event(), threading.Event()
    limit = Limit(0.05, cut.set, abandoned.set)
    assert cut.wait(20)
    assert abandoned.wait(20)
    assert not limit.kept()
    with pytest.raises(FreezeTooLong):
        limit.check()


def test_after_all_was_in_time_nothing_is_cut_any_more() -> None:
    """Else the link were cut just before `Commit`, and nobody knew who owns the container."""
    cut = threading.Event()
    limit = Limit(0.2, cut.set)
    assert limit.kept()
    time.sleep(0.4)
    assert not cut.is_set()
    limit.check()


def test_a_timer_that_is_just_going_off_comes_too_late() -> None:
    cut = threading.Event()
    limit = Limit(60, cut.set)
    assert limit.kept()
    limit._expire()  # it had begun when `kept` was asked
    assert not cut.is_set()
    assert limit.kept()
