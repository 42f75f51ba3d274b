"""migrate.network_move and network_arrival, when the address itself moves."""

from __future__ import annotations

from typing import Any

import pytest

from migrate import announce
from migrate.errors import HostUnfit
from migrate.messages import EndForward, SetForward, TakeAddresses
from migrate.network_arrival import Arrival
from migrate.undo import StayHere
from tests.unit.migrate.forwards import IDENT
from tests.unit.migrate.network_world import World, known, world
from tests.unit.migrate.test_same_l2 import BOTH, ON_LAN
from transport.errors import StreamCorrupt

__all__ = ["world"]


# -- addresses that move --------------------------------------------------------------------------

MAC = "02:42:0a:4d:00:82"


@pytest.fixture
def place(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The container's interface on its hosts' Ethernet, here and there."""

    class Silence:
        def __init__(self, pid: int, found: tuple[announce.Station, ...]) -> None:
            world.log.append(("ready", pid, [one.mac for one in found]))

        def do(self) -> None:
            world.log.append("silent")

        def close(self) -> None:
            pass

    class Voice(Silence):
        def speak(self) -> None:
            world.log.append("speak")

        def go_on(self) -> None:
            world.log.append("go on")

        def close(self) -> None:
            world.log.append("closed")

        def __init__(self, pid: int, addresses: Any) -> None:
            world.log.append(("voice", pid, addresses[0].ipv4))

    monkeypatch.setattr(announce, "stations", lambda pid, addresses: tuple(
        announce.Station("eth0", MAC, address) for address in addresses))  # fmt: skip
    monkeypatch.setattr(announce, "Silence", Silence)
    monkeypatch.setattr(announce, "Voice", Voice)
    monkeypatch.setattr(announce, "insist", lambda *words: world.log.append(words))
    return world


def test_the_place_here_falls_silent_at_the_switch(place: World) -> None:
    departure = place.departs(container=ON_LAN)
    departure.prepare("B", place.journal)  # type: ignore[arg-type]
    assert place.log == [("B", TakeAddresses)]
    (step,) = place.journal.steps
    assert isinstance(step, StayHere)
    assert (step.pid, step.start_time, step.stations[0].mac) == (1, 2, MAC)
    departure.ready()
    assert place.log[1:] == [("ready", 1, [MAC])]
    departure.switch()
    assert place.log[2:] == ["silent"]
    departure.close()


def test_beside_a_forward_both_are_done(place: World) -> None:
    departure = place.departs(container=BOTH)
    departure.prepare("B", place.journal)  # type: ignore[arg-type]
    departure.ready()
    departure.switch()
    assert [entry for entry in place.log if entry == "silent" or entry[0] in ("B", "switch")] == [
        ("B", TakeAddresses), ("B", SetForward), "silent", ("switch", True),
    ]  # fmt: skip


def test_asked_for_alone_it_ends_the_forward_that_was_there(place: World) -> None:
    known()
    departure = place.departs("same-l2", container=BOTH)
    departure.prepare("C", place.journal)  # type: ignore[arg-type]
    assert departure.committed() == []
    assert place.log == [
        ("C", TakeAddresses), ("remove", IDENT), ("hosta", EndForward), ("hung up", "hosta"),
    ]  # fmt: skip


def test_an_address_without_an_interface_cannot_move(
    place: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announce, "stations", lambda pid, addresses: ())
    with pytest.raises(HostUnfit, match="`lan`"):
        place.departs(container=ON_LAN).prepare("B", place.journal)  # type: ignore[arg-type]
    assert place.log == []


def test_the_new_place_listens_first_and_speaks_at_commit(place: World) -> None:
    place.docker.inspect_network = lambda name: {"Options": {"parent": "ens3"}}
    arrival = Arrival(place.docker, place.journal, "d" * 64)
    addresses = place.departs(container=ON_LAN).choice.takes
    arrival.take(addresses, {"lan": MAC})
    assert place.log == [("ens3", "lan", "10.77.0.130", MAC)]
    arrival.arrived(77)
    arrival.announce()
    arrival.finish()
    arrival.close()
    assert place.log[1:] == [("voice", 77, "10.77.0.130"), "speak", "go on", "speak", "closed"]


def test_a_source_that_does_not_say_who_has_it_is_not_believed(place: World) -> None:
    arrival = Arrival(place.docker, place.journal, "d" * 64)
    with pytest.raises(StreamCorrupt):
        arrival.take(place.departs(container=ON_LAN).choice.takes, {"other": MAC})


def test_without_such_addresses_nothing_is_said(place: World) -> None:
    arrival = Arrival(place.docker, place.journal, "d" * 64)
    arrival.arrived(77)
    arrival.announce()
    arrival.finish()
    arrival.close()
    assert place.log == []
