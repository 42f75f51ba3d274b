"""migrate.network_move: packets that wait while the container stands still."""

from __future__ import annotations

from typing import Any

import pytest

from migrate import packet_hold
from migrate.forward_record import ANCHOR, Forward
from migrate.network_move import Departure
from tests.unit.migrate.network_world import World, known, world

__all__ = ["world"]


# -- packets that wait ----------------------------------------------------------------------------


class Hold:
    """Stands for the kernel's queue."""

    log: list[Any]
    fail: Exception | None = None

    def __init__(self, record: Forward, packets: int) -> None:
        self.log.append(("held", record.role, packets))

    def begin(self) -> None:
        if self.fail:
            raise self.fail
        self.log.append("wait")

    def release(self) -> None:
        self.log.append("go")

    def close(self) -> None:
        self.log.append("no more")


@pytest.fixture
def holding(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    Hold.log, Hold.fail = world.log, None
    monkeypatch.setattr(packet_hold, "Hold", Hold)
    return world


def frozen(world: World, buffer: int = 64) -> Departure:
    departure = world.departs(buffer=buffer)
    departure.prepare("B", world.journal)  # type: ignore[arg-type]
    world.log.clear()
    departure.ready()
    departure.hold()
    return departure


def test_packets_wait_from_the_freeze_on_until_it_runs(holding: World) -> None:
    departure = frozen(holding)
    departure.switch()
    assert departure.committed() == []
    departure.close()
    assert holding.log == [("held", ANCHOR, 64), "wait", ("switch", True), "go", "no more"]


def test_packets_go_where_it_runs_on(holding: World) -> None:
    departure = frozen(holding)
    departure.let_go()
    departure.close()
    assert holding.log == [("held", ANCHOR, 64), "wait", "go", "no more"]


def test_nothing_is_held_unless_asked_for(holding: World) -> None:
    frozen(holding, 0).let_go()
    assert holding.log == []


def test_a_queue_that_cannot_be_is_a_warning(holding: World) -> None:
    Hold.fail = OSError(16, "busy")
    departure = frozen(holding)
    departure.switch()
    assert [warning for warning in departure.committed() if "busy" in warning]


def test_where_no_packets_come_in_it_is_said(holding: World) -> None:
    known(peer_id="ida")
    departure = holding.departs(there_id="ida", buffer=64)
    departure.ready()
    departure.hold()
    assert departure.committed() == [
        "--buffer holds packets only where a forward begins at this host"
    ]
    assert not [entry for entry in holding.log if entry == "wait"]
