"""The destination's part in the network of a container that comes here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

import msgspec

from migrate import announce, conntrack, forward, forward_store
from migrate.conntrack import Entry
from migrate.docker_host import DockerHost
from migrate.errors import CommandFailed, PlacementFailed
from migrate.forward_record import ANCHOR, MARK, TARGET, Forward, bridge_name, checked
from migrate.journal import Journal
from migrate.same_l2 import PARENT, Address
from migrate.undo import LeadAway, RemoveForward
from transport.errors import StreamCorrupt


class Arrival:
    """One container's way in, in the order of the methods; without a forward they do nothing."""

    def __init__(self, docker: DockerHost, journal: Journal, container: str) -> None:
        self._docker = docker
        self._journal = journal
        self._container = container
        self._home: Forward | None = None
        self._switch: forward.Switch | None = None
        self._entries: list[Entry] = []
        self._addresses: tuple[Address, ...] = ()
        self._voice: announce.Voice | None = None

    def set_forward(self, record: Forward) -> None:
        """This host is to be the target: what comes from the anchor goes in, answers go back."""
        if record.role != TARGET or record.id != self._journal.header.session:
            raise StreamCorrupt("not the record of this session's target")
        checked(record)
        inspected = self._docker.inspect_network(record.network)
        self._journal.push(RemoveForward(record.id))
        laid = forward_store.claim(
            msgspec.structs.replace(
                record, bridge=bridge_name(inspected), container=self._container
            )
        )
        if conntrack.present():
            conntrack.forget(laid.address)
        forward.forget_neighbour(laid)
        forward.lay(laid)

    def come_home(self, ident: str) -> None:
        """The container comes back to this host, which has received for it meanwhile."""
        record = forward_store.find(ident)
        if record is None or record.role != ANCHOR:
            raise PlacementFailed(
                f"the destination knows of no forward {ident}",
                "`migrate forward list` there shows those it has",
            )
        self._journal.push(LeadAway(ident))
        self._home = record
        forward.forget_neighbour(record)
        # Docker flushes the address's connections when it plugs the container in.
        self._entries = forward.adopt(record)
        self._switch = forward.Switch(record, away=False)

    def adopt_connections(self, entries: Sequence[Entry]) -> None:
        """They come by a front end, and are to go on here, whoever speaks first."""
        if entries and conntrack.present():
            found = [conntrack.checked(one) for one in entries]
            conntrack.load_at_once(found, found[0].reply_source[0], 0)

    def take(self, addresses: Sequence[Address], holders: Mapping[str, str]) -> None:
        """Its addresses move here. Raises PlacementFailed when they cannot be heard from here at
        the `holders`: hardware addresses by network."""
        for address in addresses:
            holder = holders.get(address.network)
            if holder is None:
                raise StreamCorrupt(f"no hardware address in the network {address.network}")
            network = self._docker.inspect_network(address.network)
            parent = str((network.get("Options") or {}).get(PARENT) or "")
            if address.ipv4:
                announce.insist(parent, address.network, address.ipv4, holder)
        self._addresses = tuple(addresses)

    def arrived(self, pid: int) -> None:
        """Process `pid` of the container is there, with all interfaces."""
        if self._addresses:
            self._voice = announce.Voice(pid, self._addresses)

    def announce(self) -> None:
        """The source is silent, and the tasks are about to run here."""
        if self._voice:
            self._voice.speak()
            self._voice.go_on()

    def commit(self) -> None:
        """The tasks are told to run: packets go to them here. A rule that is gone already, or one
        that stays until `settle`, is no reason to undo a container that runs."""
        if self._switch:
            with suppress(CommandFailed):
                self._switch.do()

    def settle(self) -> None:
        """It runs, for good: a boot must not lead its packets away again."""
        if self._home:
            forward.end(self._home)
            conntrack.load(self._entries, self._home.address, MARK)

    def finish(self) -> None:
        """The source's copy is gone: no packet takes the detour any more, and only here is one who
        has the addresses."""
        if self._voice:
            self._voice.speak()
        if self._home:
            forward.remove(self._home.id)

    def close(self) -> None:
        if self._voice:
            self._voice.close()
        if self._switch:
            self._switch.close()
