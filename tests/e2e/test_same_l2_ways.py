"""`same-l2` where something is missing or wrong, and what a routed bridge needs instead."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.e2e import test_same_l2 as usual
from tests.e2e.world import ADDRESS as ROUTED
from tests.e2e.world import NETWORK, World, eventually
from tests.e2e.world import world as make_world


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with make_world("e2el3", request.config.getoption("--pair") or "mixed") as made:
        made.client.write("/root/tcp_client.py", (usual.WORKLOADS / "tcp_client.py").read_text())
        yield made


@pytest.fixture(autouse=True)
def _networks(world: World) -> Iterator[None]:
    with usual.networks(world):
        yield


def test_the_network_is_made_where_it_is_missing(world: World) -> None:
    world.b.run(["docker", "network", "rm", usual.LAN])
    usual.start(world)
    usual.listening(world)
    client = usual.talk(world, "tcp_client.py")
    summary = world.migrate(world.a, "server", world.b)
    assert any("same range" in warning for warning in summary["warnings"])
    made = json.loads(world.b.run(["docker", "network", "inspect", usual.LAN]).stdout)[0]
    assert (made["Driver"], made["Options"]["parent"]) == ("macvlan", "eth0")
    assert not usual.end(world, client, "tcp_client.py")["errors"]


def test_a_network_of_that_name_on_another_ethernet_is_refused(world: World) -> None:
    world.b.run(["docker", "network", "rm", usual.LAN])
    world.b.sh("ip link add other type veth peer name other2; ip link set other up;"
               "ip link set other2 up")  # fmt: skip
    world.b.run([*(w.replace("eth0", "other") for w in usual.MAKE), usual.LAN])
    try:
        usual.start(world)
        usual.listening(world)
        client = usual.talk(world, "tcp_client.py")
        failed = world.try_migrate(world.a, "server", "b")
        assert failed.returncode == 42, failed.stderr
        assert "does not answer" in failed.stderr
        assert not usual.end(world, client, "tcp_client.py")["errors"]
        world.assert_clean()
    finally:
        world.b.sh("ip link del other", check=False)


def test_an_address_that_somebody_else_has_too_is_refused(world: World) -> None:
    usual.start(world)
    usual.listening(world)
    world.client.run(["ip", "address", "add", f"{usual.ADDRESS}/32", "dev", "eth0"])
    try:
        failed = world.try_migrate(world.a, "server", "b")
    finally:
        world.client.run(["ip", "address", "del", f"{usual.ADDRESS}/32", "dev", "eth0"])
    assert failed.returncode == 42, failed.stderr
    assert "in use by another device" in failed.stderr
    assert world.state(world.a, "server") == "running"


def test_a_routed_bridge_goes_by_a_hook(world: World) -> None:
    """The container's subnet is known to a router, here the client: a hook tells it the new way."""
    for host in (world.a, world.b):
        world.make_network(host)
    world.route(world.a)
    world.start(world.a, "server", usual.SERVER, "--network", NETWORK, "--ip", ROUTED)
    probe = f"import socket; socket.create_connection(('{ROUTED}', {usual.PORT}), 2)"
    eventually(lambda: world.client.run(["python3", "-c", probe], check=False).ok, "no server")
    argv = ["python3", "/root/tcp_client.py", ROUTED, str(usual.PORT), "--interval", "5"]
    client = world.client.popen(argv)
    assert client.stderr
    client.stderr.readline()
    tell = ("commit=ssh client ip route replace $MIGRATE_CONTAINER_ADDRESS"
            " via $MIGRATE_DESTINATION_ADDRESS")  # fmt: skip
    summary = world.migrate(world.a, "server", world.b, "--hook", tell)
    assert summary["warnings"] == []
    report = usual.end(world, client, "tcp_client.py")  # it asks once more, by that way
    world.client.run(["ip", "route", "del", ROUTED], check=False)
    assert report["replies"] > 20
    assert not report["errors"]
