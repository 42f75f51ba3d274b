"""While another migration of a host has its container frozen, this one goes on running."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.test_crash import kill
from tests.e2e.world import World, assert_continuous, numbers
from tests.lab.host import LabHost

COUNTER = ["sh", "/workloads/counter.sh"]
HELD = 6.0  # seconds; preflight and prepare take some of them
HOLD = f"""
import time
from migrate.freeze_turn import Slot
print(Slot().take(), flush=True)
time.sleep({HELD})
"""


@contextmanager
def held(host: LabHost) -> Iterator[None]:
    """Another migration has the turn of this host, for HELD seconds from now."""
    host.sh("mkdir -p -m 700 /run/migrate")
    holder = host.popen(["/opt/migrate/bin/python3", "-c", HOLD])
    try:
        assert holder.stdout
        assert holder.stdout.readline().strip() == "True"
        yield
    finally:
        kill(host, "import Slo[t]")  # the program itself: `holder` is the nsenter before it
        holder.communicate(timeout=20)


@pytest.mark.parametrize("where", ["a", "b"])
def test_it_runs_until_its_turn_comes(world: World, where: str) -> None:
    world.have_image(world.b)  # so that all of the wait falls into pre-copy
    world.start(world.a, "app", COUNTER)
    world.wait_for_output(world.a, "app")
    before = len(world.logs(world.a, "app"))
    began = time.monotonic()
    with held(world.lab[where]):
        summary = world.migrate(world.a, "app", world.b, "--keep")
    assert time.monotonic() - began > HELD
    assert summary["phases"]["pre-copy"] > HELD / 4
    assert summary["downtime"] < HELD / 4
    output = world.logs(world.a, "app")
    # The counter prints 30 numbers a second and more, while it runs.
    assert len(output) - before > 20 * HELD / 4
    world.wait_for_output(world.b, "app")
    assert_continuous(numbers(output + world.logs(world.b, "app")))
    world.assert_clean()


def test_who_has_it_and_dies_does_not_hold_up_the_next(world: World) -> None:
    world.start(world.a, "app", COUNTER)
    world.wait_for_output(world.a, "app")
    with held(world.b):
        pass  # killed
    summary = world.migrate(world.a, "app", world.b)
    assert summary["phases"]["pre-copy"] < HELD / 4
