"""Less CPU for a container that dirties memory faster than it is sent (`--throttle`).

The idea is QEMU's auto-converge: 20 % less at first, then in steps of 10 % more. Here it is the
quota of the container's cpu cgroup. It is lifted before the freeze: a throttled task reaches the
freezer only when its next period begins (measured with 20 % of a CPU: 52 ms, at most 78, instead of
0.4), CRIU's parasite would run under it, and CRIU would write it into the cgroup image. The new
container cannot get it: its limits are those that Docker knows, and Docker does not know of this.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from migrate.journal import Journal
from migrate.switchover import PATIENCE, Decision, Reason, Round
from migrate.undo import RestoreCpuLimit, undo

# Percent; QEMU's cpu-throttle-initial and -increment. Its maximum is 99: that is as good as frozen.
FIRST_CUT, CUT_STEP, LAST_CUT = 20, 10, 80
HIGH = 0.5  # QEMU's throttle-trigger-threshold: dirtied while that round was sent, of what it sent
LEAST_QUOTA = 1000  # us; the kernel takes no less (kernel/sched: min_cfs_quota_period)
WINDOW = 0.05  # seconds; a CPU time that was measured over less is noise


# -- decisions ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Throttle:
    """`cut`: percent of its CPU time that the container is denied; `since`: how many rounds there
    were when it was set."""

    cut: int = 0
    since: int = 0


def throttled(
    decision: Decision, history: Sequence[Round], now: Throttle
) -> tuple[Decision, Throttle]:
    """What becomes of the switchover rule's decision when the container may be throttled.

    A stop for rounds that do not shrink is put off while there is a step left. Each step has time
    to show: the first round after it was dirtied before it.
    """
    futile = decision.reason in (Reason.GROWING, Reason.NOT_SHRINKING)
    if not futile and (decision.stop or not diverging(history)):
        return decision, now
    put_off = replace(decision, stop=False, reason=Reason.THROTTLED)
    if now.cut and len(history) - now.since < PATIENCE:
        return (put_off if futile else decision), now
    if now.cut >= LAST_CUT:
        return decision, now
    cut = min(now.cut + CUT_STEP, LAST_CUT) if now.cut else FIRST_CUT
    return put_off, Throttle(cut, len(history))


def diverging(history: Sequence[Round]) -> bool:
    """Whether, twice in succession, more than half as much was dirtied as was sent meanwhile."""
    if len(history) < 3:
        return False
    first, second, third = history[-3:]
    return second.dirty > HIGH * first.dirty and third.dirty > HIGH * second.dirty


@dataclass(frozen=True)
class CpuLimit:
    """Microseconds of CPU time per period; `quota` None: no limit."""

    quota: int | None
    period: int


def next_limit(cut: int, used: float, old: CpuLimit) -> CpuLimit:
    """The limit that takes `cut` percent of the CPU time away.

    `used`: how many CPUs the container has kept busy before it was throttled. A share of all that
    it may use would leave a single thread on a host of many CPUs as fast as before. Never more than
    it was allowed before.
    """
    quota = max(int(used * old.period * (100 - cut) / 100), LEAST_QUOTA)
    return CpuLimit(quota if old.quota is None else min(quota, old.quota), old.period)


# -- the cgroup -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class CpuCgroup:
    """The cpu cgroup of a container: the files of its limit and of its CPU time."""

    limit: Path
    usage: Path

    @property
    def unified(self) -> bool:
        return self.limit.name == "cpu.max"

    def content(self) -> str:
        """What is in the file of the limit, as it can be written back."""
        return self.limit.read_text().strip()

    def read(self) -> CpuLimit:
        if self.unified:  # `max 100000`
            quota, period = self.content().split()
            return CpuLimit(None if quota == "max" else int(quota), int(period))
        quota_us = int(self.content())
        period_us = int(self.limit.with_name("cpu.cfs_period_us").read_text())
        return CpuLimit(None if quota_us < 0 else quota_us, period_us)

    def write(self, limit: CpuLimit) -> None:
        """Only ever a limit with a quota; the period stays as it is."""
        text = f"{limit.quota} {limit.period}" if self.unified else f"{limit.quota}"
        self.limit.write_text(text)

    def seconds(self) -> float:
        """CPU time that its tasks have taken so far."""
        text = self.usage.read_text()
        if not self.unified:
            return int(text) / 1e9
        figures = dict(line.split() for line in text.splitlines())
        return int(figures["usage_usec"]) / 1e6


def cpu_cgroup(text: str, mount: str = "/sys/fs/cgroup") -> CpuCgroup | None:
    """The cpu cgroup from /proc/PID/cgroup: v1's `cpu`, else the v2 one; None when it has none of
    its own (the top of the hierarchy has no limit)."""
    paths = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path))
    if "cpu" in paths:
        top = paths.get("cpuacct", paths["cpu"])
        found = CpuCgroup(
            Path(f"{mount}/cpu{paths['cpu']}/cpu.cfs_quota_us"),
            Path(f"{mount}/cpuacct{top}/cpuacct.usage"),
        )
    else:
        own = paths.get("", "/")
        found = CpuCgroup(Path(f"{mount}{own}/cpu.max"), Path(f"{mount}{own}/cpu.stat"))
    at_top = paths.get("cpu", paths.get("", "/")) == "/"
    there = found.limit.exists() and found.usage.exists()
    return found if there and not at_top else None


class Throttler:
    """Sets the limit of one container, and puts it back. Made when pre-copy begins: what the
    container takes until the first step is what the steps are a part of."""

    def __init__(self, cgroup: CpuCgroup, journal: Journal) -> None:
        self._cgroup = cgroup
        self._journal = journal
        self._began = (time.monotonic(), cgroup.seconds())
        self._old: CpuLimit | None = None
        self._used = 0.0
        self._undo: tuple[int, RestoreCpuLimit] | None = None

    def set(self, cut: int) -> str:
        """Take `cut` percent of its CPU time away. Gives why that is not possible, or an empty
        string: a migration does not fail for it."""
        try:
            if self._old is None:
                self._old = self._cgroup.read()
                self._used = self._busy()
            if self._undo is None:
                step = RestoreCpuLimit(str(self._cgroup.limit), self._cgroup.content())
                self._undo = self._journal.push(step), step
            self._cgroup.write(next_limit(cut, self._used, self._old))
        except OSError as problem:
            # EINVAL: a cgroup below has more (v1 only), or a burst is allowed that is more.
            return f"the CPU of the container cannot be limited: {problem}"
        return ""

    def _busy(self) -> float:
        then, seconds = self._began
        passed = time.monotonic() - then
        return (self._cgroup.seconds() - seconds) / passed if passed > WINDOW else 1.0

    def lift(self) -> None:
        """Put the old limit back, just before the freeze."""
        if self._undo:
            number, step = self._undo
            undo(step)
            self._journal.drop(number)
            self._undo = None
