"""A forward: the host that clients know goes on to receive for a container that runs elsewhere.

Two hosts have a record of it, each its own: the *anchor*, whose address clients know, and the
*target*, where the container runs. Pure data.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from migrate.container_spec import ContainerSpec
from migrate.network_facts import NetworkFacts
from migrate.networks import EndpointSpec
from transport.errors import StreamCorrupt

ANCHOR, TARGET = "anchor", "target"
MARK = 0x10000000
"""One bit, in packets and in conntrack entries: this one belongs to a forward."""

TUNNEL_PORT = 14789
TABLES, PRIORITIES = 77000, 7700
PROTOCOLS = ("tcp", "udp")


class Published(msgspec.Struct, frozen=True):
    """A port of the container that clients reach at the anchor; `host_ip` "" is any address."""

    protocol: str
    host_ip: str
    host_port: int
    port: int


class Path(msgspec.Struct, frozen=True):
    """The way from one of the hosts to the other one.

    `kind`: `direct`, when both are in one subnet, or `vxlan`. `device`: where packets for the
    other host go out; `gateway`: the next hop there. `mac`, `peer_mac`: of the two devices.
    `vni`, `mtu`, `own`: of the tunnel; `own` is this host's address in it.
    """

    kind: str
    device: str
    here: str
    there: str
    gateway: str
    mac: str
    peer_mac: str
    vni: int = 0
    mtu: int = 1500
    own: str = ""


class Forward(msgspec.Struct, frozen=True):
    """One host's record. `address`: the container's, in both places; `network`: Docker's, by name;
    `subnet`, `bridge`: of it. `peer`: how the other host is called in SSH; `peer_id`: its
    `host_id`.

    `container`: its id at the target (only the target's record has it; "" once it has moved on and
    the anchor is still to be told). `away`: (anchor) packets really go to the target. `successor`:
    (target) the forward that the anchor is to use when the container moves on to a third host.
    `slot`: number of its routing table and rule, from TABLES and PRIORITIES on.
    """

    id: str
    role: str
    name: str
    address: str
    network: str
    subnet: str
    ports: tuple[Published, ...]
    path: Path
    peer: str
    peer_id: str
    bridge: str = ""
    container: str = ""
    away: bool = False
    successor: str = ""
    slot: int = 0

    @property
    def nft_table(self) -> str:
        return f"migrate_{self.id}"

    @property
    def left(self) -> bool:
        """Whether nothing is here any more but what the anchor is to be told."""
        return self.role == TARGET and not self.container

    @property
    def tag(self) -> str:
        return f"migrate:{self.id}"


def checked(forward: Forward) -> Forward:
    """Give it back, or raise StreamCorrupt: what another host says becomes words for nft and ip."""
    path = forward.path
    addresses = [forward.address, path.here, path.there, path.gateway]
    addresses += [port.host_ip for port in forward.ports if port.host_ip]
    addresses += [path.own] if path.own else []
    numbers = [port for one in forward.ports for port in (one.host_port, one.port)]
    try:
        for address in addresses:
            ipaddress.IPv4Address(address)
        ipaddress.IPv4Network(forward.subnet)
    except ValueError as problem:
        raise StreamCorrupt(f"not a forward: {problem}") from problem
    words = (
        all(re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", mac) for mac in (path.mac, path.peer_mac))
        and re.fullmatch(r"[\w.@:-]{1,15}", path.device, re.ASCII)
        and re.fullmatch(r"[a-z0-9]{8,32}", forward.id)
        and path.kind in ("direct", "vxlan")
        and forward.role in (ANCHOR, TARGET)
        and all(port.protocol in PROTOCOLS for port in forward.ports)
        and all(0 < number < 1 << 16 for number in [*numbers, path.mtu])
        and 0 <= path.vni < 1 << 24
    )
    if not words:
        raise StreamCorrupt(f"not a forward: {forward}")
    return forward


def published(spec: ContainerSpec) -> tuple[Published, ...]:
    """The IPv4 ports that other hosts reach: of TCP and UDP, not those bound to loopback."""
    found = []
    for port, bindings in (spec.host_config.get("PortBindings") or {}).items():
        number, _, protocol = port.partition("/")
        for binding in bindings:
            host_ip = str(binding.get("HostIp") or "")
            host_port = str(binding.get("HostPort") or "")
            if (protocol or "tcp") not in PROTOCOLS or not host_port.isdigit():
                continue
            if host_ip:
                address = ipaddress.ip_address(host_ip)
                if address.is_loopback or address.version != 4:
                    continue
                host_ip = "" if address.is_unspecified else host_ip
            found.append(Published(protocol or "tcp", host_ip, int(host_port), int(number)))
    return tuple(dict.fromkeys(found))


def bridge_name(inspect: Mapping[str, Any]) -> str:
    """The interface of a Docker network of the driver `bridge` (moby, bridge_linux.go)."""
    options = inspect.get("Options") or {}
    return str(options.get("com.docker.network.bridge.name") or f"br-{str(inspect['Id'])[:12]}")


def way_endpoint(spec: ContainerSpec) -> EndpointSpec | None:
    """The endpoint by which the container reaches the world, and the world its published ports.

    As Docker picks it (moby, libnetwork/sandbox.go, `Less`): the highest gateway priority, then
    the first name; internal networks lead nowhere.
    """
    inside = {network.name for network in spec.networks if network.internal}
    able = [e for e in spec.endpoints if e.network not in inside and (e.ipv4 or e.had_ipv4)]
    return min(able, key=lambda e: (-e.gw_priority, e.network), default=None)


def address_towards(facts: NetworkFacts, other: str, default: str) -> str:
    """The address of a host that another one in its subnet sees, else `default`."""
    address = ipaddress.ip_address(other)
    return next((found.ip for found in facts.interfaces if address in found.network), default)


def paths(
    session: str, here: NetworkFacts, there: NetworkFacts, here_ip: str, there_ip: str
) -> tuple[Path, Path] | None:
    """The way between two hosts: as this host has it, as the other one does.

    Direct where both are in one subnet; else a tunnel. None when one of the addresses is not on an
    interface of its host (network address translation between them).
    """
    near, far = here.interface_of(here_ip), there.interface_of(there_ip)
    if near is None or far is None:
        return None
    if near.network == far.network and near.mac and far.mac and near.network.prefixlen < 31:
        return (
            Path("direct", near.name, here_ip, there_ip, there_ip, near.mac, far.mac),
            Path("direct", far.name, there_ip, here_ip, here_ip, far.mac, near.mac),
        )
    return tunnel(session, here_ip, there_ip)


def tunnel(session: str, here_ip: str, there_ip: str) -> tuple[Path, Path]:
    """A vxlan of its own. Both hosts know the hardware addresses of both ends, and use made-up
    link-local addresses for them, so that neighbours need not be asked for."""
    digest = hashlib.sha256(session.encode()).hexdigest()
    device = f"mgf{digest[:8]}"
    vni = int(digest[8:14], 16) or 1
    macs = [f"02:6d:{n:02x}:" + ":".join(digest[i : i + 2] for i in (14, 16, 18)) for n in (1, 2)]
    pair = ipaddress.IPv4Address("169.254.1.0") + int(digest[20:24], 16) % (253 << 8) // 2 * 2
    ends = [str(pair), str(pair + 1)]
    return (
        Path("vxlan", device, here_ip, there_ip, ends[1], macs[0], macs[1], vni, own=ends[0]),
        Path("vxlan", device, there_ip, here_ip, ends[0], macs[1], macs[0], vni, own=ends[1]),
    )
