"""Containers go A -> B -> A -> B ...; what they count never skips and never repeats."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest

from tests.e2e.world import Hosts, World, assert_continuous, eventually, numbers

HOPS = 10
COUNTER = ["sh", "/workloads/counter.sh"]
FAMILY = ["sh", "/workloads/family.sh"]
THREADS = ["python3", "/workloads/threads.py", "8"]


def ping_pong(
    world: Hosts[Any],
    name: str,
    command: list[str],
    hops: int,
    *options: str,
    restore: str = "auto",
) -> list[str]:
    """Move a container to and fro, use Docker on it after each move; gives all of its output."""
    here, there = world.a, world.b
    world.start(here, name, command, *options)
    world.eventually(lambda: len(world.logs(here, name)) > 5, "the workload does not start")
    output: list[str] = []
    for _ in range(hops):
        # --keep: the logs of the source's copy are the proof; --force replaces it on the way back.
        summary = world.migrate(here, name, there, "--keep", "--force", "--restore", restore)
        assert 0 < summary["downtime"] < summary["total"]
        assert world.state(here, name) == "exited"
        output += world.logs(here, name)
        here, there = there, here
        assert world.state(here, name) == "running"
        assert here.sh(f"docker exec {name} echo in").strip() == "in"
        assert len(here.sh(f"docker top {name}").splitlines()) > 1
        world.wait_for_output(here, name)
    here.run(["docker", "stop", "-t", "30", name])
    output += world.logs(here, name)
    assert world.state(here, name) == "exited"
    world.assert_clean()
    return output


def test_counter(world: World) -> None:
    output = ping_pong(world, "counter", COUNTER, HOPS)
    counted = numbers(output)
    assert counted[0] == 1
    assert_continuous(counted)
    assert output[-1].startswith("stopped at ")


def test_processes_and_pipes(world: World) -> None:
    output = ping_pong(world, "family", FAMILY, HOPS)
    assert not [line for line in output if "BROKEN" in line]
    assert_continuous(numbers(output))


def test_threads(world: World) -> None:
    output = ping_pong(world, "threads", THREADS, HOPS)
    states = [json.loads(line) for line in output if line.startswith("{")]
    assert len({state["nonce"] for state in states}) == 1
    assert not [state for state in states if state["broken"]]
    for before, after in pairwise(states):
        assert all(x <= y for x, y in zip(before["counters"], after["counters"], strict=True))


@pytest.mark.parametrize("world", ["docker26", "docker28"], indirect=True)
def test_under_dockers_own_init(world: World) -> None:
    """It is bind-mounted from a path that may have a link in it; the same program on both hosts."""
    output = ping_pong(world, "counter", COUNTER, 2, "--init")
    assert_continuous(numbers(output))


def test_another_init_at_the_destination_is_seen_before_the_freeze(world: World) -> None:
    if world.a.sh("sha256sum < $(which docker-init)") == world.b.sh(
        "sha256sum < $(which docker-init)"
    ):
        pytest.skip("both flavours of Docker have the same docker-init")
    world.start(world.a, "counter", COUNTER, "--init")
    world.wait_for_output(world.a, "counter")
    refused = world.try_migrate(world.a, "counter", "b")
    assert refused.returncode == 30, refused.stderr
    assert "--init" in refused.stderr
    world.wait_for_output(world.a, "counter")
    assert_continuous(numbers(world.logs(world.a, "counter")))
    world.assert_clean()


def test_a_fresh_start_does_not_pass_for_a_move(world: World) -> None:
    """The negative control: the same checks, with a container that is started anew."""
    world.start(world.a, "counter", COUNTER)
    eventually(lambda: len(world.logs(world.a, "counter")) > 20, "the workload does not start")
    world.a.run(["docker", "kill", "counter"])
    world.start(world.b, "counter", COUNTER)
    eventually(lambda: len(world.logs(world.b, "counter")) > 5, "the workload does not start")
    with pytest.raises(AssertionError, match="breaks"):
        assert_continuous(numbers(world.logs(world.a, "counter") + world.logs(world.b, "counter")))
