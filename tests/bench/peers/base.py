"""What every way to move a container has in common."""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tests.bench.plan import Workload
from tests.bench.world import BenchError, BenchWorld
from tests.lab.host import LabHost

NAME = "app"
# Shell: say when a step begins. `date` costs 1 ms.
MARK = 'mark() { echo "@$1 $(date +%s.%N)"; }; '


@dataclass
class Moved:
    """`begun`, `ended`, `handover` (the restore begins): time.monotonic()."""

    begun: float
    ended: float
    handover: float
    steps: dict[str, float] = field(default_factory=dict)
    tool: dict[str, Any] = field(default_factory=dict)


Switch = Callable[[], None]
"""To be called when the container runs at the other host and packets may go there."""


class Mover(ABC):
    """One way; `address` is where its container is reached, on either host."""

    address: str
    shared_cgroup = ""
    """A cgroup of that name is the container's on both hosts (they share one kernel)."""

    def __init__(self, world: BenchWorld) -> None:
        self.world = world

    @abstractmethod
    def prepare(self) -> None:
        """Once for a lab: networks, images, bundles."""

    @abstractmethod
    def start(self, workload: Workload) -> None:
        """Start the container on host a."""

    @abstractmethod
    def move(
        self, workload: Workload, source: LabHost, to: LabHost, switch: Switch | None, limit: float
    ) -> Moved:
        """Move it; raises BenchError when that does not work within `limit` seconds."""

    @abstractmethod
    def remove(self) -> None:
        """Leave nothing of the container on either host, whatever has happened."""

    def run_script(
        self, source: LabHost, script: str, switch: Switch | None, limit: float
    ) -> Moved:
        """Run a script with `mark`s on the source, `restore` and `running` among them.

        At `running` the route is switched, beside the script: a person would do it by one command.
        """

        def watch(line: str) -> None:
            if switch and line.startswith("@running "):
                switch()

        begun = time.monotonic()
        result = self.world.command(source, MARK + script, timeout=limit, on_line=watch)
        ended = time.monotonic()
        marks = parse_marks(result.stdout)
        handover = dict(marks).get("restore")
        if handover is None:
            raise BenchError("the script did not come to its mark `restore`")
        since_boot = time.monotonic() - time.time()
        return Moved(begun, ended, handover + since_boot, durations(marks))


def parse_marks(text: str) -> list[tuple[str, float]]:
    """What `mark` printed, among other output."""
    return [(name, float(at)) for name, at in re.findall(r"^@(\S+) ([\d.]+)$", text, re.MULTILINE)]


def durations(marks: list[tuple[str, float]]) -> dict[str, float]:
    """Seconds of each step, until the next mark."""
    return {name: round(after - at, 4) for (name, at), (_, after) in pairwise(marks)}
