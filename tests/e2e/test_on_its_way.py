"""What befalls a container on its way, on Docker 26; test_surroundings.py does it on 28."""

from __future__ import annotations

import time

import pytest

from tests.e2e.test_bad_input import COUNTER, refused
from tests.e2e.world import World, assert_continuous, numbers

pytestmark = pytest.mark.parametrize("world", ["docker26"], indirect=True)


def started(world: World, *options: str) -> None:
    world.have_image(world.b)
    world.start(world.a, "app", COUNTER, *options)
    world.wait_for_output(world.a, "app")


def test_an_empty_volume_there_is_used_and_kept(world: World) -> None:
    started(world, "-v", "data:/data")
    world.b.run(["docker", "volume", "create", "data"])
    try:
        refused(world, 57, options=("--hook", "prepare=false"))
        assert "data" in world.b.sh("docker volume ls -q").split()
        world.migrate(world.a, "app", world.b)
        world.b.sh("docker exec app touch /data/written")
        assert world.b.sh("ls $(docker volume inspect -f '{{.Mountpoint}}' data)") == "written"
    finally:
        world.b.sh("docker rm -f app; docker volume rm data", check=False)


def test_it_is_paused(world: World) -> None:
    """Whoever paused it did not mean it to run, here or there."""
    started(world)
    refused(world, 12, "paused", options=("--hook", "prepare=docker pause app"))
    assert world.state(world.a, "app") == "paused"

    def silent() -> bool:  # what it had printed before may still be on its way to the log
        before = len(world.logs(world.a, "app"))
        time.sleep(0.3)
        return len(world.logs(world.a, "app")) == before

    world.eventually(silent, "it goes on")
    world.a.run(["docker", "unpause", "app"])
    world.wait_for_output(world.a, "app")
    assert_continuous(numbers(world.logs(world.a, "app")))


def test_a_health_check_is_not_in_the_way(world: World) -> None:
    """It runs half of the time here: one that is just running is waited for."""
    started(world, "--health-cmd", "sleep 0.5", "--health-interval", "500ms")
    here, there = world.a, world.b
    for _ in range(4):
        world.migrate(here, "app", there)
        here, there = there, here
    world.eventually(
        lambda: world.inspect(here, "app")["State"]["Health"]["Status"] == "healthy", "not healthy"
    )
    counted = numbers(world.logs(here, "app"))
    assert counted[0] > 1
    assert_continuous(counted)


def test_its_sysctls_are_what_they_were(world: World) -> None:
    """Also those of an interface, which later versions take as an option of the endpoint."""
    asked = {"net.core.somaxconn": "333", "net.ipv4.conf.eth0.log_martians": "1"}
    started(world, *(word for item in asked.items() for word in ("--sysctl", "=".join(item))))
    names = [*asked, "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range"]
    files = " ".join("/proc/sys/" + name.replace(".", "/") for name in names)
    before = world.a.sh(f"docker exec app cat {files}")
    assert before.splitlines()[:2] == ["333", "1"]
    world.migrate(world.a, "app", world.b)
    assert world.b.sh(f"docker exec app cat {files}") == before
