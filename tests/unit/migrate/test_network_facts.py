"""migrate.network_facts: what `ip -j address` says, and what this host says of itself."""

from __future__ import annotations

from typing import Any

from migrate.network_facts import Interface, NetworkFacts, network_facts, parse_addresses

LINKS: list[dict[str, Any]] = [
    {
        "ifname": "lo", "flags": ["LOOPBACK", "UP"], "link_type": "loopback", "mtu": 65536,
        "address": "00:00:00:00:00:00",
        "addr_info": [{"family": "inet", "local": "127.0.0.1", "prefixlen": 8}],
    },
    {
        "ifname": "eth0", "flags": ["BROADCAST", "UP"], "link_type": "ether", "mtu": 9000,
        "address": "02:00:00:00:00:0a",
        "addr_info": [
            {"family": "inet", "local": "10.0.0.1", "prefixlen": 24},
            {"family": "inet6", "local": "fe80::1", "prefixlen": 64},
            {"family": "inet", "local": "10.0.1.1", "prefixlen": 32},
        ],
    },
    {
        "ifname": "wg0", "flags": ["UP"], "link_type": "none",
        "addr_info": [{"family": "inet", "local": "10.9.0.1", "prefixlen": 24}],
    },
    {"ifname": "down", "flags": [], "addr_info": []},
]  # fmt: skip


def test_addresses_and_where_they_are() -> None:
    found = parse_addresses(LINKS)
    assert found == (
        Interface("eth0", "10.0.0.1/24", "02:00:00:00:00:0a", 9000),
        Interface("eth0", "10.0.1.1/32", "02:00:00:00:00:0a", 9000),
        Interface("wg0", "10.9.0.1/24"),
    )
    facts = NetworkFacts(found)
    assert facts.interface_of("10.0.1.1") == found[1]
    assert facts.interface_of("10.0.0.2") is None


def test_dockers_own_nftables_are_told_from_iptables() -> None:
    assert network_facts({"FirewallBackend": {"Driver": "nftables"}}).nftables_docker
    for other in ({"FirewallBackend": {"Driver": "iptables+firewalld"}}, {}, None):
        assert not network_facts(other).nftables_docker
