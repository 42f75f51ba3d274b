"""Bare CRIU, and from it the limit: what no tool can be quicker than."""

from __future__ import annotations

import json
from pathlib import Path

from tests.bench.figures import limit
from tests.bench.peers.migrateway import MigrateWay
from tests.bench.plan import Workload, heart
from tests.bench.world import BenchWorld

SCRIPT = Path(__file__).parents[1] / "bare_criu.py"
INSIDE = "/root/bare_criu.py"
EMPTY = heart(0, 0)


class Bare:
    """`criu dump` and `criu restore` of a container's twin on host a (bare_criu.py)."""

    def __init__(self, world: BenchWorld) -> None:
        self.world = world
        self._start = MigrateWay(world)

    def prepare(self) -> None:
        self._start.prepare()
        self.world.a.write(INSIDE, SCRIPT.read_text())

    def measure(self, workload: Workload, timeout: float) -> dict[str, float]:
        """Seconds of `dump` and `restore`, `bytes` of the images."""
        try:
            self._start.start(workload)
            filled = 0.5 + workload.mib / 300  # seconds
            command = f"python3 {INSIDE} app 1 {filled:.1f}"
            text = self.world.command(self.world.a, command, timeout=timeout).stdout
        finally:
            self._start.remove()
        found: dict[str, float] = json.loads(text.splitlines()[-1])
        return found

    def limit(self, workload: Workload, bandwidth: float, timeout: float) -> dict[str, float]:
        """The parts of the shortest gap thought possible, and `limit`, their sum."""
        empty = self.measure(EMPTY, timeout)
        gap = limit(
            (empty["dump"], empty["restore"]), int(empty["bytes"]), workload.rate * 1e6, bandwidth
        )
        return {**empty, "bandwidth": bandwidth, "limit": gap}
