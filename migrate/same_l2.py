"""Addresses that move with the container: of networks that are on the Ethernet of their hosts.

A macvlan (or ipvlan) network puts the container itself on the Ethernet of an interface of its host,
the *parent*. Where both hosts' parents are on the same one, its addresses can simply move. Pure.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from migrate.container_spec import ContainerSpec
from migrate.errors import PlacementFailed
from migrate.network_facts import NetworkFacts
from migrate.networks import NetworkSpec

DRIVERS = ("macvlan", "ipvlan")
PARENT = "parent"
# The modes in which a container is a station of its own on the wire (moby, drivers/macvlan and
# drivers/ipvlan): macvlan's passthru has the parent's address, ipvlan's l3 modes answer no ARP.
_MODES = {
    "macvlan": ("macvlan_mode", ("", "bridge", "private", "vepa")),
    "ipvlan": ("ipvlan_mode", ("", "l2")),
}


class Address(msgspec.Struct, frozen=True):
    """The container's place in such a network. `mode`: macvlan's, which an interface can change;
    "" for ipvlan."""

    network: str
    ipv4: str
    ipv6: str
    mode: str = ""


def moving(spec: ContainerSpec) -> tuple[Address, ...]:
    """The addresses of the container that can move with it."""
    networks = {network.name: network for network in spec.networks if not why_not(network)}
    return tuple(
        Address(e.network, e.ipv4, e.ipv6, _macvlan_mode(networks[e.network]))
        for e in spec.endpoints
        if e.network in networks and (e.ipv4 or e.ipv6)
    )


def why_not(network: NetworkSpec) -> str:
    """Why an address in this network cannot move to another host's, '' when it can."""
    if network.driver not in DRIVERS:
        return f"the network `{network.name}` is of the driver {network.driver}"
    key, modes = _MODES[network.driver]
    if network.options.get(key, "") not in modes:
        return f"the network `{network.name}` is of {network.driver}'s mode {network.options[key]}"
    if network.internal or not network.options.get(PARENT):
        return f"the network `{network.name}` is on no Ethernet of its host"
    return ""


def fitted(
    network: NetworkSpec, source: NetworkFacts, here: NetworkFacts, names: Collection[str]
) -> NetworkSpec:
    """How a network of the source is to be made here: on the parent that is this host's.

    `names`: of this host's interfaces. Raises PlacementFailed when there is no such parent.
    """
    parent = network.options.get(PARENT, "")
    if network.driver not in DRIVERS or not parent:
        return network
    subnets = {found.network for found in source.interfaces if found.name == parent}
    alike = [found.name for found in here.interfaces if found.network in subnets]
    if not alike and parent in names:
        alike = [parent]  # without addresses, as a VLAN for containers alone may be
    if not alike:
        raise PlacementFailed(
            f"the network `{network.name}` is on the interface `{parent}` of its host, and this "
            "host has none in the same subnet or of that name",
            f"make it there: {create_command(network)}",
        )
    mine = parent if parent in alike else alike[0]
    return msgspec.structs.replace(network, options={**network.options, PARENT: mine})


def create_command(network: NetworkSpec) -> str:
    """The command that makes such a network on another host; the parent is to be filled in."""
    words = ["docker network create -d", network.driver, "-o parent=INTERFACE"]
    words += [f"-o {k}={v}" for k, v in network.options.items() if k != PARENT]
    words += ["--ipv6"] if network.ipv6 else []
    for subnet in network.subnets:
        words.append(f"--subnet {subnet.subnet}")
        words += [f"--gateway {subnet.gateway}"] if subnet.gateway else []
        words += [f"--ip-range {subnet.ip_range}"] if subnet.ip_range else []
    return " ".join([*words, network.name])


def same_pool(network: NetworkSpec) -> str:
    """What the user must know of a network that was made like the source's."""
    if network.driver not in DRIVERS:
        return ""
    return (
        f"the network `{network.name}` is made at the destination like the one here: both Dockers "
        "pick addresses from the same range, unless you give them (--ip)"
    )


def _macvlan_mode(network: NetworkSpec) -> str:
    if network.driver != "macvlan":
        return ""
    return network.options.get("macvlan_mode") or "bridge"
