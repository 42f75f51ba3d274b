"""migrate.network_move behind a front end: who is told what, in which order."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from migrate import conntrack
from migrate.journal import Journal
from migrate.messages import (
    AdoptConnections,
    EndForward,
)
from migrate.network_arrival import Arrival
from migrate.network_move import Departure
from tests.unit.migrate.forwards import IDENT, A, B, spec
from tests.unit.migrate.network_world import SESSION, World, known, world
from transport.errors import StreamCorrupt

__all__ = ["world"]


# -- behind a front end ---------------------------------------------------------------------------


class Front:
    """Stands for the connection to the front end's host."""

    def __init__(self, log: list[Any]) -> None:
        self.log = log
        self.known: tuple[str, ...] = ("a connection",)

    def find(self, spec: Any, here: Any, there: Any, there_ip: str, name: str) -> str:
        self.log.append(("find", there_ip, name))
        return "by a front end"

    def connections(self) -> tuple[str, ...]:
        return self.known

    def ready(self, journal: Journal) -> None:
        self.log.append("ready")

    def switch(self) -> None:
        self.log.append("front end switched")

    def close(self) -> None:
        self.log.append("closed")


def behind(world: World, front: Front) -> Departure:
    departure = Departure(world.docker, SESSION, "frontend")
    departure._frontend = front  # type: ignore[assignment]
    view: Any = SimpleNamespace(spec=spec(), target=SimpleNamespace(pid=1), started=2)
    here, there = (SimpleNamespace(network=facts) for facts in (A, B))
    chosen = departure.decide(
        view, here, there, here_id="idx", there_id="idb", name="hostb", address="10.77.0.12"
    )
    assert (chosen.mode, chosen.reason) == ("frontend", "by a front end")
    return departure


def test_the_destination_knows_the_connections_before_it_is_led_to(world: World) -> None:
    departure = behind(world, Front(world.log))
    departure.prepare("B", world.journal)  # type: ignore[arg-type]
    assert world.log == [("find", "10.77.0.12", "hostb")]
    assert world.journal.steps == []
    departure.ready()
    departure.switch()
    assert world.log[1:] == ["ready", ("B", AdoptConnections), "front end switched"]
    assert departure.committed() == []
    departure.close()
    assert world.log[-1] == "closed"


def test_without_connections_the_destination_is_not_asked(world: World) -> None:
    front = Front(world.log)
    front.known = ()
    departure = behind(world, front)
    departure.prepare("B", world.journal)  # type: ignore[arg-type]
    departure.ready()
    departure.switch()
    assert world.log[1:] == ["ready", "front end switched"]


def test_a_front_end_ends_the_forward_that_was_there(world: World) -> None:
    known()
    departure = behind(world, Front([]))
    departure.prepare("C", world.journal)  # type: ignore[arg-type]
    assert departure.committed() == []
    assert world.log == [("remove", IDENT), ("hosta", EndForward), ("hung up", "hosta")]


def test_connections_of_another_host_are_looked_at(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = conntrack.Entry("tcp", ("10.0.0.3", 5), ("10.0.0.2", 80), ("10.9.0.1", 8),
                            ("10.0.0.3", 5))  # fmt: skip
    loaded: list[Any] = []
    monkeypatch.setattr(conntrack, "load_at_once", lambda *given: loaded.append(given))
    arrival = Arrival(world.docker, world.journal, "d" * 64)
    arrival.adopt_connections([])
    arrival.adopt_connections([entry])
    assert loaded == [([entry], "10.9.0.1", 0)]
    with pytest.raises(StreamCorrupt):
        arrival.adopt_connections([entry, entry.aimed_at(("10.0.0.2 -F", 80))])
    assert len(loaded) == 1
