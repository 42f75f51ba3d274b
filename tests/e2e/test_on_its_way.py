"""What is around a container: volumes, ports, sysctls; and what happens to it on its way."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.world import World, assert_continuous, numbers

COUNTER = ["sh", "/workloads/counter.sh"]
SYSCTLS = ("net.core.somaxconn", "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range")
VOLUMES = "docker volume ls -q | sort"


def started(world: World, *options: str) -> None:
    world.have_image(world.b)
    world.start(world.a, "app", COUNTER, *options)
    world.wait_for_output(world.a, "app")


def refused(world: World, code: int, *words: str, to: str = "b", hook: str = "") -> None:
    """It ends with that exit code, a sentence with these words, and nothing left on B."""
    look = f"docker ps -aq; docker network ls -q; {VOLUMES}; ls /run/migrate/sessions"
    before = world.b.sh(look, check=False)
    options = ["--hook", f"prepare={hook}"] if hook else []
    result = world.try_migrate(world.a, "app", to, *options)
    assert result.returncode == code, f"{result.stdout}\n{result.stderr}"
    said = json.loads(result.stdout)
    for word in words:
        assert word in said["message"], said
    assert said["remedy"], said
    assert world.b.sh(look, check=False) == before
    world.assert_clean()


def runs_on(world: World) -> None:
    world.wait_for_output(world.a, "app")
    assert_continuous(numbers(world.logs(world.a, "app")))


@contextmanager
def volume_at_b(world: World, content: bool) -> Iterator[None]:
    world.b.run(["docker", "volume", "create", "data"])
    where = world.b.sh("docker volume inspect -f '{{.Mountpoint}}' data").strip()
    try:
        if content:
            world.b.sh(f"echo precious > {where}/file")
        yield
        if content:
            assert world.b.sh(f"cat {where}/file").strip() == "precious"
    finally:
        world.b.sh("docker rm -f app; docker volume rm data", check=False)


def test_a_volume_with_content_there_is_not_shown_to_it(world: World) -> None:
    started(world, "-v", "data:/data")
    with volume_at_b(world, content=True):
        refused(world, 42, "`data`")
    runs_on(world)


def test_an_empty_volume_there_is_used_and_kept(world: World) -> None:
    started(world, "-v", "data:/data")
    with volume_at_b(world, content=False):
        refused(world, 57, hook="false")
        assert "data" in world.b.sh(VOLUMES)
        world.migrate(world.a, "app", world.b)
        world.b.sh("docker exec app touch /data/written")
        assert world.b.sh("ls $(docker volume inspect -f '{{.Mountpoint}}' data)") == "written"


def test_a_failed_move_leaves_no_volume_there(world: World) -> None:
    started(world, "-v", "data:/data", "-v", "/anonymous")
    refused(world, 57, hook="false")
    runs_on(world)


def test_a_volume_that_is_filled_on_the_way(world: World) -> None:
    """It was empty when it was looked at: what came since must not be left behind."""
    started(world, "-v", "data:/data")
    refused(world, 12, "volume", hook="docker exec app sh -c 'echo new > /data/file'")
    assert world.a.sh("docker exec app cat /data/file").strip() == "new"
    runs_on(world)


def test_it_ends_on_the_way(world: World) -> None:
    started(world)
    refused(world, 11, "has ended", hook="docker kill app")
    assert world.state(world.a, "app") == "exited"


def test_it_is_removed_on_the_way(world: World) -> None:
    started(world, "--rm")
    refused(world, 11, "has ended", hook="docker kill app; sleep 1")
    assert world.state(world.a, "app") == ""


def test_it_is_paused_on_the_way(world: World) -> None:
    """Whoever paused it did not mean it to run, here or there."""
    started(world)
    refused(world, 12, "paused", hook="docker pause app")
    assert world.state(world.a, "app") == "paused"
    before = len(world.logs(world.a, "app"))
    time.sleep(0.3)
    assert len(world.logs(world.a, "app")) == before
    world.a.run(["docker", "unpause", "app"])
    runs_on(world)


def test_to_the_host_itself(world: World) -> None:
    started(world)
    refused(world, 2, "`a`", to="a")
    runs_on(world)


def test_a_port_that_a_program_holds_there(world: World) -> None:
    started(world, "-p", "8099:80")
    holder = world.b.spawn(["python3", "-m", "http.server", "8099"], "holder")
    try:
        world.eventually(lambda: ":8099" in world.b.sh("ss -tln"), "the program does not listen")
        refused(world, 42, "8099")
    finally:
        holder.kill()
        holder.wait(timeout=20)
    runs_on(world)


@pytest.mark.parametrize("world", ["docker26", "docker28"], indirect=True)
def test_its_sysctls_are_what_they_were(world: World) -> None:
    options = ["--sysctl", "net.core.somaxconn=333"]
    of_interface = world.a.sh("docker version -f '{{.Server.Version}}'").startswith("26.")
    names = list(SYSCTLS)
    if of_interface:  # later versions take it only as an option of the endpoint, and set it
        options += ["--sysctl", "net.ipv4.conf.eth0.log_martians=1"]
        names.append("net.ipv4.conf.eth0.log_martians")
    started(world, *options)
    files = " ".join("/proc/sys/" + name.replace(".", "/") for name in names)
    before = world.a.sh(f"docker exec app cat {files}")
    assert before.splitlines()[0] == "333"
    world.migrate(world.a, "app", world.b)
    assert world.b.sh(f"docker exec app cat {files}") == before
