"""What this host's network is like, as far as a way from one host to another must know it."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from migrate.errors import CommandFailed
from migrate.run import run

SYSCTL = Path("/proc/sys/net")


class Interface(msgspec.Struct, frozen=True):
    """An IPv4 address and where it is: `address` with its prefix length, such as 10.0.0.1/24."""

    name: str
    address: str
    mac: str = ""
    mtu: int = 1500

    @property
    def ip(self) -> str:
        return self.address.partition("/")[0]

    @property
    def network(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Interface(self.address).network


class NetworkFacts(msgspec.Struct, frozen=True):
    """`loose`: whether conntrack takes up a TCP connection in the middle (its default; without,
    established connections cannot be handed over). `nftables_docker`: Docker's own rules are in
    nftables (Docker 29's experimental backend), where it has no DOCKER-USER chain.
    """

    interfaces: tuple[Interface, ...] = ()
    conntrack: bool = False
    loose: bool = True
    nftables_docker: bool = False

    def interface_of(self, address: str) -> Interface | None:
        return next((found for found in self.interfaces if found.ip == address), None)


def network_facts(docker_info: Mapping[str, Any] | None = None) -> NetworkFacts:
    """Look at this host. Never fails: what cannot be found out is left out."""
    links: list[dict[str, Any]] = []
    with contextlib.suppress(CommandFailed, ValueError):
        links = json.loads(run(["ip", "-j", "address", "show", "up"], timeout=10).stdout)
    backend = str(((docker_info or {}).get("FirewallBackend") or {}).get("Driver") or "")
    return NetworkFacts(
        interfaces=parse_addresses(links),
        conntrack=shutil.which("conntrack") is not None,
        loose=_sysctl("netfilter/nf_conntrack_tcp_loose") != "0",
        nftables_docker=backend.startswith("nftables"),
    )


def parse_addresses(links: Sequence[Mapping[str, Any]]) -> tuple[Interface, ...]:
    """The output of `ip -j address`, without loopback."""
    return tuple(
        Interface(
            name=str(link.get("ifname")),
            address=f"{info['local']}/{info['prefixlen']}",
            mac=str(link.get("address") or "") if link.get("link_type") == "ether" else "",
            mtu=int(link.get("mtu") or 1500),
        )
        for link in links
        if "LOOPBACK" not in (link.get("flags") or ())
        for info in link.get("addr_info") or ()
        if info.get("family") == "inet"
    )


def _sysctl(name: str) -> str:
    try:
        return (SYSCTL / name).read_text().strip()
    except OSError:
        return ""
