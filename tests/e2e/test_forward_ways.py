"""Forwards by other means: through a tunnel, and where Docker's rules are iptables-legacy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e import test_forward as usual
from tests.e2e.world import World
from tests.lab.host import HostSpec, LabHost
from tests.lab.lab import lab


def new_lab(name: str, mask_of_b: int) -> Iterator[World]:
    """Hosts a and b; with another mask on b the tool takes them for hosts of two subnets."""
    specs = [
        HostSpec("a", "trixie"),
        HostSpec("b", "forky", address=f"10.77.0.12/{mask_of_b}"),
        HostSpec("client", "trixie", docker=False, tool=False),
    ]
    with lab(name, *specs) as made:
        for file in ("tcp_client.py", "tcp_server.py", "http_stream.py"):
            made["client"].write(f"/root/{file}", (usual.WORKLOADS / file).read_text())
        yield World(made)


def with_legacy_iptables(host: LabHost) -> None:
    """What `iptables` is changes, and dockerd begins anew with that."""
    host.sh(
        "kill $(cat /run/docker.pid); while pgrep -x dockerd; do sleep 0.1; done;"
        "nft flush ruleset; update-alternatives --set iptables /usr/sbin/iptables-legacy",
    )
    host.start_dockerd()
    host.wait_for_docker()
    assert "legacy" in host.run(["iptables", "-V"]).stdout


@pytest.fixture(scope="module", params=["tunnel", "legacy"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    tunnel = request.param == "tunnel"
    for made in new_lab("e2efy", 25 if tunnel else 24):
        if not tunnel:
            for host in (made.a, made.b):
                with_legacy_iptables(host)
        yield made


@pytest.fixture(autouse=True)
def _nothing_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    made: World = request.getfixturevalue("world")
    for host in (made.a, made.b):
        host.sh("migrate forward remove server", check=False)
    made.remove("server")


def test_there_and_back(world: World) -> None:
    usual.test_a_connection_by_a_published_port_goes_there_and_back(world)


def test_a_download(world: World) -> None:
    """Its packets are as large as they come: through a tunnel, they go in fragments."""
    usual.test_a_download_in_progress_is_right(world)


def test_new_clients(world: World) -> None:
    usual.test_new_clients_and_both_addresses_while_it_is_away(world)
