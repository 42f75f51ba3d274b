"""Front ends: a host with an address of its own that passes on to wherever a service runs.

A front end is one port of that host and the backend behind it. Pure data.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence

import msgspec

from migrate.errors import FrontendUnfit
from migrate.forward_record import PROTOCOLS, Published, address_towards
from migrate.network_facts import NetworkFacts
from transport.errors import BadTarget, StreamCorrupt

REMEMBERED = 8
"""Backends that a front end remembers: of a wanderer's last ones packets may still come."""

Backend = tuple[str, int]
"""Where to: an IPv4 address, and a port there."""


class Frontend(msgspec.Struct, frozen=True):
    """`port`, of `protocol`, of this host leads to `backend`. `before`: where it led earlier."""

    name: str
    protocol: str
    port: int
    backend: Backend
    before: tuple[Backend, ...] = ()

    def led_to(self, backend: Backend) -> Frontend:
        """The same front end with another backend."""
        known = dict.fromkeys((self.backend, *self.before))
        before = tuple(one for one in known if one != backend)[:REMEMBERED]
        return msgspec.structs.replace(self, backend=backend, before=before)


class Lead(msgspec.Struct, frozen=True):
    """A change: the front end `name` is to lead from backend `old` to backend `new`."""

    name: str
    old: Backend
    new: Backend

    def back(self) -> Lead:
        return Lead(self.name, self.new, self.old)


def checked(frontend: Frontend) -> Frontend:
    """Give it back, or raise BadTarget: its values become words for nft and conntrack."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", frontend.name, re.ASCII):
        raise BadTarget(
            f"`{frontend.name}` is no name for a front end",
            "use letters, digits, `_`, `.` and `-`; at most 63 of them",
        )
    if frontend.protocol not in PROTOCOLS or not 0 < frontend.port < 1 << 16:
        raise BadTarget(f"no port: {frontend.port}/{frontend.protocol}", "")
    for backend in (frontend.backend, *frontend.before):
        _check(backend)
    return frontend


def checked_leads(leads: Iterable[Lead]) -> tuple[Lead, ...]:
    """Give them back, or raise StreamCorrupt: they may come from another host."""
    found = tuple(leads)
    try:
        for lead in found:
            _check(lead.new)
    except BadTarget as problem:
        raise StreamCorrupt(problem.message) from problem
    return found


def _check(backend: Backend) -> None:
    address, port = backend
    try:
        parsed = ipaddress.IPv4Address(address)
    except ValueError as problem:
        raise BadTarget(f"no IPv4 address of a backend: {address}", "") from problem
    if parsed.is_loopback or parsed.is_unspecified or parsed.is_multicast:
        raise BadTarget(f"{address} is no address of another host", "")
    if not 0 < port < 1 << 16:
        raise BadTarget(f"no port of a backend: {port}", "")


def parse_port(text: str) -> tuple[str, int]:
    """`27960/udp` as protocol and number; TCP is the default, as with `docker run -p`."""
    number, slash, protocol = text.partition("/")
    if not slash:
        protocol = "tcp"
    if not re.fullmatch(r"[0-9]{1,5}", number) or not 0 < int(number) < 1 << 16:
        raise BadTarget(f"`{text}` is no port", "give one such as 27960/udp or 443/tcp")
    if protocol not in PROTOCOLS:
        raise BadTarget(f"`{text}`: only udp and tcp have ports here", "")
    return protocol, int(number)


def parse_backend(text: str, default: int) -> tuple[str, int]:
    """`HOST[:PORT]` as the host, which may be a name yet, and the port, else `default`."""
    host, _, port = text.rpartition(":") if ":" in text else (text, "", str(default))
    if not host or not re.fullmatch(r"[A-Za-z0-9.-]{1,253}", host, re.ASCII):
        raise BadTarget(f"`{text}` is no backend", "give HOST or HOST:PORT; IPv4 only")
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 1 << 16:
        raise BadTarget(f"`{text}`: `{port}` is no port", "")
    return host, int(port)


def leads(
    frontends: Sequence[Frontend],
    ports: Sequence[Published],
    here: NetworkFacts,
    there: NetworkFacts,
    there_ip: str,
) -> tuple[Lead, ...]:
    """What has to change at a front end when a container with those ports goes from here to there.

    The new address is that of the other host in the subnet of the old one, else `there_ip`, by
    which this host reaches it. Raises FrontendUnfit when none of the front ends leads here.
    """
    own = {interface.ip for interface in here.interfaces}
    found = []
    for frontend in frontends:
        address, number = frontend.backend
        for port in ports:
            same = (port.protocol, port.host_port) == (frontend.protocol, number)
            if same and address in own and port.host_ip in ("", address):
                found.append(Lead(frontend.name, frontend.backend,
                                  (_there(address, here, there, there_ip), number)))  # fmt: skip
                break
    if found:
        return tuple(found)
    shown = ", ".join(f"{one.name} to {show(one.backend)}" for one in frontends)
    raise FrontendUnfit(
        "no front end leads to a published port of the container on this host "
        f"(it has {shown or 'none at all'})",
        "`migrate frontend add` or `switch` at the front end makes one do so",
    )


def _there(address: str, here: NetworkFacts, there: NetworkFacts, there_ip: str) -> str:
    """The other host's address as the front end is to know it."""
    mine = here.interface_of(address)
    found = address_towards(there, address, "") if mine else ""
    if not found and not there_ip:
        raise FrontendUnfit("the destination's address is not known to this host")
    return found or there_ip


def show(backend: Backend) -> str:
    return f"{backend[0]}:{backend[1]}"
