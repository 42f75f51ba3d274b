"""What lies in a container's tmpfs comes along, and is not compressed while the container waits."""

from __future__ import annotations

from tests.e2e.world import World, assert_continuous, numbers

MIB = 48


def digests(lines: list[str]) -> set[str]:
    return {line.split()[1] for line in lines}


def test_a_tmpfs_with_content(world: World) -> None:
    command = ["python3", "/workloads/tmpfs.py", "/data", str(MIB)]
    world.start(world.a, "tmpfs", command, "--tmpfs", "/data:size=100m")
    here, there = world.a, world.b
    said: list[str] = []
    for _ in range(2):
        world.wait_for_output(here, "tmpfs")
        summary = world.migrate(here, "tmpfs", there, "--keep")
        assert summary["sent"] > MIB << 20  # random as it is
        said += world.logs(here, "tmpfs")
        here.run(["docker", "rm", "tmpfs"])
        here, there = there, here
    world.wait_for_output(here, "tmpfs")
    said += world.logs(here, "tmpfs")
    assert_continuous(numbers(said))
    assert len(digests(said)) == 1
    world.assert_clean()


def test_a_tmpfs_that_was_changed_is_noticed(world: World) -> None:
    """The control."""
    world.start(world.a, "tmpfs", ["python3", "/workloads/tmpfs.py", "/data", "1"],
                "--tmpfs", "/data")  # fmt: skip
    world.wait_for_output(world.a, "tmpfs")
    world.a.run(["docker", "exec", "tmpfs", "chmod", "700", "/dev/shm"])
    world.wait_for_output(world.a, "tmpfs")
    assert len(digests(world.logs(world.a, "tmpfs"))) == 2
