"""What a person sees: bars on a terminal, plain lines elsewhere, a summary, CRIU's words."""

from __future__ import annotations

import json
import re

import pytest

from tests.e2e.world import World

COUNTER = ["sh", "/workloads/counter.sh"]


def test_plain_lines_and_a_summary(world: World) -> None:
    world.start(world.a, "app", COUNTER)
    done = world.a.run(["migrate", "app", "b", "-v"])
    lines = done.stderr.splitlines()
    for phase in ("preflight", "prepare", "pre-copy", "freeze", "confirm"):
        assert any(re.match(rf"{phase}: .*\d s", line) for line in lines), (phase, lines)
    assert "Dumping processes" in done.stderr, "CRIU's own words"
    assert "FAILED" not in done.stderr, "nothing has failed"
    assert "%" not in done.stderr.replace("100%", ""), "no bars where there is no terminal"
    summary = done.stdout
    assert summary.startswith("app now runs on b (was on a, where its copy is removed)")
    parts = re.search(r"downtime +\d+ ms: (.*)", summary)
    assert parts, summary
    for part in ("freeze", "dump", "transfer", "restore", "resume"):
        assert re.search(rf"\b{part} \d+ ms", parts.group(1)), summary
    assert re.search(r"moved +[\d.]+ [KM]iB, sent [\d.]+ [KM]iB", summary)


def test_bars_on_a_terminal(world: World) -> None:
    world.start(world.a, "app", COUNTER)
    seen = world.a.run(["script", "-qec", "migrate app b", "/dev/null"]).stdout.replace("\r", "\n")
    assert re.search(r"freeze .*B/s\]", seen), seen
    assert "app now runs on b" in seen


def test_json_is_one_object_and_nothing_else(world: World) -> None:
    world.start(world.a, "app", COUNTER)
    done = world.try_migrate(world.a, "app", "b")
    assert done.returncode == 0
    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    said = json.loads(line)
    assert abs(sum(said["parts"].values()) - said["downtime"]) < 1e-6
    assert said["sent"] > 0
    assert said["new_id"] == world.inspect(world.b, "app")["Id"]


def test_the_container_is_the_same_to_docker(world: World) -> None:
    """Settings that a person gave are there after the move."""
    given = ["--env", "COLOUR=blue", "--label", "team=sea", "--memory", "64m", "--cpus", "0.5",
             "--restart", "on-failure:3", "-p", "18080:80", "--hostname", "ship",
             "--stop-signal", "SIGINT", "--cap-drop", "NET_RAW", "--tmpfs", "/scratch",
             "--workdir", "/tmp", "--user", "0:0", "--add-host", "mate:10.1.2.3"]  # fmt: skip
    world.start(world.a, "app", COUNTER, *given)
    world.a.sh("docker exec app sh -c 'echo kept > /scratch/file'")
    before = world.inspect(world.a, "app")
    world.migrate(world.a, "app", world.b)
    after = world.inspect(world.b, "app")
    for field in ("Env", "Labels", "Hostname", "StopSignal", "WorkingDir", "User", "Cmd", "Image"):
        assert after["Config"][field] == before["Config"][field], field
    for field in ("Memory", "NanoCpus", "RestartPolicy", "PortBindings", "CapDrop", "Tmpfs",
                  "ExtraHosts"):  # fmt: skip
        assert after["HostConfig"][field] == before["HostConfig"][field], field
    assert world.b.sh("docker exec app cat /scratch/file /proc/sys/kernel/hostname") == "kept\nship"
    assert world.b.sh("docker port app 80").splitlines()[0].endswith(":18080")
    world.assert_clean()


@pytest.mark.parametrize("neighbour", [False, True])
def test_a_network_of_which_docker_chose_the_subnet(world: World, neighbour: bool) -> None:
    """The usual case with compose: no address was asked for, and it is kept all the same."""
    world.a.run(["docker", "network", "create", "chosen"])
    try:
        world.start(world.a, "app", COUNTER, "--network", "chosen")
        if neighbour:
            world.start(world.a, "other", COUNTER, "--network", "chosen")
        address = "docker inspect -f '{{.NetworkSettings.Networks.chosen.IPAddress}}' app"
        before = world.a.sh(address)
        world.migrate(world.a, "app", world.b)
        assert world.b.sh(address) == before
        world.migrate(world.b, "app", world.a)
        world.wait_for_output(world.a, "app")
        if not neighbour:
            assert world.a.sh(address) == before
    finally:
        for host in (world.a, world.b):
            host.sh("docker rm -f app other; docker network rm chosen", check=False)
