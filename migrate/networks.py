"""Docker networks and a container's place in them, as far as the destination must know them.

Pure. Shapes: `GET /networks/ID` and NetworkSettings.Networks of `GET /containers/ID/json` in the
Docker Engine API.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

import msgspec

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

PREDEFINED = ("bridge", "host", "none", "default")
"""The networks that every Docker has and nobody makes (moby, NetworkMode.IsUserDefined)."""


def parse_api(version: str) -> tuple[int, int]:
    """`"1.41"` as (1, 41), which compares as it should. Raises ValueError for anything else."""
    major, _, minor = version.partition(".")
    return int(major), int(minor)


class SubnetSpec(msgspec.Struct, frozen=True):
    """One entry of IPAM.Config. `subnet` in CIDR; the others "" or {} if not said."""

    subnet: str
    gateway: str = ""
    ip_range: str = ""
    aux_addresses: dict[str, str] = {}


class NetworkSpec(msgspec.Struct, frozen=True):
    """A network that the container is in; enough to make the same one elsewhere."""

    name: str
    driver: str
    subnets: tuple[SubnetSpec, ...] = ()
    ipam_driver: str = "default"
    ipam_options: dict[str, str] = {}
    options: dict[str, str] = {}
    labels: dict[str, str] = {}
    internal: bool = False
    attachable: bool = False
    ipv4: bool = True
    ipv6: bool = False
    scope: str = "local"

    @property
    def predefined(self) -> bool:
        return self.name in PREDEFINED

    def ranges(self) -> tuple[IPNetwork, ...]:
        """The subnets, for comparing."""
        return tuple(ipaddress.ip_network(entry.subnet) for entry in self.subnets)

    def describe(self) -> str:
        """The subnets, for a message."""
        return ", ".join(str(entry) for entry in self.ranges()) or "no subnet"

    def body(self, version: tuple[int, int]) -> dict[str, Any]:
        """The body of `POST /networks/create` for an API of that version.

        The subnet is always said, also if the source's Docker had picked it: only in a network with
        a subnet chosen by the user may a container choose its address.
        """
        body: dict[str, Any] = {
            "Name": self.name,
            "Driver": self.driver,
            "Internal": self.internal,
            "Attachable": self.attachable,
            "EnableIPv6": self.ipv6,
            "Options": self.options,
            "Labels": self.labels,
            "IPAM": {
                "Driver": self.ipam_driver,
                "Options": self.ipam_options,
                "Config": [_ipam_entry(entry) for entry in self.subnets],
            },
        }
        if version < (1, 44):
            body["CheckDuplicate"] = True  # since 1.44 names are unique anyway
        if version >= (1, 47):
            body["EnableIPv4"] = self.ipv4
        return body


class EndpointSpec(msgspec.Struct, frozen=True):
    """The container's place in one network.

    `ipv4`, `ipv6`, `mac`: what to ask for, "" to ask for nothing. `address_may_change`: Docker
    takes no such wish in this network (the default bridge), so another address may come out;
    `had_ipv4` is what the container has now.
    """

    network: str
    ipv4: str = ""
    ipv6: str = ""
    mac: str = ""
    aliases: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    driver_opts: dict[str, str] = {}
    gw_priority: int = 0
    address_may_change: bool = False
    had_ipv4: str = ""

    def body(self, version: tuple[int, int]) -> dict[str, Any]:
        """The EndpointSettings of the create and connect calls for an API of that version."""
        body: dict[str, Any] = {}
        addresses = {"IPv4Address": self.ipv4, "IPv6Address": self.ipv6}
        if self.ipv4 or self.ipv6:
            body["IPAMConfig"] = {key: value for key, value in addresses.items() if value}
        if self.aliases:
            body["Aliases"] = list(self.aliases)
        if self.links:
            body["Links"] = list(self.links)
        if self.driver_opts:
            body["DriverOpts"] = dict(self.driver_opts)
        if self.mac and version >= (1, 44):
            body["MacAddress"] = self.mac
        if self.gw_priority and version >= (1, 48):
            body["GwPriority"] = self.gw_priority
        return body


def network_spec(inspect: Mapping[str, Any]) -> NetworkSpec:
    """Read one network inspect, or one entry of `GET /networks`."""
    ipam = inspect.get("IPAM") or {}
    return NetworkSpec(
        name=str(inspect["Name"]),
        driver=str(inspect["Driver"]),
        subnets=tuple(_subnet(entry) for entry in ipam.get("Config") or () if entry.get("Subnet")),
        ipam_driver=str(ipam.get("Driver") or "default"),
        ipam_options=dict(ipam.get("Options") or {}),
        options=dict(inspect.get("Options") or {}),
        labels=dict(inspect.get("Labels") or {}),
        internal=bool(inspect.get("Internal")),
        attachable=bool(inspect.get("Attachable")),
        ipv4=bool(inspect.get("EnableIPv4", True)),
        ipv6=bool(inspect.get("EnableIPv6")),
        scope=str(inspect.get("Scope") or "local"),
    )


def endpoint_spec(
    network: NetworkSpec,
    settings: Mapping[str, Any] | None,
    *,
    source_id: str,
    hostname: str,
    wanted_mac: str,
) -> EndpointSpec:
    """Read the container's settings in `network`.

    `wanted_mac`: the MAC address that the user had asked for, "" if none. In a user-defined network
    the address Docker picked is kept as well, so that neighbours' ARP entries stay right; on the
    default bridge it is not: Docker <= 27 derives it from the address, which may be another one's.
    """
    values: Mapping[str, Any] = settings or {}
    ipam = values.get("IPAMConfig") or {}
    chosen = not network.predefined
    ipv4 = str(values.get("IPAddress") or ipam.get("IPv4Address") or "")
    # Before API 1.45 the short id, and from Docker 25 on the host name, are listed as aliases
    # though nobody asked for them (moby, api/server/router/container/inspect.go). The id changes
    # and must go, unless it is the host name as well: then others may know the container by it.
    stale = source_id[:12]
    aliases = tuple(
        alias for alias in values.get("Aliases") or () if alias != stale or alias == hostname
    )
    return EndpointSpec(
        network=network.name,
        ipv4=ipv4 if chosen else "",
        ipv6=str(values.get("GlobalIPv6Address") or ipam.get("IPv6Address") or "")
        if chosen
        else "",
        mac=wanted_mac or (str(values.get("MacAddress") or "") if chosen else ""),
        aliases=aliases if chosen else (),
        links=tuple(values.get("Links") or ()),
        driver_opts=dict(values.get("DriverOpts") or {}),
        gw_priority=int(values.get("GwPriority") or 0),
        address_may_change=not chosen and network.driver == "bridge",
        had_ipv4=ipv4,
    )


def _subnet(entry: Mapping[str, Any]) -> SubnetSpec:
    # The gateway of an IPv6 pool that Docker picked comes as fd00::1/64 (moby, buildIPAMResources),
    # which the create call refuses, as Docker >= 25 does host bits in the subnet (ValidateIPAM).
    return SubnetSpec(
        subnet=str(ipaddress.ip_network(str(entry["Subnet"]), strict=False)),
        gateway=str(entry.get("Gateway") or "").partition("/")[0],
        ip_range=str(entry.get("IPRange") or ""),
        aux_addresses=dict(entry.get("AuxiliaryAddresses") or {}),
    )


def _ipam_entry(subnet: SubnetSpec) -> dict[str, Any]:
    entry: dict[str, Any] = {"Subnet": subnet.subnet}
    if subnet.gateway:
        entry["Gateway"] = subnet.gateway
    if subnet.ip_range:
        entry["IPRange"] = subnet.ip_range
    if subnet.aux_addresses:
        entry["AuxiliaryAddresses"] = subnet.aux_addresses
    return entry
