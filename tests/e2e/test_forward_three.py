"""A container moves on, and on: the host that clients know passes on to where it runs, directly."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.e2e.test_forward import (
    PORT,
    PUBLISHED,
    SERVER,
    WORKLOADS,
    connect,
    end,
    reachable,
    rules,
    start,
)
from tests.e2e.world import World, eventually
from tests.lab.host import HostSpec, LabHost
from tests.lab.lab import lab


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Hosts a, b and c with Docker and `migrate`, and a client."""
    specs = [HostSpec("a", "trixie"), HostSpec("b", "forky"), HostSpec("c", "forky"),
             HostSpec("client", "trixie", docker=False, tool=False)]  # fmt: skip
    with lab("e2ef3", *specs) as made:
        made["client"].write("/root/tcp_client.py", (WORKLOADS / "tcp_client.py").read_text())
        yield World(made)


def clean(host: LabHost) -> None:
    eventually(lambda: rules(host) == "", f"{host.name} has rules", lambda: rules(host))


def test_on_to_a_third_host_and_home(world: World) -> None:
    a, b, c = world.a, world.b, world.lab["c"]
    start(world, *SERVER, publish=f"{PUBLISHED}:{PORT}")
    client = connect(world)
    assert world.migrate(a, "server", b)["network"] == "forward"
    world.answers_come()
    assert world.migrate(b, "server", c)["network"] == "follow"
    clean(b)  # nothing goes by b any more
    world.lab.switch.cut("b")
    try:
        world.answers_come()
    finally:
        world.lab.switch.heal("b", b.netns)
    listed = a.run(["migrate", "forward", "list"]).stdout
    assert f"passed on to {c.address} directly" in listed
    assert world.migrate(c, "server", a)["network"] == "home"
    report = end(world, client)
    assert len(report["gaps"]) >= 3
    for host in (a, b, c):
        clean(host)


def test_a_container_that_ends_takes_its_forward_with_it(world: World) -> None:
    a, b = world.a, world.b
    start(world, *SERVER, name="mortal", publish=f"{PUBLISHED}:{PORT}")
    reachable(world)
    world.migrate(a, "mortal", b)
    # Docker restarting it is no end: it is the same address.
    b.run(["docker", "restart", "-t", "0", "mortal"])
    again = connect(world)
    time.sleep(5)
    end(world, again)
    assert "mortal" in a.run(["migrate", "forward", "list"]).stdout
    b.run(["docker", "stop", "-t", "1", "mortal"])
    clean(a)
    clean(b)


def test_none_ends_a_forward_that_was_there(world: World) -> None:
    a, b, c = world.a, world.b, world.lab["c"]
    start(world, *SERVER, name="stray", publish=f"{PUBLISHED}:{PORT}")
    world.migrate(a, "stray", b)
    assert world.migrate(b, "stray", c, "--network-mode", "none")["network"] == "none"
    for host in (a, b, c):
        clean(host)
