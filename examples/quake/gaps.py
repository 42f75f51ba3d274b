"""How long nothing came from the server, as its player saw it: of one move, and of many."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from migrate.summary import Summary


@dataclass(frozen=True)
class Gap:
    """A silence, from one snapshot to the next; times of time.monotonic()."""

    begin: float
    end: float

    @property
    def ms(self) -> float:
        return (self.end - self.begin) * 1000


@dataclass(frozen=True)
class Move:
    """One run of `migrate`: from when to when (time.monotonic()), and what it said of itself."""

    begin: float
    end: float
    summary: Summary


def longest(arrivals: Sequence[float], begin: float, end: float) -> Gap:
    """The longest silence of which a part lies between `begin` and `end`.

    `arrivals`: when each snapshot came, in order. Raises ValueError when none came before or after,
    since nobody knows then how long the silence was.
    """
    if not arrivals or arrivals[0] > begin or arrivals[-1] < end:
        raise ValueError("the player did not listen all the time")
    touching = [
        Gap(before, after)
        for before, after in pairwise(arrivals)
        if after >= begin and before <= end
    ]
    return max(touching, key=lambda gap: gap.ms)


def percentile(values: Sequence[float], percent: float) -> float:
    """By nearest rank: the smallest value that so many percent of all do not exceed. It is one
    that was measured, and nothing between two of them."""
    rank = math.ceil(len(values) * percent / 100)
    return sorted(values)[max(rank, 1) - 1]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Of values in seconds or ms, what a series is told by."""
    return {
        "p50": percentile(values, 50),
        "p95": percentile(values, 95),
        "max": max(values),
    }


def made_of(summaries: Sequence[Summary]) -> dict[str, float]:
    """The median of each part of the downtime, in ms. (They need not add up to its median.)"""
    names = list(dict.fromkeys(name for one in summaries for name in one.parts))
    return {
        name: statistics.median(one.parts.get(name, 0.0) for one in summaries) * 1000
        for name in names
    }


def report(moves: Sequence[Move], gaps: Sequence[Gap]) -> dict[str, Any]:
    """A series for machines. `gaps`: of each move, as `longest` gives it."""
    summaries = [move.summary for move in moves]
    return {
        "moves": len(moves),
        "gap_ms": _rounded(spread([gap.ms for gap in gaps])),
        "downtime_ms": _rounded(spread([one.downtime * 1000 for one in summaries])),
        "parts_ms_median": _rounded(made_of(summaries)),
        "total_s": _rounded(spread([one.total for one in summaries])),
        "each": [
            {
                "source": move.summary.source,
                "destination": move.summary.destination,
                "gap_ms": round(gap.ms, 1),
                "downtime_ms": round(move.summary.downtime * 1000, 1),
                "parts_ms": _rounded({k: v * 1000 for k, v in move.summary.parts.items()}),
                "total_s": round(move.summary.total, 2),
            }
            for move, gap in zip(moves, gaps, strict=True)
        ],
    }


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 1) for name, value in values.items()}


def lines(made: dict[str, Any]) -> list[str]:
    """The same series for people."""
    parts = ", ".join(f"{name} {ms:.0f}" for name, ms in made["parts_ms_median"].items())
    return [
        _line("the player heard nothing for", made["gap_ms"]),
        _line("of which the container stood still", made["downtime_ms"]),
        f"  that is made of (medians)          {parts} ms",
    ]


def _line(what: str, values: dict[str, float]) -> str:
    said = ", ".join(f"{name} {value:.0f} ms" for name, value in values.items())
    return f"  {what:<34} {said}"
