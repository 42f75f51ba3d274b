"""Networks and versions, read and said again."""

from __future__ import annotations

import pytest

from migrate.networks import network_spec, parse_api
from tests.unit.migrate import inspects


def test_a_network_can_be_made_again() -> None:
    inspect = inspects.network(EnableIPv6=True)
    inspect["IPAM"]["Config"].append({"Subnet": "fd00:1::/64", "Gateway": "fd00:1::1/64"})
    network = network_spec(inspect)
    body = network.body((1, 41))
    assert body["IPAM"]["Config"] == [
        {"Subnet": "172.30.0.0/24", "Gateway": "172.30.0.1"},
        {"Subnet": "fd00:1::/64", "Gateway": "fd00:1::1"},
    ]
    assert body["Options"] == {"com.docker.network.driver.mtu": "1400"}
    assert body["EnableIPv6"] is True
    assert body["CheckDuplicate"] is True
    assert "EnableIPv4" not in body
    assert network.body((1, 51))["EnableIPv4"] is True


def test_a_subnet_with_host_bits_is_made_clean() -> None:
    network = network_spec(inspects.network(subnet="172.30.0.5/24"))
    assert network.body((1, 51))["IPAM"]["Config"][0]["Subnet"] == "172.30.0.0/24"
    assert network.describe() == "172.30.0.0/24"


def test_versions_compare_as_numbers() -> None:
    assert parse_api("1.9") < parse_api("1.41") < parse_api("1.51")
    with pytest.raises(ValueError, match="auto"):
        parse_api("auto")
