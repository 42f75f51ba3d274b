"""From what was noted to figures: silences, breaks, medians, the limit. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any


@dataclass
class Sample:
    """One move. Times in seconds, amounts in bytes; None: not measured for this peer.

    `gap`: the client's longest silence around the move; `noise`: the longest in the second before;
    `total`: from the command to its end; `wire`: bytes between the two hosts, both ways; `memory`:
    by how much it rose on host a and b; `cpu`: seconds on a and b, the container's own included.
    """

    workload: str
    link: str
    peer: str
    number: int
    error: str = ""
    gap: float | None = None
    noise: float | None = None
    other_silences: list[float] = field(default_factory=list)
    total: float | None = None
    wire: int | None = None
    cpu: tuple[float, float] | None = None
    memory: tuple[int, int] | None = None
    dirty_rate: tuple[float, float] | None = None
    """Bytes per second that the container changed before the move and during it."""
    steps: dict[str, float] = field(default_factory=dict)
    client: dict[str, Any] = field(default_factory=dict)
    verified: dict[str, Any] = field(default_factory=dict)
    tool: dict[str, Any] = field(default_factory=dict)

    @property
    def row(self) -> tuple[str, str, str]:
        return (self.link, self.workload, self.peer)


@dataclass(frozen=True)
class Answer:
    """One answer as the client heard it: when, its number at the server, bytes changed there."""

    at: float
    number: float
    written: float


def answers(rows: Sequence[float]) -> list[Answer]:
    """From the probe's flat list of triples."""
    return [Answer(*rows[at : at + 3]) for at in range(0, len(rows) - len(rows) % 3, 3)]


def silences(times: Sequence[float], begin: float, end: float) -> list[float]:
    """How long it was silent between two answers, longest first; those that touch begin..end.

    Nothing heard from the last answer until `end` is a silence, too: a container that never comes
    back must not look quick.
    """
    found = [later - one for one, later in pairwise(times) if later > begin and one < end]
    last = max((time for time in times if time < end), default=begin)
    if not any(time >= end for time in times):
        found.append(end - last)
    return sorted(found, reverse=True)


def steps_back(numbers: Sequence[float]) -> int:
    """How often the server's own count did not go on: it was started anew, or there are two."""
    return sum(1 for one, later in pairwise(numbers) if later <= one)


def rate(heard: Sequence[Answer], begin: float, end: float) -> float:
    """Bytes per second that the server says it changed between two moments."""
    inside = [one for one in heard if begin <= one.at <= end]
    if len(inside) < 2 or inside[-1].at == inside[0].at:
        return 0.0
    return (inside[-1].written - inside[0].written) / (inside[-1].at - inside[0].at)


@dataclass(frozen=True)
class Use:
    """What a cgroup had used at one moment: CPU seconds so far, bytes of memory."""

    at: float
    cpu: float
    memory: int


Series = Sequence[Use]


def used(series: Series, begin: float, end: float) -> tuple[float, int]:
    """CPU seconds between two moments, and how far memory rose above what it was at first."""
    inside = [one for one in series if begin <= one.at <= end]
    if not inside:
        return 0.0, 0
    return inside[-1].cpu - inside[0].cpu, max(one.memory for one in inside) - inside[0].memory


def both_hosts(
    a: Series, b: Series, shared: Series, handover: float
) -> tuple[tuple[float, float], tuple[int, int]]:
    """CPU and memory of hosts a and b.

    `shared`: the cgroup of a container that keeps its cgroup's name at the other host (podman): it
    counts for a until `handover`, for b from then on.
    """
    ends = (float("-inf"), float("inf"))
    cpu_a, memory_a = used(a, *ends)
    cpu_b, memory_b = used(b, *ends)
    before, _ = used(shared, ends[0], handover)
    after, _ = used(shared, handover, ends[1])
    late = [one.memory for one in shared if one.at >= handover]
    early = max((one.memory for one in shared if one.at < handover), default=0)
    first = shared[0].memory if shared else 0
    grown = max(late, default=0)
    return (cpu_a + before, cpu_b + after), (memory_a + max(0, early - first), memory_b + grown)


def limit(empty: tuple[float, float], image_bytes: int, dirty: float, bandwidth: float) -> float:
    """The shortest gap that is thought possible: an empty container's dump and restore by bare
    CRIU, and between them what cannot have been sent before: its images, and what the container
    changed (`dirty` bytes per second) in the time that the dump took."""
    dump, restore = empty
    return dump + restore + (image_bytes + dirty * dump) / bandwidth


def median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def by_row(samples: Iterable[Sample]) -> dict[tuple[str, str, str], list[Sample]]:
    rows: dict[tuple[str, str, str], list[Sample]] = {}
    for sample in samples:
        rows.setdefault(sample.row, []).append(sample)
    return rows


def row_median(samples: Iterable[Sample], pick: Callable[[Sample], float | None]) -> float | None:
    return median(pick(one) for one in samples if not one.error)
