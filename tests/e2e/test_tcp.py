"""A TCP client on a third host gets every reply in order while the server moves."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.world import ADDRESS, NETWORK, Hosts, World, skip_pair
from tests.e2e.world import world as make_world

CLIENT = Path(__file__).resolve().parents[1] / "workloads" / "tcp_client.py"
PORT = 7000
SERVER = ["python3", "/workloads/tcp_server.py", str(PORT)]


@pytest.fixture(scope="module", params=["docker26", "docker28", "mixed", "containerd"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    skip_pair(request)
    with make_world("e2e", request.param) as made:
        yield made


def serve(world: Hosts[Any]) -> None:
    world.make_network(world.a)
    world.open_forward(world.b)
    world.start(world.a, "server", SERVER, "--network", NETWORK, "--ip", ADDRESS)
    world.route(world.a)
    probe = ["python3", "-c", f"import socket; socket.create_connection(('{ADDRESS}', {PORT}), 2)"]
    world.eventually(
        lambda: world.client.run(probe, check=False).ok, "the server cannot be reached"
    )


def connect(world: Hosts[Any]) -> subprocess.Popen[str]:
    world.client.write("/root/tcp_client.py", CLIENT.read_text())
    client = world.client.popen(
        ["python3", "/root/tcp_client.py", ADDRESS, str(PORT), "--interval", str(world.interval),
         "--gap-ms", str(world.interval + 95), "--patience", str(world.patience / 4)]
    )  # fmt: skip
    assert client.stderr
    assert client.stderr.readline().strip() == "connected"
    return client


def end(world: Hosts[Any], client: subprocess.Popen[str]) -> tuple[int, dict[str, Any]]:
    world.client.run(["pkill", "-TERM", "-f", "/root/tcp_client.p[y]"], check=False)
    out, err = client.communicate(timeout=world.client.patience)
    assert out, err
    report: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return client.returncode, report


def test_established_connection_survives_there_and_back(world: World) -> None:
    serve(world)
    client = connect(world)
    here, there = world.a, world.b
    for _ in range(2):
        world.answers_come()
        world.migrate(here, "server", there)
        world.route(there)
        here, there = there, here
    code, report = end(world, client)
    assert code == 0, report
    assert not report["errors"], report
    assert report["replies"] > 100
    # It really was away, twice.
    assert len(report["gaps"]) >= 2, report
    world.assert_clean()


def test_a_restarted_server_is_noticed(world: World) -> None:
    """The negative control: a server that is started anew breaks the client."""
    serve(world)
    client = connect(world)
    world.answers_come()
    world.a.run(["docker", "restart", "-t", "0", "server"])
    code, report = end(world, client)
    assert code != 0 or report["errors"]


def test_tcp_close_moves_the_server_without_its_connections(world: World) -> None:
    serve(world)
    client = connect(world)
    world.migrate(world.a, "server", world.b, "--tcp", "close")
    world.route(world.b)
    code, report = end(world, client)
    assert code != 0 or report["errors"], "the old connection should be gone"
    again = connect(world)
    world.answers_come()
    code, report = end(world, again)
    assert code == 0, report
