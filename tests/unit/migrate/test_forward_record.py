"""migrate.forward_record: what is published, by which endpoint, and the way between two hosts."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from migrate.forward_record import (
    Published,
    address_towards,
    bridge_name,
    checked,
    paths,
    published,
    tunnel,
    way_endpoint,
)
from migrate.network_facts import Interface, NetworkFacts
from migrate.networks import EndpointSpec, NetworkSpec, SubnetSpec
from tests.unit.migrate.forwards import (
    APP,
    DIRECT,
    FAR,
    HERE,
    IDENT,
    TARGETED,
    TUNNELLED,
    A,
    B,
    forward,
    spec,
)
from transport.errors import StreamCorrupt


def bound(host_ip: str, host_port: str = "8080") -> list[dict[str, str]]:
    return [{"HostIp": host_ip, "HostPort": host_port}]


@pytest.mark.parametrize(
    ("port", "bindings", "expected"),
    [
        ("80/tcp", bound(""), (Published("tcp", "", 8080, 80),)),
        ("80/tcp", bound("0.0.0.0"), (Published("tcp", "", 8080, 80),)),
        ("53/udp", bound("10.0.0.1", "53"), (Published("udp", "10.0.0.1", 53, 53),)),
        ("80/tcp", bound("") + bound("0.0.0.0"), (Published("tcp", "", 8080, 80),)),
        ("80/tcp", bound("127.0.0.1"), ()),  # nobody outside can know it
        ("80/tcp", bound("::"), ()),
        ("80/sctp", bound(""), ()),
        ("80/tcp", bound("", ""), ()),
    ],
)
def test_published_ports_are_those_that_other_hosts_reach(
    port: str, bindings: list[dict[str, str]], expected: tuple[Published, ...]
) -> None:
    assert published(spec(ports={port: bindings})) == expected


def test_the_way_is_by_gateway_priority_then_by_name_and_never_inside() -> None:
    inside = NetworkSpec("aaa", "bridge", (SubnetSpec("10.1.0.0/24"),), internal=True)
    other = NetworkSpec("bbb", "bridge", (SubnetSpec("10.2.0.0/24"),))
    ends = [EndpointSpec(name, ipv4="10.0.0.9") for name in ("aaa", "bbb")]
    networks = (APP, inside, other)
    both = spec(networks=networks, endpoints=(HERE, *ends))
    assert way_endpoint(both) == HERE  # app before bbb
    first = EndpointSpec("bbb", ipv4="10.0.0.9", gw_priority=1)
    assert way_endpoint(spec(networks=networks, endpoints=(HERE, ends[0], first))) == first
    assert way_endpoint(spec(networks=networks, endpoints=(ends[0],))) is None


def test_one_subnet_means_direct_and_each_host_has_its_own_view() -> None:
    made = paths(IDENT, A, B, "10.77.0.11", "10.77.0.12")
    assert made
    here, there = made
    assert (here.kind, here.device, here.gateway) == ("direct", "eth0", "10.77.0.12")
    assert (there.kind, there.device, there.gateway) == ("direct", "ens3", "10.77.0.11")
    assert here.peer_mac == there.mac == "02:00:00:00:00:0b"


@pytest.mark.parametrize(
    "facts",
    [
        FAR,
        NetworkFacts((Interface("wg0", "10.77.0.12/24"),)),  # no hardware address: no neighbours
        NetworkFacts((Interface("eth0", "10.77.0.12/25", "02:00:00:00:00:0b"),)),
    ],
)
def test_anything_else_takes_a_tunnel(facts: NetworkFacts) -> None:
    made = paths(IDENT, A, facts, "10.77.0.11", facts.interfaces[0].ip)
    assert made
    here, there = made
    assert here.kind == there.kind == "vxlan"
    assert here.device == there.device
    assert len(here.device) <= 15  # IFNAMSIZ
    assert here.vni == there.vni
    assert 0 < here.vni < 1 << 24
    assert (here.mac, here.peer_mac) == (there.peer_mac, there.mac)
    assert here.mac != there.mac
    assert here.gateway != there.gateway


def test_two_tunnels_do_not_meet() -> None:
    one, two = (tunnel(session, "10.0.0.1", "10.0.0.2")[0] for session in ("a" * 16, "b" * 16))
    assert (one.device, one.vni) != (two.device, two.vni)


def test_an_address_that_is_on_no_interface_means_translation() -> None:
    assert paths(IDENT, A, B, "203.0.113.1", "10.77.0.12") is None
    assert paths(IDENT, A, B, "10.77.0.11", "203.0.113.1") is None


def test_the_bridge_of_a_network() -> None:
    assert bridge_name({"Id": "abcdef0123456789", "Options": {}}) == "br-abcdef012345"
    named = {"Options": {"com.docker.network.bridge.name": "docker0"}, "Id": "x"}
    assert bridge_name(named) == "docker0"


def test_records_of_ours_are_taken() -> None:
    for record in (forward(), TUNNELLED, TARGETED):
        assert checked(record) == record


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "../../etc/x"},
        {"role": "neither"},
        {"address": "10.0.0.1; flush ruleset"},
        {"subnet": "10.0.0.0/33"},
        {"ports": (Published("tcp", "", 0, 80),)},
        {"ports": (Published("tcp", "x", 80, 80),)},
        {"ports": (Published("tcp; drop", "", 80, 80),)},
        {"path": replace(DIRECT, device='eth0"; drop')},
        {"path": replace(DIRECT, peer_mac="02:00")},
        {"path": replace(DIRECT, kind="gre")},
        {"path": replace(DIRECT, gateway="fe80::1")},
        {"path": replace(DIRECT, vni=1 << 24)},
    ],
)
def test_what_could_be_more_than_a_word_is_not(wrong: dict[str, Any]) -> None:
    with pytest.raises(StreamCorrupt):
        checked(forward(**wrong))


def test_the_address_that_another_host_sees() -> None:
    two = NetworkFacts((Interface("eth0", "192.0.2.1/24"), Interface("eth1", "10.77.0.11/24")))
    assert address_towards(two, "10.77.0.12", "192.0.2.1") == "10.77.0.11"
    assert address_towards(two, "203.0.113.1", "192.0.2.1") == "192.0.2.1"
