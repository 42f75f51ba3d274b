"""migrate.same_l2: which addresses can move, and on what the network there is made."""

from __future__ import annotations

from typing import Any

import pytest

from migrate.errors import PlacementFailed, Unsupported
from migrate.network_facts import Interface, NetworkFacts
from migrate.network_mode import choose
from migrate.networks import EndpointSpec, NetworkSpec, SubnetSpec
from migrate.same_l2 import Address, create_command, fitted, moving, same_pool, why_not
from tests.unit.migrate.forwards import APP, FAR, HERE, IDENT, A, B, ends, spec

SUBNETS = (SubnetSpec("10.77.0.0/24", "10.77.0.1", "10.77.0.128/25"), SubnetSpec("fd77::/64"))


def lan(driver: str = "macvlan", *, internal: bool = False, **options: str) -> NetworkSpec:
    return NetworkSpec(
        "lan", driver, SUBNETS, ipv6=True, internal=internal, options={"parent": "eth0", **options}
    )


ENDPOINT = EndpointSpec("lan", "10.77.0.130", "fd77::130", "02:42:0a:4d:00:82")
ON_LAN = spec(networks=(lan(),), endpoints=(ENDPOINT,), ports={})
BOTH = spec(networks=(APP, lan()), endpoints=(HERE, ENDPOINT))


def test_what_moves() -> None:
    assert moving(ON_LAN) == (Address("lan", "10.77.0.130", "fd77::130", "bridge"),)
    assert moving(BOTH) == moving(ON_LAN)
    assert moving(spec()) == ()
    vepa = spec(networks=(lan(macvlan_mode="vepa"),), endpoints=(ENDPOINT,))
    assert [address.mode for address in moving(vepa)] == ["vepa"]
    ipvlan = spec(networks=(lan("ipvlan"),), endpoints=(ENDPOINT,))
    assert [address.mode for address in moving(ipvlan)] == [""]


@pytest.mark.parametrize(
    ("network", "why"),
    [
        (APP, "driver bridge"),
        (lan(macvlan_mode="passthru"), "passthru"),
        (lan("ipvlan", ipvlan_mode="l3"), "mode l3"),
        (lan(internal=True), "no Ethernet"),
        (lan(parent=""), "no Ethernet"),
    ],
)
def test_what_does_not(network: NetworkSpec, why: str) -> None:
    assert why in why_not(network)
    endpoint = EndpointSpec(network.name, "10.77.0.130")
    container = spec(networks=(network,), endpoints=(endpoint,), ports={})
    assert moving(container) == ()
    with pytest.raises(Unsupported, match=why) as refused:
        choose("same-l2", IDENT, container, ends(), None)
    assert "--hook" in refused.value.remedy


def test_the_mode_is_picked_for_what_clients_use() -> None:
    choice = choose("auto", IDENT, ON_LAN, ends(), None)
    assert (choice.mode, choice.warning, choice.takes) == ("same-l2", False, moving(ON_LAN))
    assert "10.77.0.130 (network `lan`)" in choice.reason
    # The way outside is by `app`, where ports are published: a forward, and the address moves, too.
    both = choose("auto", IDENT, BOTH, ends(), None)
    assert (both.mode, both.takes) == ("forward", moving(BOTH))
    assert choose("same-l2", IDENT, BOTH, ends(), None).mode == "same-l2"
    without = spec(networks=(APP, lan()), endpoints=(HERE, ENDPOINT), ports={})
    assert choose("auto", IDENT, without, ends(), None).mode == "same-l2"
    assert choose("none", IDENT, ON_LAN, ends(), None).takes == ()


def test_one_that_stays_silent_is_warned_of() -> None:
    container = spec(networks=(lan("ipvlan", ipvlan_mode="l3"),), endpoints=(ENDPOINT,))
    choice = choose("auto", IDENT, container, ends(), None)
    assert (choice.mode, choice.warning) == ("none", True)
    assert "mode l3" in choice.reason


def test_no_forward_leads_to_such_a_network() -> None:
    with pytest.raises(Unsupported, match="macvlan network `lan`, without ports"):
        choose("forward", IDENT, spec(networks=(lan(),), endpoints=(ENDPOINT,)), ends(), None)


@pytest.mark.parametrize(
    ("source", "here", "names", "parent"),
    [
        (A, B, (), "ens3"),  # of the same subnet, whatever it is called
        (A, A, ("eth0", "eth1"), "eth0"),
        (NetworkFacts(), FAR, ("eth0",), "eth0"),  # without addresses: by name
        (
            A,
            NetworkFacts((*B.interfaces, Interface("eth0", "10.77.0.3/24"))),
            (),
            "eth0",
        ),  # two of that subnet: the one of that name
    ],
)
def test_the_parent_is_that_of_this_host(
    source: NetworkFacts, here: NetworkFacts, names: Any, parent: str
) -> None:
    made = fitted(lan(macvlan_mode="vepa"), source, here, names)
    assert made.options == {"parent": parent, "macvlan_mode": "vepa"}


def test_without_a_parent_there_it_says_what_to_do() -> None:
    with pytest.raises(PlacementFailed, match="none in the same subnet") as refused:
        fitted(lan(), A, FAR, ("ens1",))
    assert refused.value.remedy.endswith(create_command(lan()))


def test_other_networks_are_left_alone() -> None:
    assert fitted(APP, A, FAR, ()) == APP
    assert same_pool(APP) == ""
    assert "`lan`" in same_pool(lan())


def test_the_command_makes_such_a_network() -> None:
    assert create_command(lan(macvlan_mode="vepa")) == (
        "docker network create -d macvlan -o parent=INTERFACE -o macvlan_mode=vepa --ipv6 "
        "--subnet 10.77.0.0/24 --gateway 10.77.0.1 --ip-range 10.77.0.128/25 --subnet fd77::/64 lan"
    )
