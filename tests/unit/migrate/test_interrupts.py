"""migrate.interrupts: one orderly end before commit, deaf afterwards."""

from __future__ import annotations

import os
import signal
import threading
from types import SimpleNamespace

import pytest

from migrate.errors import Interrupted
from migrate.interrupts import SIGNALS, Interrupts, Stops


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_is_an_orderly_end_and_only_one(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interrupts():
        with pytest.raises(Interrupted, match=number.name) as caught:
            os.kill(os.getpid(), number)
        assert caught.value.exit_code == 130
        for other in SIGNALS:  # the undoing is not interrupted
            os.kill(os.getpid(), other)
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_after_hold_nothing_is_heard(number: signal.Signals) -> None:
    with Interrupts() as interrupts:
        interrupts.hold()
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_what_stops_a_planning_is_no_failure_and_can_come_again(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.5
    monkeypatch.setattr("migrate.interrupts.time", SimpleNamespace(monotonic=lambda: now))
    with Stops() as stops:
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt, match=number.name):
                os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)  # while the end is being told
            now += 2
        stops.hold()
        os.kill(os.getpid(), number)


def test_nohup_means_what_it_says() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts(), Stops():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_was_noted_politely_is_the_cause_until_it_is_too_late() -> None:
    with Interrupts() as interrupts:
        interrupts.polite()
        assert interrupts.noted() is None
        os.kill(os.getpid(), signal.SIGTERM)
        noted = interrupts.noted()
        assert noted
        assert "SIGTERM" in noted.message
        interrupts.hold()
        assert interrupts.noted() is None


def test_a_sleep_is_woken_up() -> None:
    timer = threading.Timer(0.6, os.kill, (os.getpid(), signal.SIGTERM))
    with Interrupts():
        timer.start()  # only now: before, it would end the tests
        with pytest.raises(Interrupted):
            threading.Event().wait(60)


def test_the_handlers_come_back_after_a_failure() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(ValueError, match="no"), Interrupts():
        raise ValueError("no")
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_other_threads_leave_signals_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def body() -> None:
        with Interrupts():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_polite_one_is_only_heard_where_it_is_asked_for() -> None:
    with Interrupts() as interrupts:
        interrupts.polite()
        interrupts.check()
        os.kill(os.getpid(), signal.SIGTERM)  # in the middle of something
        with pytest.raises(Interrupted, match="SIGTERM"):
            interrupts.check()
        interrupts.hold()
        interrupts.check()
