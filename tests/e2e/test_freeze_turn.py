"""While another migration of a host has its container frozen, this one goes on running."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from migrate.freeze_turn import PATIENCE
from tests.e2e.test_crash import kill, wait_for_phase
from tests.e2e.world import World, assert_continuous, numbers
from tests.lab.host import LabHost

COUNTER = ["sh", "/workloads/counter.sh"]
HELD = 3.0  # seconds, of pre-copy
HOLD = """
import time
from migrate.freeze_turn import Slot
print(Slot().take(), flush=True)
time.sleep(600)
"""


@contextmanager
def held(host: LabHost) -> Iterator[None]:
    """Another migration has the turn of this host."""
    host.sh("mkdir -p -m 700 /run/migrate")
    holder = host.popen(["/opt/migrate/bin/python3", "-c", HOLD])
    try:
        assert holder.stdout
        assert holder.stdout.readline().strip() == "True"
        yield
    finally:
        kill(host, "import Slo[t]")  # the program itself: `holder` is the nsenter before it
        holder.communicate(timeout=60)


@pytest.mark.parametrize("where", ["a", "b"])
def test_it_runs_until_its_turn_comes(world: World, where: str) -> None:
    world.start(world.a, "app", COUNTER)
    world.wait_for_output(world.a, "app")
    with held(world.lab[where]):
        moving = world.a.popen(["migrate", "move", "app", "b", "--json", "--keep"])
        assert wait_for_phase(world.a, "source", "pre-copy", moving)
        time.sleep(HELD)
        assert moving.poll() is None
        world.wait_for_output(world.a, "app")  # it runs
    out, err = moving.communicate(timeout=120)
    assert moving.returncode == 0, (out, err)
    summary = json.loads(out)
    assert summary["phases"]["pre-copy"] > HELD
    # The wait is no part of it.
    assert summary["downtime"] < summary["phases"]["pre-copy"]
    world.wait_for_output(world.b, "app")
    assert_continuous(numbers(world.logs(world.a, "app") + world.logs(world.b, "app")))
    world.assert_clean()


def test_who_has_it_and_dies_does_not_hold_up_the_next(world: World) -> None:
    world.start(world.a, "app", COUNTER)
    world.wait_for_output(world.a, "app")
    with held(world.b):
        pass  # killed
    summary = world.migrate(world.a, "app", world.b)
    assert summary["phases"]["pre-copy"] < PATIENCE / 2, "it has waited until its patience ended"
