"""migrate.network_mode: what is picked, why, and what is refused."""

from __future__ import annotations

import msgspec
import pytest

from migrate.errors import Unsupported
from migrate.forward_record import ANCHOR, TARGET
from migrate.network_facts import Interface, NetworkFacts
from migrate.network_mode import choose
from migrate.networks import EndpointSpec
from tests.unit.migrate.forwards import BRIDGE, FAR, IDENT, TARGETED, B, ends, spec

BY_DEFAULT_BRIDGE = spec(
    networks=(BRIDGE,),
    endpoints=(EndpointSpec("bridge", had_ipv4="172.17.0.2", address_may_change=True),),
)
NFT = NetworkFacts(B.interfaces, nftables_docker=True)


def test_a_published_port_is_forwarded() -> None:
    choice = choose("auto", IDENT, spec(), ends(), None)
    assert choice.mode == "forward"
    assert not choice.warning
    assert "its published port" in choice.reason
    assert "directly" in choice.reason
    assert choice.anchor
    assert choice.target
    assert (choice.anchor.role, choice.target.role) == (ANCHOR, TARGET)
    assert (choice.anchor.peer_id, choice.target.peer_id) == ("idb", "ida")
    assert choice.anchor.path.there == choice.target.path.here == "10.77.0.12"
    assert choice.anchor.address == choice.target.address == "10.99.0.10"


def test_no_port_no_forward_unless_asked_for() -> None:
    bare = spec(ports={})
    assert choose("auto", IDENT, bare, ends(), None).mode == "none"
    assert choose("forward", IDENT, bare, ends(), None).mode == "forward"


def test_a_tunnel_is_said_to_be_open() -> None:
    assert "not encrypted" in choose("auto", IDENT, spec(), ends(there=FAR), None).reason


@pytest.mark.parametrize(
    ("container", "hosts", "why"),
    [
        (BY_DEFAULT_BRIDGE, ends(), "cannot keep its address"),
        (spec(), ends(there=NFT), "Docker there keeps its rules in nftables"),
        (spec(), ends(there_ip="203.0.113.9"), "address translation"),
        (spec(endpoints=()), ends(), "no network that leads outside"),
    ],
)
def test_what_cannot_be_is_warned_of_or_refused(container, hosts, why) -> None:  # type: ignore[no-untyped-def]
    choice = choose("auto", IDENT, container, hosts, None)
    assert (choice.mode, choice.warning) == ("none", True)
    assert why in choice.reason
    with pytest.raises(Unsupported, match=why):
        choose("forward", IDENT, container, hosts, None)


@pytest.mark.parametrize("wanted", ["auto", "forward"])
def test_home_is_where_the_forward_comes_from(wanted: str) -> None:
    known = msgspec.structs.replace(TARGETED, peer_id="idb")
    choice = choose(wanted, "f" * 16, spec(), ends(), known)
    assert (choice.mode, choice.ends) == ("home", IDENT)


def test_none_is_none() -> None:
    known = msgspec.structs.replace(TARGETED, peer_id="idb")
    assert choose("none", IDENT, spec(), ends(), known).mode == "none"


def test_a_third_host_is_led_to_from_the_anchor() -> None:
    known = msgspec.structs.replace(TARGETED, peer="10.77.0.10", peer_id="idx")
    anchor = NetworkFacts((Interface("eth7", "10.77.0.10/24", "02:00:00:00:00:0d"),))
    choice = choose("auto", "f" * 16, spec(), ends(), known, anchor)
    assert (choice.mode, choice.ends) == ("follow", IDENT)
    assert choice.anchor
    assert choice.target
    assert (choice.anchor.role, choice.anchor.path.device) == (ANCHOR, "eth7")
    assert (choice.anchor.peer, choice.anchor.peer_id) == ("10.77.0.12", "idb")
    assert (choice.target.role, choice.target.peer, choice.target.peer_id) == (
        TARGET, "10.77.0.10", "idx",
    )  # fmt: skip
    assert choice.anchor.ports == known.ports
    assert choice.anchor.id == choice.target.id == "f" * 16
    # Not by this host: neither record names it.
    assert "10.77.0.11" not in str((choice.anchor.path, choice.target.path))


def test_a_third_host_that_the_anchor_cannot_reach_is_refused() -> None:
    known = msgspec.structs.replace(TARGETED, peer_id="idx")
    with pytest.raises(Unsupported, match="cannot reach hostb"):
        choose("auto", "f" * 16, spec(), ends(there_ip="203.0.113.1"), known, FAR)


def test_where_conntrack_takes_up_no_connection_it_is_said() -> None:
    strict = NetworkFacts(B.interfaces, loose=False)
    choice = choose("auto", IDENT, spec(), ends(there=strict), None)
    assert (choice.mode, choice.warning) == ("forward", True)
    assert "nf_conntrack_tcp_loose is 0 there" in choice.reason
    game = spec(ports={"27960/udp": [{"HostIp": "", "HostPort": "27960"}]})
    assert not choose("auto", IDENT, game, ends(there=strict), None).warning
