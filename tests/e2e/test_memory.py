"""Memory arrives byte for byte, however it travels and whoever dies meanwhile.

The workload (tests/workloads/memory.py) knows what each page must hold, and says so when asked.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_crash import kill, settle, wait_for_phase
from tests.e2e.test_ping_pong import FAMILY, THREADS, ping_pong
from tests.e2e.world import World, assert_continuous, eventually, numbers
from tests.lab.host import LabHost
from tests.workloads.memory import PAGE, content

CACHE = "/var/lib/migrate/cache"
MOVING, SCANNER, AGENT = "migrate mov[e]", "migrate.scanne[r]", "migrate agen[t]"
SERVER = "criu lazy-page[s]"


def start(world: World, mib: int, rate: float) -> None:
    """Start the workload as `app` on host a."""
    world.start(world.a, "app", ["python3", "/workloads/memory.py", str(mib), str(rate)])
    eventually(lambda: len(world.logs(world.a, "app")) > 3, "the workload does not start")


def lines(world: World, host: LabHost) -> list[dict[str, Any]]:
    """What the workload has printed there."""
    return [json.loads(line) for line in world.logs(host, "app")]


def broken(world: World, host: LabHost) -> list[str]:
    """Have every page compared; gives those that are not as they must be."""
    before = len([line for line in lines(world, host) if "checked" in line])
    host.run(["docker", "kill", "--signal", "USR1", "app"])
    found: list[dict[str, Any]] = []

    def answered() -> bool:
        found[:] = [line for line in lines(world, host) if "checked" in line][before:]
        return bool(found)

    eventually(answered, "it does not compare", lambda: world.state(host, "app"))
    assert found[0]["checked"] > 4000
    wrong: list[str] = found[0]["broken"]
    return wrong


def sent(summary: dict[str, Any]) -> int:
    """Bytes of memory that were sent, frozen or not."""
    return int(sum(one["sent"] for one in summary["rounds"]) + summary["final"]["sent"])


def cached(summary: dict[str, Any]) -> int:
    return int(sum(one["cached"] for one in summary["rounds"]) + summary["final"]["cached"])


def begin(world: World, *options: str) -> subprocess.Popen[str]:
    """Start to move `app` from a to b, in several rounds; returns when the first one is over."""
    moving = world.a.popen(
        ["migrate", "move", "app", "b", "--max-downtime", "0.01", "-v", *options]
    )
    assert moving.stderr
    said = []
    while line := moving.stderr.readline():
        said.append(line)
        if line.startswith("round 1:"):
            return moving
    raise AssertionError("".join(said))


# Stands before the real one in the agent's PATH.
SLOW_SERVER = """#!/bin/sh
[ "$1" = lazy-pages ] && echo $$ > {cgroup}/cgroup.procs
exec /usr/sbin/criu "$@"
"""


@contextmanager
def slow_pages(host: LabHost) -> Iterator[Path]:
    """Servers of lazy pages on a host have 5 % of a CPU, from their first moment on: else all may
    be filled in before anybody has looked. Gives their cpu cgroup, for `starve`."""
    cgroup = Path("/sys/fs/cgroup/cpu", host.cgroup, "starved")
    wrapper = "/usr/local/bin/criu"
    cgroup.mkdir(parents=True)  # Docker makes the one above with its first container
    try:
        (cgroup / "cpu.cfs_period_us").write_text("200000")
        (cgroup / "cpu.cfs_quota_us").write_text("10000")
        host.write(wrapper, SLOW_SERVER.format(cgroup=cgroup), mode=0o755)
        yield cgroup
    finally:
        host.path(wrapper).unlink(missing_ok=True)
        (cgroup / "cpu.cfs_quota_us").write_text("-1")
        eventually(lambda: not (cgroup / "cgroup.procs").read_text(), "it does not end")
        cgroup.rmdir()


def starve(cgroup: Path) -> None:
    """Now they have next to nothing: half a percent.

    (Not SIGSTOP: after it criu lazy-pages gives up, as its epoll_wait says EINTR.)
    """
    assert (cgroup / "cgroup.procs").read_text(), "the server is not in there, or has ended"
    (cgroup / "cpu.cfs_quota_us").write_text("1000")


# -- it arrives whole --------------------------------------------------------------------------


@pytest.mark.parametrize("world", ["mixed", "containerd"], indirect=True)
def test_there_and_back(world: World) -> None:
    start(world, 48, 4)
    here, there = world.a, world.b
    for restore in ("lazy", "eager", "lazy"):
        summary = world.migrate(here, "app", there, "--keep", "--force", "--restore", restore)
        assert len(summary["rounds"]) >= 2
        # The child that the workload forks now and then is all new, but a copy of what is there.
        final = summary["final"]
        assert 0 < final["dirty"] - final["duplicate"] < final["scanned"] / 4
        assert bool(summary["lazy"]) == (restore == "lazy")
        before = lines(world, here)
        here, there = there, here
        world.wait_for_output(here, "app")
        assert broken(world, here) == []
        after = lines(world, here)
        assert {line["nonce"] for line in before + after if "nonce" in line} == {before[0]["nonce"]}
        assert_continuous([line["tick"] for line in before + after if "nonce" in line])
        assert not [line for line in after if line["broken"]]
    world.assert_clean()


def test_shared_memory_pipes_and_processes(world: World) -> None:
    output = ping_pong(world, "family", FAMILY, 2, restore="lazy")
    assert not [line for line in output if "BROKEN" in line]
    assert_continuous(numbers(output))


def test_threads(world: World) -> None:
    output = ping_pong(world, "threads", THREADS, 2, restore="lazy")
    states = [json.loads(line) for line in output if line.startswith("{")]
    assert len({state["nonce"] for state in states}) == 1
    assert not [state for state in states if state["broken"]]


def test_a_wrong_page_is_found(world: World) -> None:
    """The negative control: pages are damaged on the way, and the workload must say so."""
    start(world, 8, 0.2)
    for _ in range(3):
        moving = begin(world, "--keep", "--no-cache")
        world.a.run(["pkill", "-STOP", "-f", MOVING])
        try:
            damaged = damage(world.b)
        finally:
            moving.send_signal(signal.SIGCONT)  # nsenter has stopped with it, and passes this on
        out, err = moving.communicate(timeout=150)
        # The pages of a child that is forked just then are told as copies of these, which the store
        # compares with their digest: StreamCorrupt, and the container runs on.
        if moving.returncode != 52:
            break
    assert moving.returncode == 0, (out, err)
    assert broken(world, world.b) == [f"private: page {page}" for page in damaged]


def damage(host: LabHost) -> list[int]:
    """Overwrite two of the workload's pages that wait in a host's page store; gives which."""
    # Two that the workload does not write to in its first ten minutes.
    known = {content("private", page, 0, "random"): page for page in (810, 1368)}
    found = set()
    for path in host.path("/run/migrate/sessions").glob("*/pages/pages-*.img"):
        with path.open("r+b", buffering=0) as file:
            for at in data_pages(file.fileno()):
                page = known.get(os.pread(file.fileno(), PAGE, at))
                if page is not None:
                    os.pwrite(file.fileno(), b"damaged", at)
                    found.add(page)
    return sorted(found)


def data_pages(fd: int) -> Iterator[int]:
    """The offsets of the pages of a sparse file that are not holes."""
    at = 0
    while True:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            return
        end = os.lseek(fd, at, os.SEEK_HOLE)
        yield from range(at, end, PAGE)
        at = end


# -- what is known from before ------------------------------------------------------------------


def test_the_way_back_costs_little(world: World) -> None:
    start(world, 64, 0.2)
    away = world.migrate(world.a, "app", world.b)
    assert cached(away) == 0
    assert sent(away) > 64 << 20
    back = world.migrate(world.b, "app", world.a)
    assert cached(back) > 16384
    assert sent(back) < sent(away) / 10
    # The cache of host b, damaged in every way at once, costs bytes and no more.
    (file,) = world.b.path(CACHE).glob("app~*.pages")
    with file.open("r+b") as pages:
        for page in range(0, file.stat().st_size // PAGE, 3):
            pages.seek(page * PAGE + page % PAGE)
            pages.write(b"damaged")
        pages.truncate(file.stat().st_size - 100)
    again = world.migrate(world.a, "app", world.b)
    assert cached(again) > 8192
    assert sent(away) / 5 < sent(again) < sent(away)
    assert broken(world, world.b) == []
    without = world.migrate(world.b, "app", world.a, "--no-cache")
    assert cached(without) == 0
    assert sent(without) > 64 << 20


# -- whoever dies -------------------------------------------------------------------------------


@pytest.mark.parametrize(("victim", "code"), [(SCANNER, 50), (AGENT, 51), (MOVING, -9)])
def test_killed_in_the_rounds(world: World, victim: str, code: int) -> None:
    """It runs on at the source as if nothing had been."""
    start(world, 8, 1)
    moving = begin(world)
    kill(world.b if victim == AGENT else world.a, victim)
    out, err = moving.communicate(timeout=150)
    assert moving.returncode in (code, 128 - code), (out, err)
    assert settle(world) == [world.a]
    assert world.state(world.b, "app") == ""
    assert broken(world, world.a) == []
    assert_continuous([line["tick"] for line in lines(world, world.a) if "nonce" in line])
    world.assert_clean()


def test_the_server_of_pages_is_killed(world: World) -> None:
    """What would read zeros from then on is ended, and nobody calls that a success."""
    start(world, 96, 1)
    with slow_pages(world.b) as cgroup:
        moving = begin(world, "--restore", "lazy", "--keep")
        assert wait_for_phase(world.b, "destination", "restored", moving)
        starve(cgroup)
        assert wait_for_phase(world.a, "source", "confirmed", moving)
        kill(world.b, SERVER)
        out, err = moving.communicate(timeout=150)
    assert moving.returncode == 56, (out, err)
    assert "lazy pages ended (-9); the container was killed" in err
    assert "runs on" not in err
    for host in (world.a, world.b):
        eventually(lambda host=host: world.state(host, "app") == "exited", "it runs on")  # type: ignore[misc]
    assert world.inspect(world.b, "app")["State"]["ExitCode"] == 137
    world.assert_clean()


def test_the_agent_is_killed_while_memory_is_filled_in(world: World) -> None:
    """That goes on without it. Until it is done, the container cannot be moved on."""
    start(world, 96, 1)
    with slow_pages(world.b) as cgroup:
        moving = begin(world, "--restore", "lazy", "--keep")
        assert wait_for_phase(world.b, "destination", "restored", moving)
        starve(cgroup)
        assert wait_for_phase(world.a, "source", "confirmed", moving)
        (cgroup / "cpu.cfs_period_us").write_text("1000000")  # it must last for what follows
        kill(world.b, AGENT)
        out, err = moving.communicate(timeout=150)
        assert moving.returncode == 0, (out, err)
        assert "could not be told" in err
        assert world.b.run(["pgrep", "-f", SERVER], check=False).ok
        early = world.try_migrate(world.b, "app", "a")
        assert early.returncode == 13, early
        assert "still being filled in" in early.stdout
    assert settle(world) == [world.b]
    assert broken(world, world.b) == []
    world.assert_clean()


def test_it_ends_while_memory_is_filled_in(world: World) -> None:
    """A container that is stopped needs no more memory: that is no failure."""
    start(world, 96, 1)
    with slow_pages(world.b) as cgroup:
        moving = begin(world, "--restore", "lazy")
        assert wait_for_phase(world.b, "destination", "restored", moving)
        starve(cgroup)
        assert wait_for_phase(world.a, "source", "confirmed", moving)
        (cgroup / "cpu.cfs_period_us").write_text("1000000")
        world.b.run(["docker", "kill", "app"])
        began = time.monotonic()
        out, err = moving.communicate(timeout=150)
        # Nobody has waited for the rest, which takes longer with so little CPU.
        assert time.monotonic() - began < 60
    assert moving.returncode == 0, (out, err)
    world.assert_clean()
