"""`--metrics FILE`: a text file for Prometheus' node exporter (its textfile collector).

The numbers grow from run to run: the file itself is where they are kept. prometheus_client words
it; it is written into a file beside it, which then takes its place.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.parser import text_string_to_metric_families

from migrate.errors import CommandFailed

BUCKETS = (0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)  # seconds of downtime
OUTCOMES = ("moved", "failed", "unsure", "gone", "left", "stays")


MODE = 0o644
PATIENCE = 5.0  # seconds for another run to have written the file
ACTIONS = ("evacuate", "return")  # both may use one file


def prefix_of(action: str) -> str:
    return f"migrate_{action}_"


@dataclass(frozen=True)
class Totals:
    """`outcomes`: containers by what became of them; `downtime`: containers by bucket, not
    cumulative, the last for what is longer than all; `success`, `run`: seconds since the epoch;
    `succeeded`: 1 when the last run was a success."""

    outcomes: Mapping[str, float] = field(default_factory=dict)
    sent: float = 0.0
    downtime: tuple[float, ...] = (0.0,) * (len(BUCKETS) + 1)
    downtime_sum: float = 0.0
    success: float = 0.0
    run: float = 0.0
    seconds: float = 0.0
    exit_code: float = 0.0
    succeeded: float = 0.0


@dataclass(frozen=True)
class Run:
    """One run, also one that failed as a whole. `outcomes`: how many containers by what became of
    them; `now`: when it ended; `success`: it has done all that it was to do."""

    outcomes: Mapping[str, int]
    sent: int
    downtimes: Sequence[float]
    seconds: float
    exit_code: int
    success: bool
    now: float


def add(before: Totals, run: Run) -> Totals:
    """The totals after one more run."""
    counts = list(before.downtime)
    for value in run.downtimes:
        counts[next((n for n, top in enumerate(BUCKETS) if value <= top), len(BUCKETS))] += 1
    return Totals(
        outcomes={
            name: before.outcomes.get(name, 0.0) + run.outcomes.get(name, 0) for name in OUTCOMES
        },
        sent=before.sent + run.sent,
        downtime=tuple(counts),
        downtime_sum=before.downtime_sum + sum(run.downtimes),
        success=run.now if run.success else before.success,
        run=run.now,
        seconds=run.seconds,
        exit_code=float(run.exit_code),
        succeeded=float(run.success),
    )


class _Collector:
    """Gives the totals to prometheus_client."""

    def __init__(self, totals: Totals, prefix: str) -> None:
        self._totals = totals
        self._prefix = prefix

    def collect(self) -> Sequence[Metric]:
        totals, prefix = self._totals, self._prefix
        containers = CounterMetricFamily(
            prefix + "containers", "Containers by what became of them.", labels=["outcome"]
        )
        for name in OUTCOMES:
            containers.add_metric([name], totals.outcomes.get(name, 0.0))
        sent = CounterMetricFamily(prefix + "sent_bytes", "Bytes sent.", value=totals.sent)
        downtime = HistogramMetricFamily(
            prefix + "downtime_seconds", "How long each container that moved stood still."
        )
        reached, buckets = 0.0, []
        for top, count in zip((*map(str, BUCKETS), "+Inf"), totals.downtime, strict=True):
            reached += count
            buckets.append((top, reached))
        downtime.add_metric([], buckets, totals.downtime_sum)
        gauges = [
            GaugeMetricFamily(prefix + name, text, value=value)
            for name, text, value in (
                ("last_success_timestamp_seconds", "When all went as planned.", totals.success),
                ("last_run_timestamp_seconds", "When it last ended.", totals.run),
                ("last_run_seconds", "How long the last run took.", totals.seconds),
                ("last_run_exit_code", "The exit code of the last run.", totals.exit_code),
                ("last_run_success", "1 when the last run did all, else 0.", totals.succeeded),
            )
        ]
        return [containers, sent, downtime, *gauges]


def read(path: Path, action: str) -> Totals:
    """The totals of the runs before; of a file that is not ours, or not there, none."""
    prefix = prefix_of(action)
    try:
        families = list(text_string_to_metric_families(path.read_text()))
        samples = {
            (one.name.removeprefix(prefix), *sorted(one.labels.items())): float(one.value)
            for family in families for one in family.samples
        }  # fmt: skip
    except (OSError, ValueError, KeyError):
        return Totals()
    reached = [
        samples.get(("downtime_seconds_bucket", ("le", top)), 0.0)
        for top in (*map(str, BUCKETS), "+Inf")
    ]
    return Totals(
        outcomes={
            name: samples.get(("containers_total", ("outcome", name)), 0.0) for name in OUTCOMES
        },
        sent=samples.get(("sent_bytes_total",), 0.0),
        downtime=tuple(
            max(0.0, one - before) for one, before in zip(reached, [0.0, *reached], strict=False)
        ),
        downtime_sum=samples.get(("downtime_seconds_sum",), 0.0),
        success=samples.get(("last_success_timestamp_seconds",), 0.0),
        run=samples.get(("last_run_timestamp_seconds",), 0.0),
        seconds=samples.get(("last_run_seconds",), 0.0),
        exit_code=samples.get(("last_run_exit_code",), 0.0),
        succeeded=samples.get(("last_run_success",), 0.0),
    )


def write(path: Path, totals: Mapping[str, Totals]) -> None:
    """Replace the file by the totals of each action. Raises CommandFailed."""
    registry = CollectorRegistry()
    for action in sorted(totals):
        registry.register(_Collector(totals[action], prefix_of(action)))
    try:
        _replace(path, generate_latest(registry))
    except OSError as error:
        raise _unwritable(path, error) from error


def _replace(path: Path, content: bytes) -> None:
    """Put it there whole or not at all, so that everybody can read it: node exporter is not root,
    and a cron job's umask may be 077."""
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # no *.prom
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(fd, MODE)
            os.fsync(fd)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def note(path: Path, action: str, run: Run) -> None:
    """Add one run of `evacuate` or `return` to the file. Raises CommandFailed.

    Two may end at once, one of them with OtherRun: what one has read, the other must not change.
    """
    with _alone(path):
        before = {one: read(path, one) for one in ACTIONS}
        after = {one: totals for one, totals in before.items() if totals.run}
        write(path, after | {action: add(before[action], run)})


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other runs from the file, by a lock on its folder, which leaves nothing behind.

    Others may hold that lock for reasons of theirs: after `PATIENCE` it is done without.
    """
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with suppress(BlockingIOError):
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.02)
        yield
    finally:
        os.close(folder)


def _unwritable(path: Path, error: OSError) -> CommandFailed:
    return CommandFailed(
        f"the metrics cannot be written: {error}", f"see that {path.parent} can be written to"
    )
