"""A destination with too little disk: refused in time, or undone when it fills up on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.e2e.world import IMAGE, World, assert_continuous, eventually, numbers
from tests.e2e.world import world as make_world

DISK = 260  # MiB; the image takes about 40, and 40 more while it is loaded
WRITER = "dd if=/dev/urandom of=/big bs=1M count={size} 2>/dev/null; exec sh /workloads/counter.sh"


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    pair = request.config.getoption("--pair") or "mixed"
    with make_world("e2e", pair, disk_of_b=DISK) as made:
        made.have_image(made.b)
        yield made


def refused(world: World, before: str, *options: str) -> None:
    said = json.loads(world.try_migrate(world.a, "big", "b", *options).stdout)
    assert said["error"] == "NoSpace", said
    assert said["exit_code"] == 41
    assert world.b.sh("docker ps -a -q; docker images -q") == before
    world.wait_for_output(world.a, "big")
    assert_continuous(numbers(world.logs(world.a, "big")))
    world.assert_clean()


def test_preflight_sees_that_the_disk_is_too_small(world: World) -> None:
    before = world.b.sh("docker ps -a -q; docker images -q")
    world.start(world.a, "big", ["sh", "-c", WRITER.format(size=300)])
    eventually(lambda: len(world.logs(world.a, "big")) > 5, "the workload does not start")
    refused(world, before)


def test_the_disk_fills_up_on_the_way(world: World) -> None:
    before = world.b.sh("docker ps -a -q; docker images -q")
    world.start(world.a, "big", ["sh", "-c", WRITER.format(size=60)])
    eventually(lambda: len(world.logs(world.a, "big")) > 5, "the workload does not start")
    # When the container has been prepared there, somebody else takes what is left.
    greedy = "ssh b dd if=/dev/zero of=/var/lib/docker/greedy bs=1M 2>/dev/null; true"
    refused(world, before, "--hook", f"prepare={greedy}")
    world.b.sh("rm /var/lib/docker/greedy")
    assert world.migrate(world.a, "big", world.b)["memory"], f"{IMAGE} moves when there is room"
    world.wait_for_output(world.b, "big")
