"""Whoever dies, whenever: in the end exactly one copy runs, and it has lost nothing.

A victim is killed with SIGKILL as soon as the journal shows a phase. Its guard cleans up; where the
link broke at the moment of commit, `migrate recover` does.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

import pytest

from tests.e2e.world import World, assert_continuous, eventually, numbers
from tests.lab.host import LabHost

COUNTER = ["sh", "/workloads/counter.sh"]
JOURNAL = "/var/lib/migrate/journal"
STANDS_STILL = 5.0  # seconds without a number, of some 30 a second, until it is taken to be frozen

SOURCE_PHASES = ["header", "pre-copy", "freeze", "commit-sent", "confirmed"]
DESTINATION_PHASES = ["header", "prepare", "restored", "owned", "running"]


def wait_for_phase(host: LabHost, role: str, phase: str, program: subprocess.Popen[str]) -> bool:
    """Wait until a journal of that role shows the phase; False when the migration ended before."""
    folder = host.path(JOURNAL)
    mark = f'"{phase}"'.encode()
    while program.poll() is None:
        for path in folder.glob(f"*.{role}.jsonl"):
            try:
                if mark in path.read_bytes():
                    return True
            except FileNotFoundError:
                continue
        time.sleep(0.001)
    return False


def caught(
    begin: Callable[[], subprocess.Popen[str]], host: LabHost, role: str, phase: str,
    put_back: Callable[[], object],
) -> subprocess.Popen[str]:  # fmt: skip
    """Begin a migration; returns it when the journal shows the phase.

    Some phases last for tenths of a second, and for as long this machine may not let us look: when
    it succeeds unseen, `put_back` is called and it is begun anew.
    """
    for _ in range(4):
        moving = begin()
        if wait_for_phase(host, role, phase, moving):
            return moving
        out, err = moving.communicate(timeout=120)
        assert moving.returncode == 0, (out, err)
        put_back()
    raise AssertionError(f"the phase {phase} is never seen")


def kill(host: LabHost, pattern: str) -> None:
    """SIGKILL the processes of a lab host (its own pid namespace) whose command line matches."""
    host.run(["pkill", "-KILL", "-f", pattern], check=False)


def runs(world: World, host: LabHost, name: str) -> bool:
    """Whether the container really executes there: it goes on counting."""
    if world.state(host, name) != "running":
        return False
    before = len(world.logs(host, name))
    deadline = time.monotonic() + STANDS_STILL
    while len(world.logs(host, name)) <= before:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def settle(world: World) -> list[LabHost]:
    """Let guards do their work, then recover; gives the hosts on which the container runs."""
    eventually(
        lambda: not any("migrate.guard" in line or "migrate agent" in line
                        for host in (world.a, world.b) for line in world.leftovers(host)),
        "guards and agents go on for ever", lambda: world.leftovers(world.b), timeout=120,
    )  # fmt: skip
    for host in (world.a, world.b):
        host.run(["migrate", "recover"])
    return [host for host in (world.a, world.b) if runs(world, host, "app")]


def everything_printed(world: World, before: list[str]) -> list[int]:
    """All numbers: what A had printed as far as it was seen, then what each host has."""
    found = numbers(before)
    for host in (world.a, world.b):
        if world.state(host, "app"):
            found += [n for n in numbers(world.logs(host, "app")) if not found or n > found[-1]]
    return found


@pytest.mark.parametrize("repeat", range(2))
@pytest.mark.parametrize(
    ("victim", "phase"),
    [("source", phase) for phase in SOURCE_PHASES]
    + [("agent", phase) for phase in DESTINATION_PHASES]
    + [("supervisor", phase) for phase in ("prepare", "restored")],
)
def test_killed(world: World, victim: str, phase: str, repeat: int) -> None:
    world.start(world.a, "app", COUNTER)
    follow = world.a.popen(["docker", "logs", "-f", "app"])
    moving = world.a.popen(["migrate", "move", "app", "b", "--json"])
    host, role, pattern = {
        "source": (world.a, "source", "migrate mov[e] app"),
        "agent": (world.b, "destination", "migrate agen[t]"),
        "supervisor": (world.b, "destination", "migrate.runtim[e] .* create"),
    }[victim]
    reached = wait_for_phase(host, role, phase, moving)
    kill(host, pattern)
    out, err = moving.communicate(timeout=150)
    there = settle(world)
    # Whether or not the kill came in time: exactly one copy runs.
    assert len(there) == 1, (there, reached, out, err)
    if victim != "source" and there == [world.a]:
        assert moving.returncode != 0, "it runs on at the source, but success was reported"
    if moving.returncode == 0:
        assert there == [world.b], out
    world.wait_for_output(there[0], "app")
    there[0].run(["docker", "stop", "-t", "30", "app"])
    follow.terminate()
    printed, _ = follow.communicate(timeout=60)
    assert_continuous(everything_printed(world, printed.splitlines()))
    world.assert_clean()


@pytest.mark.parametrize("victim", ["source", "agent"])
def test_killed_while_the_image_is_sent(world: World, victim: str) -> None:
    """It runs on, and of the image nothing is left there."""
    world.start(world.a, "app", COUNTER)
    world.wait_for_output(world.a, "app")
    world.b.sh("docker images -q | xargs -r docker rmi -f", check=False)
    world.lab.switch.rate("b", world.b.netns, 40)
    try:
        moving = world.a.popen(["migrate", "move", "app", "b", "--json"])
        assert wait_for_phase(world.b, "destination", "image", moving)
        time.sleep(0.5)
        host, pattern = {
            "source": (world.a, "migrate mov[e] app"), "agent": (world.b, "migrate agen[t]"),
        }[victim]  # fmt: skip
        kill(host, pattern)
        moving.communicate(timeout=150)
        assert moving.returncode not in (0, 70)
    finally:
        world.lab.switch.heal("b", world.b.netns)
    assert settle(world) == [world.a]
    assert world.b.sh("docker images -q") == ""
    world.a.run(["docker", "stop", "-t", "30", "app"])
    assert_continuous(numbers(world.logs(world.a, "app")))
    world.assert_clean()


def test_link_cut_while_frozen(world: World) -> None:
    """The link dies in the middle of the frozen part: the source goes on by itself."""
    world.start(world.a, "app", ["sh", "-c", "dd if=/dev/urandom of=/dev/shm/x bs=1M count=24"
                                 " 2>/dev/null; exec sh /workloads/counter.sh"])  # fmt: skip
    eventually(lambda: len(world.logs(world.a, "app")) > 5, "the workload does not start")
    world.lab.switch.rate("b", world.b.netns, 20)
    try:
        moving = world.a.popen(["migrate", "move", "app", "b", "--json"])
        assert wait_for_phase(world.a, "source", "freeze", moving)
        time.sleep(1)
        world.lab.switch.cut("b")
        out, err = moving.communicate(timeout=150)
        assert moving.returncode == 51, (out, err)
        world.wait_for_output(world.a, "app")
    finally:
        world.lab.switch.heal("b", world.b.netns)
    eventually(lambda: world.state(world.b, "app") == "", "the destination does not undo",
               timeout=60)  # fmt: skip
    assert settle(world) == [world.a]
    world.a.run(["docker", "stop", "-t", "30", "app"])
    assert_continuous(numbers(world.logs(world.a, "app")))
    world.assert_clean()


def test_frozen_for_too_long(world: World) -> None:
    """A link that is far too slow: after --max-freeze it runs on at the source."""
    world.start(world.a, "app", ["sh", "-c", "dd if=/dev/urandom of=/dev/shm/x bs=1M count=24"
                                 " 2>/dev/null; exec sh /workloads/counter.sh"])  # fmt: skip
    eventually(lambda: len(world.logs(world.a, "app")) > 5, "the workload does not start")
    world.have_image(world.b)
    world.lab.switch.rate("b", world.b.netns, 8)
    try:
        result = world.try_migrate(world.a, "app", "b", "--max-freeze", "3")
    finally:
        world.lab.switch.heal("b", world.b.netns)
    assert result.returncode == 55, result
    assert settle(world) == [world.a]
    eventually(lambda: world.state(world.b, "app") == "", "the destination does not undo",
               timeout=60)  # fmt: skip
    world.a.run(["docker", "stop", "-t", "30", "app"])
    assert_continuous(numbers(world.logs(world.a, "app")))
    world.assert_clean()


@pytest.mark.parametrize("phase", ["pre-copy", "freeze"])
@pytest.mark.parametrize("signal", ["INT", "TERM"])
def test_interrupted(world: World, signal: str, phase: str) -> None:
    """Ctrl-C and SIGTERM undo everything, with an exit code of their own."""
    world.start(world.a, "app", COUNTER)
    moving = caught(
        lambda: world.a.popen(["migrate", "move", "app", "b", "--json"]),
        world.a, "source", phase, lambda: world.migrate(world.b, "app", world.a),
    )  # fmt: skip
    # It may be over by now.
    world.a.run(["pkill", f"-{signal}", "-f", "migrate mov[e] app"], check=False)
    moving.communicate(timeout=150)
    there = settle(world)
    if moving.returncode == 0:  # it came after commit
        assert there == [world.b]
    else:
        assert moving.returncode == 130
        assert there == [world.a]
    world.assert_clean()


def test_restart_always_brings_no_second_copy_up(world: World) -> None:
    world.start(world.a, "app", COUNTER, "--restart", "always")
    world.wait_for_output(world.a, "app")
    world.migrate(world.a, "app", world.b, "--keep")
    time.sleep(3)
    assert world.state(world.a, "app") == "exited"
    assert world.inspect(world.b, "app")["HostConfig"]["RestartPolicy"]["Name"] == "always"
    assert runs(world, world.b, "app")


def test_two_migrations_of_one_container(world: World) -> None:
    """The second one is refused, the first one is not disturbed."""
    world.start(world.a, "app", COUNTER)
    first = world.a.popen(["migrate", "move", "app", "b", "--json"])
    assert wait_for_phase(world.a, "source", "header", first)
    second = world.try_migrate(world.a, "app", "b")
    out, err = first.communicate(timeout=150)
    assert first.returncode == 0, (out, err)
    # Under way, gone already, or come to run there in the meantime.
    assert second.returncode in (10, 11, 13, 40), second
    assert settle(world) == [world.b]
    world.assert_clean()
