"""migrate.network_move and network_arrival: who lays, switches and ends what, in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from migrate import announce, conntrack, forward_store, network_arrival, network_move, packet_hold
from migrate.container_spec import ContainerSpec
from migrate.errors import HostUnfit, Unsupported
from migrate.forward_record import ANCHOR, TARGET, Forward
from migrate.journal import Header, Journal
from migrate.messages import (
    AdoptConnections,
    EndForward,
    FollowForward,
    HomeForward,
    SetForward,
    SwitchForward,
    TakeAddresses,
)
from migrate.network_arrival import Arrival
from migrate.network_facts import NetworkFacts
from migrate.network_move import Departure, Ending, end_both
from migrate.undo import EndForwardAt, LeadAway, RemoveForward, StayHere
from tests.unit.migrate.forwards import IDENT, TARGETED, A, B, forward, spec
from tests.unit.migrate.test_same_l2 import BOTH, ON_LAN
from transport.errors import HostUnreachable, StreamCorrupt

SESSION = "f" * 16


class World:
    """Stands for the kernel's rules, for SSH and for Docker; `log` has what was asked of them."""

    def __init__(self, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[Any] = []
        self.lost: BaseException | None = None
        self.id_there = "ida"
        monkeypatch.setattr(forward_store, "DIRECTORY", top / "forwards")
        self.journal = Journal.create(
            Header(SESSION, "source", "c" * 64, "web", "hostb", 0.0), top / "journal"
        )
        rules: Any = SimpleNamespace(
            lay=lambda record, adopting=False: self.log.append(("lay", record.role, adopting)),
            lead_away=lambda record: self.log.append("lead away"),
            Switch=lambda record, away: SimpleNamespace(
                do=lambda: self.log.append(("switch", away)), close=lambda: None
            ),
            hold=self._says("hold", ["an entry"]),
            adopt=self._says("adopt", ["an entry"]),
            settle=lambda record, entries: self.log.append(("settle", entries)),
            end=self._says("end"),
            remove=self._remove,
            forget_neighbour=self._says("forget neighbour"),
        )
        for module in (network_move, network_arrival):
            monkeypatch.setattr(module, "forward", rules)
            monkeypatch.setattr(module, "call", self._call, raising=False)
        monkeypatch.setattr(network_move, "AgentLink", self._link)
        monkeypatch.setattr(network_move, "_source_of", lambda address: "10.77.0.11")
        monkeypatch.setattr(conntrack, "present", lambda: True)
        for name in ("forget", "load"):
            monkeypatch.setattr(conntrack, name, self._says(name))
        self.docker: Any = SimpleNamespace(inspect_network=lambda name: {"Id": "1234567890abcdef"})

    def _says(self, name: str, value: Any = None) -> Callable[..., Any]:
        def body(*_: Any) -> Any:
            self.log.append(name)
            return value

        return body

    def _remove(self, ident: str) -> None:
        self.log.append(("remove", ident))
        forward_store.delete(ident)

    @contextmanager
    def _link(self, host: str) -> Iterator[Any]:
        if self.lost:
            raise self.lost
        facts = SimpleNamespace(network=NetworkFacts(A.interfaces))
        greeting = SimpleNamespace(host_id=self.id_there, facts=facts)
        yield SimpleNamespace(channel=host, greet=lambda: greeting)
        self.log.append(("hung up", host))

    def _call(self, channel: Any, message: Any, *_: Any) -> None:
        self.log.append((channel, type(message)))
        if self.lost:
            raise self.lost

    def departs(
        self,
        wanted: str = "auto",
        there_id: str = "idb",
        container: ContainerSpec | None = None,
        buffer: int = 0,
    ) -> Departure:
        view: Any = SimpleNamespace(
            spec=container or spec(), target=SimpleNamespace(pid=1), started=2
        )
        departure = Departure(self.docker, SESSION, wanted, buffer=buffer)
        here, there = (SimpleNamespace(network=facts) for facts in (A, B))
        departure.decide(
            view, here, there, here_id="idx", there_id=there_id, name="hostb",
            address="10.77.0.12",
        )  # fmt: skip
        return departure


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def known(**more: Any) -> Forward:
    """This host is the target of a forward to the container."""
    record = msgspec.structs.replace(TARGETED, container="c" * 64, peer="hosta", peer_id="ida")
    record = msgspec.structs.replace(record, **more)
    forward_store.write(record)
    return record


# -- the source -----------------------------------------------------------------------------------


def test_the_target_is_laid_first_and_nothing_leads_there_before_the_switch(world: World) -> None:
    departure = world.departs()
    departure.prepare("B", world.journal)  # type: ignore[arg-type]
    assert world.log == [("B", SetForward), ("lay", ANCHOR, True)]
    assert world.journal.steps == [RemoveForward(SESSION)]
    record = forward_store.find(SESSION)
    assert record
    assert (record.bridge, record.away) == ("br-1234567890ab", False)
    departure.ready()
    departure.switch()
    assert world.log[2:] == [("switch", True)]
    assert departure.committed() == []


def test_what_an_earlier_move_left_goes(world: World) -> None:
    forward_store.write(forward())
    world.departs().prepare("B", world.journal)  # type: ignore[arg-type]
    assert ("remove", IDENT) in world.log


def test_the_end_of_the_copy_is_framed(world: World) -> None:
    world.departs().prepare("B", world.journal)  # type: ignore[arg-type]
    world.log.clear()
    ending = Ending(world.journal.header)
    ending.hold()
    assert world.log == ["lead away", "hold"]
    ending.settle()
    assert world.log[2:] == [("settle", ["an entry"])]


def test_home_is_told_and_the_target_ends_before_its_container(world: World) -> None:
    known()
    departure = world.departs(there_id="ida")
    departure.prepare("A", world.journal)  # type: ignore[arg-type]
    departure.ready()
    departure.switch()
    assert departure.committed() == []
    assert world.log == [("A", HomeForward)]
    ending = Ending(world.journal.header)
    ending.hold()
    assert world.log[1:] == [("remove", IDENT)]


def test_a_third_host_is_led_to_after_commit(world: World) -> None:
    known()
    departure = world.departs()
    departure.prepare("C", world.journal)  # type: ignore[arg-type]
    assert world.log == [("C", SetForward), ("hosta", FollowForward)]
    assert world.journal.steps == [EndForwardAt("hosta", SESSION)]
    departure.switch()
    assert departure.committed() == []
    assert world.log[2:] == [("hosta", SwitchForward), ("remove", IDENT)]
    departure.close()
    assert world.log[-1] == ("hung up", "hosta")


def test_an_anchor_lost_after_commit_is_a_warning_and_asked_once_more(world: World) -> None:
    known()
    departure = world.departs()
    departure.prepare("C", world.journal)  # type: ignore[arg-type]
    world.lost = HostUnreachable("no route")
    assert departure.committed() == ["hosta still leads its clients here: no route"]
    world.lost = None
    world.log.clear()
    Ending(world.journal.header).hold()
    assert world.log == [("hosta", SwitchForward), ("hung up", "hosta"), ("remove", IDENT)]


def test_an_anchor_that_cannot_be_told_is_said_before_anything_is_done(world: World) -> None:
    known()
    world.lost = HostUnreachable("no route")
    with pytest.raises(Unsupported, match="hosta, which cannot be told of the new way: no route"):
        world.departs()
    world.lost, world.id_there = None, "another"
    with pytest.raises(Unsupported, match="another host now"):
        world.departs()
    assert world.journal.steps == []


def test_none_ends_what_was_there(world: World) -> None:
    known()
    departure = world.departs("none")
    departure.prepare("C", world.journal)  # type: ignore[arg-type]
    assert world.log == []
    assert departure.committed() == []
    assert world.log == [("remove", IDENT), ("hosta", EndForward), ("hung up", "hosta")]


def test_an_end_that_the_other_host_does_not_hear_of_is_said(world: World) -> None:
    record = known()
    world.id_there = "another"
    assert "hosta could not be told: hosta is another host now" in end_both(record)
    world.lost = HostUnreachable("no route")
    assert "no route; `migrate forward remove` there does it" in end_both(record)
    assert forward_store.read_all() == []


# -- the destination ------------------------------------------------------------------------------


def test_a_target_begins_afresh(world: World) -> None:
    arrival = Arrival(world.docker, world.journal, "d" * 64)
    arrival.set_forward(forward(TARGET, id=SESSION))
    assert world.log == ["forget", "forget neighbour", ("lay", TARGET, False)]
    assert world.journal.steps == [RemoveForward(SESSION)]
    record = forward_store.find(SESSION)
    assert record
    assert record.container == "d" * 64
    world.log.clear()
    arrival.commit()
    arrival.settle()
    arrival.finish()
    assert world.log == []


@pytest.mark.parametrize("record", [forward(id=SESSION), forward(TARGET)])
def test_only_the_sessions_own_target_is_taken(world: World, record: Forward) -> None:
    with pytest.raises(StreamCorrupt):
        Arrival(world.docker, world.journal, "d" * 64).set_forward(record)


def test_home_the_connections_are_held_over_dockers_flush(world: World) -> None:
    forward_store.write(forward(away=True))
    arrival = Arrival(world.docker, world.journal, "d" * 64)
    arrival.come_home(IDENT)
    assert world.journal.steps == [LeadAway(IDENT)]
    assert world.log == ["forget neighbour", "adopt"]
    arrival.commit()
    arrival.settle()
    arrival.finish()
    assert world.log[2:] == [("switch", False), "end", "load", ("remove", IDENT)]


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
