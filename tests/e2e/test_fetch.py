"""`migrate fetch`: the destination calls. Whoever dies, in the end exactly one copy runs."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.e2e.test_crash import COUNTER, caught, kill, runs, wait_for_phase
from tests.e2e.world import World, assert_continuous, eventually, numbers
from tests.e2e.world import world as make_world
from tests.lab.host import LabHost


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with make_world("e2efetch", request.config.getoption("--pair") or "mixed") as made:
        yield made


def start(world: World) -> subprocess.Popen[str]:
    """A counter on b; gives what follows its output there."""
    world.start(world.b, "app", COUNTER)
    world.wait_for_output(world.b, "app")
    return world.b.popen(["docker", "logs", "-f", "app"])


def fetching(world: World, *options: str) -> subprocess.Popen[str]:
    return world.a.popen(["migrate", "fetch", "app", "b", "--json", *options])


def fetching_at(
    world: World, host: LabHost, role: str, phase: str
) -> tuple[subprocess.Popen[str], subprocess.Popen[str]]:
    """A counter is being fetched, and the journal shows the phase; its follower, and the fetch."""
    follows: list[subprocess.Popen[str]] = []

    def begin() -> subprocess.Popen[str]:
        follows.append(start(world))
        return fetching(world)

    moving = caught(begin, host, role, phase, lambda: world.remove("app"))
    return follows[-1], moving


def settle(world: World) -> list[LabHost]:
    """Let guards do their work; gives the hosts on which the container runs."""
    eventually(
        lambda: not any(word in line for host in (world.a, world.b)
                        for line in world.leftovers(host)
                        for word in ("migrate.guard", "/run/migrate")),
        "guards go on for ever", lambda: (world.leftovers(world.a), world.leftovers(world.b)),
        timeout=150,
    )  # fmt: skip
    return [host for host in (world.a, world.b) if runs(world, host, "app")]


def check_printed(world: World, follow: subprocess.Popen[str], where: LabHost) -> None:
    """No number is missing and none came twice, over both hosts."""
    world.wait_for_output(where, "app")
    where.run(["docker", "stop", "-t", "30", "app"])
    follow.terminate()
    printed, _ = follow.communicate(timeout=60)
    before = numbers(printed.splitlines())
    after = [n for n in numbers(world.logs(where, "app")) if n > before[-1]]
    assert_continuous(before + after)


def test_it_comes_with_figures(world: World) -> None:
    follow = start(world)
    moving = fetching(world)
    out, err = moving.communicate(timeout=150)
    assert moving.returncode == 0, (out, err)
    summary = json.loads(out)
    assert summary["source"] == "b"
    assert summary["destination"] == "a"
    assert 0 < summary["downtime"] < summary["total"]
    assert world.inspect(world.a, "app")["Id"] == summary["new_id"]
    assert world.state(world.b, "app") == ""
    check_printed(world, follow, world.a)
    world.assert_clean()


def test_failures_are_those_of_the_source(world: World) -> None:
    result = world.a.run(["migrate", "fetch", "none", "b", "--json"], check=False)
    assert (result.returncode, json.loads(result.stdout)["error"]) == (10, "ContainerNotFound")
    world.start(world.b, "app", COUNTER, "-v", "/etc:/there")
    result = world.a.run(["migrate", "fetch", "app", "b"], check=False)
    assert result.returncode == 12, result
    assert runs(world, world.b, "app")
    world.assert_clean()


def test_what_this_host_refuses(world: World) -> None:
    world.start(world.b, "app", COUNTER)
    world.start(world.a, "app", COUNTER)
    result = world.a.run(["migrate", "fetch", "app", "b", "--force"], check=False)
    assert result.returncode == 40, result
    assert runs(world, world.b, "app")
    world.assert_clean()


@pytest.mark.parametrize("phase", ["prepare", "restored", "owned", "running"])
@pytest.mark.parametrize("victim", ["caller", "source"])
def test_killed(world: World, victim: str, phase: str) -> None:
    follow, moving = fetching_at(world, world.a, "destination", phase)
    if victim == "caller":
        kill(world.a, "migrate fetc[h]")
    else:
        kill(world.b, "migrate sourc[e]")
    out, err = moving.communicate(timeout=150)
    there = settle(world)
    assert len(there) == 1, (there, out, err)
    if moving.returncode == 0:
        assert there == [world.a]
    check_printed(world, follow, there[0])
    world.assert_clean()


@pytest.mark.parametrize("signal", ["INT", "TERM"])
def test_interrupted(world: World, signal: str) -> None:
    follow = start(world)
    moving = fetching(world)
    assert wait_for_phase(world.a, "destination", "prepare", moving)
    world.a.run(["pkill", f"-{signal}", "-f", "migrate fetc[h]"], check=False)
    out, err = moving.communicate(timeout=150)
    there = settle(world)
    if moving.returncode == 0:  # it came after commit
        assert there == [world.a]
    else:
        assert moving.returncode == 130, (out, err)
        assert there == [world.b]
    check_printed(world, follow, there[0])
    world.assert_clean()


@pytest.mark.parametrize("phase", ["commit-sent", "confirmed"])
def test_the_link_breaks_at_commit(world: World, phase: str) -> None:
    """b cannot call a: its copy stays frozen until a comes again, which it does by itself."""
    follow, moving = fetching_at(world, world.b, "source", phase)
    world.lab.switch.cut("b")
    try:
        time.sleep(20)
    finally:
        world.lab.switch.heal("b", world.b.netns)
    out, err = moving.communicate(timeout=150)
    there = settle(world)
    assert len(there) == 1, (there, out, err)
    assert (moving.returncode == 0) == (there == [world.a]), (out, err)
    check_printed(world, follow, there[0])
    world.assert_clean()
