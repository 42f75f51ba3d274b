"""One sample: start the workload, let the client ask, move it, look at what arrived."""

from __future__ import annotations

import contextlib
import re
import time

from migrate.errors import CommandFailed
from tests.bench import figures
from tests.bench.client import Client, verify, wait_until_ready
from tests.bench.figures import Sample
from tests.bench.meters import Sampler
from tests.bench.peers import Bare, Mover, mover
from tests.bench.peers.base import Moved
from tests.bench.plan import Cell, Peer, Workload, seconds
from tests.bench.world import BenchError, BenchWorld
from tests.lab.host import LabHost

SETTLE = 1.5  # seconds of undisturbed answers before a move, and after it
CAT_MIB = 256


class Bench:
    """Measures cells on a world; remembers what is prepared once."""

    def __init__(self, world: BenchWorld, interval: float) -> None:
        self.world = world
        self.interval = interval
        self.throughput: dict[str, float] = {}
        self._prepared: set[str] = set()
        self._unfit: dict[str, str] = {}

    def sample(self, cell: Cell, number: int) -> Sample:
        """Measure; a failure is a sample, too, with the reason in it."""
        found = Sample(cell.workload.name, cell.link.name, cell.peer.name, number)
        try:
            if cell.peer.kind in ("bare", "limit"):
                self._bare(cell, found)
            else:
                self._move(cell, found)
        except (BenchError, CommandFailed) as failure:
            found.error = reason(failure)
        return found

    # -- bare CRIU -------------------------------------------------------------------------------

    def _bare(self, cell: Cell, found: Sample) -> None:
        bare = Bare(self.world)
        self._prepare_once("bare", bare)
        limit = time_limit(cell)
        if cell.peer.kind == "limit":
            bandwidth = self.throughput[cell.link.name]
            found.steps = bare.limit(cell.workload, bandwidth, limit)
            found.gap = found.steps["limit"]
        else:
            found.steps = bare.measure(cell.workload, limit)
            found.gap = found.steps["dump"] + found.steps["restore"]

    # -- moves -----------------------------------------------------------------------------------

    def _prepare_once(self, kind: str, way: Mover | Bare) -> None:
        """What fails here fails for all samples of that kind; it is not tried again and again."""
        if kind in self._unfit:
            raise BenchError(self._unfit[kind])
        if kind in self._prepared:
            return
        try:
            way.prepare()
        except (BenchError, CommandFailed) as failure:
            self._unfit[kind] = f"could not be prepared: {reason(failure)}"
            raise BenchError(self._unfit[kind]) from failure
        self._prepared.add(kind)

    def _move(self, cell: Cell, found: Sample) -> None:
        a, b = self.world.a, self.world.b
        way = mover(self.world, cell.peer)
        self._prepare_once(cell.peer.kind, way)
        limit = time_limit(cell)
        try:
            self.world.route(a)
            way.start(cell.workload)
            wait_until_ready(self.world, cell.workload, way.address)
            source, to = a, b
            if cell.peer.back:
                way.move(cell.workload, a, b, None, limit)
                self.world.route(b)
                source, to = b, a
            self._measured_move(cell, found, way, source, to)
            self.world.route(to)
            found.verified = verify(self.world, cell.workload, way.address)
        finally:
            with contextlib.suppress(CommandFailed):
                way.remove()

    def _measured_move(
        self, cell: Cell, found: Sample, way: Mover, source: LabHost, to: LabHost
    ) -> None:
        a, b = self.world.a, self.world.b
        client = Client(self.world, cell.workload, way.address, self.interval)
        try:
            time.sleep(SETTLE)
            sampler = Sampler(*(n for n in (a.cgroup, b.cgroup, way.shared_cgroup) if n))
            switch = (lambda: self.world.route(to)) if client.follows_route else None
            wire = self.world.wire.bytes()
            sampler.start()
            try:
                moved = way.move(cell.workload, source, to, switch, time_limit(cell))
            finally:
                sampler.stop()
            found.wire = self.world.wire.bytes() - wire
            time.sleep(SETTLE)
        finally:
            heard, found.client = client.stop()
        found.total = moved.ended - moved.begun
        found.steps, found.tool = moved.steps, moved.tool
        series = sampler.series
        found.cpu, found.memory = figures.both_hosts(
            series[a.cgroup], series[b.cgroup], series.get(way.shared_cgroup, []), moved.handover
        )
        judge(found, heard, moved, cell.workload)


def reason(failure: Exception) -> str:
    """In one line, without the command line that failed: it may be a whole script."""
    return " ".join(re.sub(r"^`.*` (?=failed|did not)", "", str(failure), flags=re.DOTALL).split())


def judge(found: Sample, heard: list[figures.Answer], moved: Moved, workload: Workload) -> None:
    """From what the client heard to the gap; raises BenchError when it is not the same process."""
    times = [one.at for one in heard]
    ended = moved.ended + SETTLE
    if not any(at > moved.ended for at in times):
        raise BenchError("the client heard nothing after the move")
    around = figures.silences(times, moved.begun, ended)
    found.gap, found.other_silences = around[0], around[1:4]
    before = figures.silences(times, moved.begun - 1.0, moved.begun)
    found.noise = next((one for one in before if one < around[0]), None)
    if workload.kind != "heart":
        if found.client.get("reconnects"):
            raise BenchError(f"the client had to connect anew: {found.client.get('errors')}")
        return
    if back := figures.steps_back([one.number for one in heard]):
        raise BenchError(f"the server's count of its answers did not go on, {back} times")
    found.dirty_rate = (
        figures.rate(heard, 0.0, moved.begun),
        figures.rate(heard, moved.begun, moved.ended),
    )


def time_limit(cell: Cell) -> float:
    """Seconds after which a move is given up: far more than it can need."""
    return 90 + 6 * seconds(cell)


def missing(peers: list[Peer], options: set[str]) -> dict[str, str]:
    """Peers that this version of the tool cannot be, and why."""
    return {
        peer.name: f"`migrate move` has no {' and no '.join(lacking)}"
        for peer in peers
        if (lacking := [word for word in peer.needs if word not in options])
    }
