"""The source's part in its container's network: what clients find, before and after the move."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Protocol

import msgspec

from migrate import announce, forward, forward_probe, forward_store, packet_hold
from migrate.agent_link import AgentLink
from migrate.conntrack import Entry
from migrate.docker_host import DockerHost
from migrate.errors import CommandFailed, HostUnfit, Unsupported
from migrate.forward_record import ANCHOR, Forward, bridge_name
from migrate.forward_upkeep import ANSWER, end_both, forward_to, still_leads_here, told
from migrate.frontend_link import FrontendLink
from migrate.journal import Header, Journal
from migrate.messages import (
    AdoptConnections,
    Done,
    FollowForward,
    HomeForward,
    SetForward,
    SwitchForward,
    TakeAddresses,
)
from migrate.network_facts import NetworkFacts
from migrate.network_mode import (
    FOLLOW,
    FORWARD,
    FRONTEND,
    HOME,
    NONE,
    SAME_L2,
    Choice,
    Ends,
    choose,
)
from migrate.networks import NetworkSpec
from migrate.protocol import call
from migrate.run import run
from migrate.same_l2 import Address
from migrate.source_view import SourceView
from migrate.undo import EndForwardAt, RemoveForward, StayHere
from transport.channel import Channel
from transport.errors import Failure


class Peer(Protocol):
    """What must be known of the other host."""

    @property
    def network(self) -> NetworkFacts: ...


class Departure:
    """One container's way out, in the order of the methods. `choice` says what was decided."""

    def __init__(
        self, docker: DockerHost, session: str, wanted: str, frontend: str | None = None,
        buffer: int = 0,
    ) -> None:  # fmt: skip
        """`wanted`: a network mode; `frontend`: the host of front ends that lead to it; `buffer`:
        so many packets are to be held while it is frozen."""
        self._frontend = FrontendLink(frontend) if frontend else None
        self._channel: Channel | None = None
        self._journal: Journal | None = None
        self._connections: tuple[Entry, ...] = ()
        self._docker = docker
        self._session = session
        self._wanted = wanted
        self._buffer = buffer
        self._hold: packet_hold.Hold | None = None
        self._unheld = ""  # why packets are not held
        self._record: Forward | None = None
        self._switch: forward.Switch | None = None
        self._known: Forward | None = None
        self._third = ExitStack()
        self._process = 0, 0  # of the container: pid, start time
        self._silence: announce.Silence | None = None
        self._stations: tuple[announce.Station, ...] = ()
        self._third_host: AgentLink | None = None
        self.choice = Choice("none", "nothing was decided yet")

    def decide(
        self, view: SourceView, here: Peer, there: Peer, *,
        here_id: str, there_id: str, name: str, address: str | None,
    ) -> Choice:  # fmt: skip
        """Say which way it is to be; changes nothing. `address`: what SSH has reached there."""
        ends = Ends(
            here=here.network, there=there.network, here_ip=_source_of(address),
            there_ip=address or "", here_id=here_id, there_id=there_id, there_name=name,
        )  # fmt: skip
        self._process = view.target.pid, view.started
        self._known = forward_to(view.spec.source_id)
        if self._frontend:
            reason = self._frontend.find(
                view.spec, here.network, there.network, ends.there_ip, name
            )
            self.choice = Choice(FRONTEND, reason)
            return self.choice
        self.choice = choose(
            self._wanted, self._session, view.spec, ends, self._known, self._anchor(there_id)
        )
        if self.choice.mode == FORWARD and self.choice.anchor:
            _refuse_second(self.choice.anchor)
        if self._buffer and self.choice.mode != FORWARD:
            self._unheld = "--buffer holds packets only where a forward begins at this host"
        return self.choice

    def _anchor(self, there_id: str) -> NetworkFacts | None:
        """The facts of the anchor, when it is a third host: a connection to it stays open."""
        known = self._known
        if not known or known.peer_id == there_id or self._wanted == NONE:
            return None
        try:
            self._third_host = self._third.enter_context(AgentLink(known.peer))
            greeting = self._third_host.greet()
            if greeting.host_id != known.peer_id:
                raise Unsupported(f"{known.peer} is another host now")
        except Failure as failure:
            raise Unsupported(
                f"clients come by {known.peer}, which cannot be told of the new way: "
                f"{failure.message}",
                "let this host log in there, or give --network-mode none, which ends the forward",
            ) from failure
        return greeting.facts.network

    def prepare(self, channel: Channel, journal: Journal) -> None:
        """Lay the way on both sides; packets do not take it yet.

        Raises HostUnfit when a host cannot (a kernel without vxlan, a firewall of its own).
        """
        try:
            self._prepare(channel, journal)
        except CommandFailed as failure:
            raise HostUnfit(
                f"the way for its clients cannot be laid: {failure.message}",
                "--network-mode none moves it without",
            ) from failure

    def _prepare(self, channel: Channel, journal: Journal) -> None:
        choice = self.choice
        self._channel, self._journal = channel, journal
        if choice.takes:
            self._take_along(choice.takes, channel, journal)
        if choice.mode == HOME:
            call(channel, HomeForward(choice.ends), Done, ANSWER)
        if not choice.anchor or not choice.target:
            return
        call(channel, SetForward(choice.target), Done, ANSWER)
        if choice.mode == FOLLOW:
            assert self._known
            assert self._third_host
            journal.push(EndForwardAt(self._known.peer, self._session))
            follow = FollowForward(choice.ends, choice.anchor)
            call(self._third_host.channel, follow, Done, ANSWER)
            self._known = msgspec.structs.replace(self._known, successor=self._session)
            forward_store.write(self._known)
            return
        journal.push(RemoveForward(self._session))
        self._drop_stale(choice.anchor)
        bridge = bridge_name(self._docker.inspect_network(choice.anchor.network))
        self._record = forward_store.claim(msgspec.structs.replace(choice.anchor, bridge=bridge))
        forward.lay(self._record, adopting=True)
        forward_probe.insist(self._record.path, self._record.peer)

    def _take_along(
        self, addresses: tuple[Address, ...], channel: Channel, journal: Journal
    ) -> None:
        """The addresses move: the destination must hear them where they are now."""
        pid, started = self._process
        self._stations = announce.stations(pid, addresses)
        if missing := {a.network for a in addresses} - {s.address.network for s in self._stations}:
            raise HostUnfit(f"the container has no interface in the network `{min(missing)}`")
        journal.push(StayHere(pid, started, self._stations))
        holders = {station.address.network: station.mac for station in self._stations}
        call(channel, TakeAddresses(holders), Done, ANSWER)

    def _drop_stale(self, record: Forward) -> None:
        """One of an earlier move of this container, which it has come home from since."""
        for other in _to_the_address(record):
            if not other.away:
                forward.remove(other.id)

    def taken_along(self, networks: Sequence[NetworkSpec]) -> list[NetworkSpec]:
        """Those in which the container's address moves with it."""
        names = {address.network for address in self.choice.takes}
        return [network for network in networks if network.name in names]

    def ready(self) -> None:
        """The freeze begins: be ready to switch in a millisecond."""
        if self._record:
            self._switch = forward.Switch(self._record, away=True)
            if self._buffer:
                self._ready_to_hold(self._record)
        if self._stations:
            self._silence = announce.Silence(self._process[0], self._stations)
        if self._frontend and self._journal:
            self._connections = self._frontend.connections()
            self._frontend.ready(self._journal)

    def _ready_to_hold(self, record: Forward) -> None:
        try:
            self._hold = packet_hold.Hold(record, self._buffer)
        except (CommandFailed, OSError) as problem:
            self._unheld = f"no packets were held: {problem}"

    def hold(self) -> None:
        """It is being frozen: packets wait. Nothing is lost by it when they cannot."""
        if self._hold:
            try:
                self._hold.begin()
            except OSError as problem:
                self._unheld = f"no packets were held: {problem}"

    def let_go(self) -> None:
        """It runs again, wherever: what was held goes there."""
        if self._hold:
            hold, self._hold = self._hold, None
            hold.release()
            try:
                hold.close()
            except CommandFailed as failure:  # it holds nothing, and goes with the forward
                self._unheld = f"a rule of --buffer is left: {failure.message}"

    def switch(self) -> None:
        """All sockets are there, held: from now on packets go to the destination."""
        if self._silence:
            self._silence.do()
        if self._switch:
            self._switch.do()
        if self._frontend and self._channel:
            if self._connections:
                call(self._channel, AdoptConnections(self._connections), Done, ANSWER)
            # Last: when the destination undoes, it should not be led to. It would answer with RST.
            self._frontend.switch()

    def committed(self) -> list[str]:
        """It runs there. Gives warnings."""
        self.let_go()
        return [*([self._unheld] if self._unheld else []), *self._settled()]

    def _settled(self) -> list[str]:
        if self.choice.mode in (NONE, FRONTEND, SAME_L2) and self._known:
            return [warning] if (warning := end_both(self._known)) else []
        if self.choice.mode != FOLLOW or not self._known or not self._third_host:
            return []
        switch = SwitchForward(self._known.id, self._session)
        try:
            call(self._third_host.channel, switch, Done, ANSWER)
        except Failure as failure:
            return [still_leads_here(self._known, failure)]
        forward.remove(self._known.id)
        return []

    def close(self) -> None:
        self.let_go()
        if self._switch:
            self._switch.close()
        if self._frontend:
            self._frontend.close()
        if self._silence:
            self._silence.close()
        self._third.close()


def _to_the_address(record: Forward) -> list[Forward]:
    """The forwards that this host receives for, to the same address of the same network."""
    wanted = ANCHOR, record.network, record.address
    return [f for f in forward_store.read_all() if (f.role, f.network, f.address) == wanted]


def _refuse_second(record: Forward) -> None:
    """Docker gives the address of a container that has moved away to a new one."""
    for other in _to_the_address(record):
        if other.away:
            raise Unsupported(
                f"clients of `{other.name}`, which has moved to {other.peer}, come by this "
                f"container's address {record.address}: there cannot be a second forward to it",
                f"`migrate forward remove {other.id}` ends that one; --network-mode none moves "
                "this one without",
            )


class Ending:
    """The container's end on the host that it has left: Docker takes its rules away, and flushes
    the connections. What must be held is held by a record here, found by session or container."""

    def __init__(self, header: Header) -> None:
        found = forward_store.find(header.session)
        self._anchor = found if found and found.role == ANCHOR else None
        self._target = forward_to(header.container)
        self._entries: list[Entry] = []

    def hold(self) -> None:
        """Before the copy here is killed."""
        if self._anchor:
            forward.lead_away(self._anchor)  # done already, unless a crash came between
            self._entries = forward.hold(self._anchor)
        if self._target:  # before its end is noticed (migrate/forward_end.py): it only moves on
            if self._target.successor and not told(self._target):
                forward.leave_note(self._target)
            else:
                forward.remove(self._target.id)

    def settle(self) -> None:
        """The copy is gone."""
        if self._anchor:
            forward.settle(self._anchor, self._entries)


def _source_of(address: str | None) -> str:
    """The address of this host that the other one sees; '' when there is no way there."""
    if not address:
        return ""
    with suppress(CommandFailed, ValueError, LookupError):
        found = json.loads(run(["ip", "-j", "-4", "route", "get", address], timeout=10).stdout)
        return str(found[0]["prefsrc"])
    return ""
