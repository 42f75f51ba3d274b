"""When a container can be frozen: waits that end, and that are not longer than they must be."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from migrate import quiet_moment
from migrate.networks import NetworkSpec
from migrate.progress import Progress
from migrate.quiet_moment import (
    after_announcements,
    announced_for,
    await_moment,
    between_health_checks,
)

MESSAGES, INTERVAL = quiet_moment.MESSAGES[0], quiet_moment.INTERVAL[0]


@pytest.mark.parametrize(
    ("health", "patience", "looks"),
    [({"Test": ["CMD", "true"]}, 5.0, 3), ({"Test": ["CMD", "true"]}, 0.0, 2), (None, 5.0, 1)],
)
def test_a_health_check_is_waited_for_and_nothing_else(
    health: Any, patience: float, looks: int
) -> None:
    running = [["e1"], ["e1"], None]

    def inspect(name: str) -> dict[str, Any]:
        return {"Config": {"Healthcheck": health}, "ExecIDs": running.pop(0)}

    docker: Any = SimpleNamespace(inspect_container=inspect)
    seen = between_health_checks(docker, "app", patience)
    assert 3 - len(running) in (looks, looks - (patience == 0.0))
    assert bool(seen["ExecIDs"]) == (looks < 3)


class Amid:
    """A container with a health check that runs at the given looks; what is done is in `log`."""

    def __init__(self, *running: bool) -> None:
        self.running = list(running)
        self.log: list[str] = []

    def inspect_container(self, name: str) -> dict[str, Any]:
        runs = self.running.pop(0) if self.running else False
        self.log.append("check" if runs else "quiet")
        return {"Config": {"Healthcheck": {"Test": ["x"]}}, "ExecIDs": ["e"] if runs else None}

    def keep_up(self, *, slowly: bool) -> bool:
        self.log.append("meanwhile" if slowly else "last round")
        return True

    def wait(self, meanwhile: Callable[[], object]) -> float:
        self.log.append("turn")
        meanwhile()
        return 1.0


@pytest.mark.parametrize(
    ("running", "log"),
    [
        ((), ["quiet", "turn", "meanwhile", "last round", "quiet"]),
        ((True, False), ["check", "quiet", "turn", "meanwhile", "last round", "quiet"]),
        (
            (False, True, True),  # one begins while it waits for its turn
            ["quiet", "turn", "meanwhile", "last round", "check", "check", "quiet", "last round"],
        ),
    ],
)  # fmt: skip
def test_the_last_is_a_round_in_which_no_check_ran(
    running: tuple[bool, ...], log: list[str]
) -> None:
    world: Any = Amid(*running)
    await_moment(world, "id", [], world, world, lambda: None, Progress(quiet=True))
    assert world.log == log


def network(**options: str) -> NetworkSpec:
    return NetworkSpec(name="lan", driver="macvlan", options=options)


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        ({}, 2.0),
        ({MESSAGES: "0"}, 0.0),
        ({MESSAGES: "1"}, 0.0),
        ({MESSAGES: "2", INTERVAL: "100"}, 0.1),
        ({INTERVAL: "2000"}, 4.0),
        ({INTERVAL: "odd", MESSAGES: "-1"}, 2.0),
    ],
)
def test_how_long_docker_announces(options: dict[str, str], seconds: float) -> None:
    assert announced_for([network(**options)]) == seconds
    assert announced_for([network(**options), network(**{MESSAGES: "1"})]) == seconds
    assert announced_for([]) == 0


class Told:
    """A Docker that has plugged the container in so many seconds ago, or None."""

    def __init__(self, ago: float | None) -> None:
        self.ago = ago
        self.asked: list[float] = []

    def last_plugged(self, container: str, since: float) -> float | None:
        assert container == "id"
        self.asked.append(time.time() - since)
        return None if self.ago is None else time.time() - self.ago


@pytest.mark.parametrize(
    ("ago", "waits"),
    [(None, 0.0), (10.0, 0.0), (0.15, 0.15), (0.0, 0.3), (-100.0, 0.3)],  # the clock was set back
)
def test_announcements_are_waited_for(
    monkeypatch: pytest.MonkeyPatch, ago: float | None, waits: float
) -> None:
    monkeypatch.setattr(quiet_moment, "LATE", 0.1)
    docker: Any = Told(ago)
    checks: list[int] = []
    began = time.monotonic()
    quick = network(**{MESSAGES: "2", INTERVAL: "200"})
    after_announcements(docker, "id", [quick], lambda: checks.append(1))
    took = time.monotonic() - began
    assert waits - 0.03 <= took < waits + 5.0
    assert bool(checks) == (waits > 0)
    assert 0.3 <= docker.asked[0] < 5.3


def test_who_takes_no_address_along_waits_for_nothing() -> None:
    docker: Any = Told(0.0)
    after_announcements(docker, "id", [], lambda: None)
    assert docker.asked == []


def test_a_signal_ends_the_wait() -> None:
    docker: Any = Told(0.0)

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        after_announcements(docker, "id", [network()], interrupted)
