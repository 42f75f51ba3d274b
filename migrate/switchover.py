"""The switchover rule: when to end pre-copy and freeze the container. A pure function.

Predicted downtime = freeze + dump + bytes / bandwidth + restore, each from what this run has
measured. Stop when it is within `--max-downtime`, when another round would not make it shorter, or
at `--max-rounds`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

PAGE = 4096
MAX_DOWNTIME = 0.3  # seconds; QEMU's default
MAX_ROUNDS = 30
FEW_PAGES = 64  # p.haul's MIN_ITER_PAGES_COUNT
GROWTH = 1.1  # p.haul's MAX_ITER_GROW_RATE of 10 %
LITTLE = 0.05  # of the fixed costs: another round cannot gain more than that
GAIN = 0.9  # a round has gained something when it brings the rest down to this part of it
PATIENCE = 2  # rounds without a gain
MEANINGFUL = 1 << 20  # bytes; a round that sent less says nothing about the link
LONG = 0.1  # seconds; unless it took that long for it
LINK_BOUND = 1.5  # times the scan: what a round that waited for the link has taken at least
ASSUMED_BANDWIDTH = 12.5e6  # bytes/s, until something was measured: a 100 Mb/s link
ASSUMED_SCAN = 1e9  # bytes/s, until something was measured
SHORTEST = 1e-6  # seconds; a clock may show no time at all
LEVER = 1.25  # two intervals that differ by less say nothing about how the dirty pages grow


class Reason(StrEnum):
    """Why to stop, or why not; the words of `--json`."""

    WITHIN_LIMIT = "within-limit"
    LITTLE_LEFT = "little-left"
    GROWING = "growing"
    NOT_SHRINKING = "not-shrinking"
    MAX_ROUNDS = "max-rounds"
    FIRST_ROUND = "first-round"
    SHRINKING = "shrinking"
    THROTTLED = "throttled"


GO_ON = frozenset({Reason.FIRST_ROUND, Reason.SHRINKING, Reason.THROTTLED})

SENTENCES = {
    Reason.WITHIN_LIMIT: "the predicted downtime is within --max-downtime",
    Reason.LITTLE_LEFT: "what is left hardly adds to the fixed costs of the downtime",
    Reason.GROWING: "the last round was more than 10 % larger than the one before",
    Reason.NOT_SHRINKING: "the rounds no longer shrink",
    Reason.MAX_ROUNDS: "--max-rounds is reached",
    Reason.FIRST_ROUND: "how fast memory changes is not known before the second round",
    Reason.SHRINKING: "the rounds still shrink",
    Reason.THROTTLED: "the rounds do not shrink: the container gets less CPU",
}


@dataclass(frozen=True)
class Round:
    """One round of pre-copy. Amounts in pages, `sent` in bytes on the wire.

    `started`: seconds since the migration began. `dirty` pages are those that differ from what the
    destination had; each of them is one of `zero`, `duplicate`, `cached` and `literal`.
    """

    number: int
    started: float
    seconds: float
    scanned: int
    dirty: int
    zero: int = 0
    duplicate: int = 0
    cached: int = 0
    literal: int = 0
    sent: int = 0


@dataclass(frozen=True)
class Costs:
    """What the frozen part costs however little is left, in seconds, as far as it is known.

    `dump`: of the skeleton, which goes on beside our own scan. `scan_all`: the final scan reads all
    memory (`MemoryScan`), not only the dirty pages (`CriuPreDump`). `scan_rate`: bytes/s of the
    final scan when something is known of it; what the rounds have shown counts when it is more, as
    they also wait for the link. `memory`: bytes, only asked for before the first round.
    """

    freeze: float
    dump: float
    restore: float
    scan_all: bool
    scan_rate: float = 0.0
    memory: int = 0


@dataclass(frozen=True)
class Limits:
    max_downtime: float = MAX_DOWNTIME
    max_rounds: int = MAX_ROUNDS


@dataclass(frozen=True)
class Decision:
    """`predicted`: seconds of downtime if the container were frozen now."""

    stop: bool
    reason: Reason
    predicted: float

    @property
    def sentence(self) -> str:
        return SENTENCES[self.reason]


def decide(history: Sequence[Round], costs: Costs, limits: Limits) -> Decision:
    """Whether to freeze now, after these rounds."""
    predicted = predict(history, costs)
    reason = _reason(history, costs, limits, predicted)
    return Decision(reason not in GO_ON, reason, predicted)


def _reason(history: Sequence[Round], costs: Costs, limits: Limits, predicted: float) -> Reason:
    if history and predicted <= limits.max_downtime:
        return Reason.WITHIN_LIMIT
    if history and little_left(history, costs):
        return Reason.LITTLE_LEFT
    if len(history) >= limits.max_rounds:
        return Reason.MAX_ROUNDS
    if len(history) < 2:
        return Reason.FIRST_ROUND
    # Not against the first round: that one sends everything.
    if len(history) > 2 and history[-1].dirty > GROWTH * history[-2].dirty:
        return Reason.GROWING
    if len(history) > PATIENCE and not _gained(history, costs):
        return Reason.NOT_SHRINKING
    return Reason.SHRINKING


def little_left(history: Sequence[Round], costs: Costs) -> bool:
    """Whether another round is not worth it: few pages, or next to nothing beside the rest.

    This does not ask for --max-downtime: when the fixed costs alone are more, no number of rounds
    reaches it, and going on would only cost time.
    """
    pages = expected_dirty(history, costs)
    least = downtime(history, costs, 0)
    return pages <= FEW_PAGES or downtime(history, costs, pages) - least <= LITTLE * least


def _gained(history: Sequence[Round], costs: Costs) -> bool:
    """Whether the last rounds (PATIENCE) have made what rounds can shorten 10 % less than ever."""

    def rest(count: int) -> float:
        # With what is known now of link and scan: only the pages may differ.
        pages = expected_dirty(history[:count], costs)
        return downtime(history, costs, pages) - downtime(history, costs, 0)

    first_late = len(history) - PATIENCE + 1
    before = min(rest(count) for count in range(1, first_late))
    return min(rest(count) for count in range(first_late, len(history) + 1)) < GAIN * before


# -- prediction -----------------------------------------------------------------------------------


def predict(history: Sequence[Round], costs: Costs) -> float:
    """Seconds of downtime if the container were frozen now. Never less than the fixed costs."""
    return downtime(history, costs, expected_dirty(history, costs))


def downtime(history: Sequence[Round], costs: Costs, pages: float) -> float:
    """Seconds of downtime when so many pages are dirty at the freeze.

    The skeleton dump and the scan of memory go on side by side. The bytes are counted on top of
    them, although most of them travel meanwhile: better to promise too little.
    """
    read = (memory_pages(history, costs) if costs.scan_all else pages) * PAGE
    scan = read / scan_rate(history, costs)
    transfer = pages * bytes_per_page(history) / bandwidth(history, costs)
    return costs.freeze + max(costs.dump, scan) + transfer + costs.restore


def expected_dirty(history: Sequence[Round], costs: Costs) -> float:
    """The pages that have become dirty since the last round began.

    The dirty rate times these seconds is right for pages that are written once, and far too little
    for a working set that is written again and again: of that, half the time dirties not half of
    the pages but all. So the pages grow as a power of the time, from 0 (a working set) to 1 (a
    rate), as the rounds have shown; as long as they have shown nothing, nothing good is assumed.
    """
    if len(history) < 2:
        return memory_pages(history, costs)
    last = history[-1]
    ratio = last.seconds / _interval(history, -1)
    power = 1.0 if ratio > 1 else _power(history)
    return min(last.dirty * math.pow(ratio, power), memory_pages(history, costs))


def _power(history: Sequence[Round]) -> float:
    """How the dirty pages grow with the time, between the last round and the latest one before it
    that had clearly more time: below both, they do not grow slower than between them."""
    time, dirty = _interval(history, -1), history[-1].dirty
    for at in range(len(history) - 2, 0, -1):
        lever = _interval(history, at) / time
        if lever >= LEVER:
            growth = max(history[at].dirty, 1) / max(dirty, 1)
            return min(max(math.log(growth) / math.log(lever), 0.0), 1.0)
    return 0.0


def _interval(history: Sequence[Round], at: int) -> float:
    """Seconds from the begin of the round before to that of this one: what its pages were dirtied
    in."""
    at %= len(history)
    return max(history[at].started - history[at - 1].started, SHORTEST)


def dirty_rate(history: Sequence[Round]) -> float | None:
    """Bytes/s that the last round found dirtied; None for the first, which finds everything."""
    if len(history) < 2:
        return None
    return history[-1].dirty * PAGE / _interval(history, -1)


def memory_pages(history: Sequence[Round], costs: Costs) -> float:
    """All pages that there are; the last round has counted them."""
    if not history:
        return costs.memory / PAGE
    return max(history[-1].scanned, history[-1].dirty)


def bytes_per_page(history: Sequence[Round]) -> float:
    """Bytes on the wire for a dirty page: zero pages and references cost next to nothing, what is
    compressible less than a page. Of the last rounds: what is written is not like what was there.
    """
    for rounds in (history[1:][-PATIENCE:], history[:1]):
        dirty = sum(one.dirty for one in rounds)
        if dirty:
            return sum(one.sent for one in rounds) / dirty
    return float(PAGE)


def scan_rate(history: Sequence[Round], costs: Costs) -> float:
    """Bytes/s at which memory is read, at least: the fastest round, which has also sent."""
    shown = [_read(one, costs) / max(one.seconds, SHORTEST) for one in history]
    return max([costs.scan_rate, *shown]) or ASSUMED_SCAN


def _read(one: Round, costs: Costs) -> int:
    return (one.scanned if costs.scan_all else one.dirty) * PAGE


def bandwidth(history: Sequence[Round], costs: Costs) -> float:
    """Bytes/s of the link, as the rounds have shown.

    Most rounds do not wait for the link but for the scan: what they sent in their time is only the
    least that it can do (QEMU, which takes it for all, at times never finds an end). The newest
    round that did wait for it counts, and newer ones when they were faster still.
    """
    best = 0.0
    for one in reversed(history):
        if one.sent >= MEANINGFUL:
            best = max(best, one.sent / max(one.seconds, SHORTEST))
            if _waited(one, history, costs):
                return best
    if best:
        return best
    # Little to send, and yet it took long: a slow link.
    slow = [one for one in history if one.seconds >= LONG and _waited(one, history, costs)]
    return min([ASSUMED_BANDWIDTH, *(max(one.sent, 1) / one.seconds for one in slow)])


def _waited(one: Round, history: Sequence[Round], costs: Costs) -> bool:
    """Whether that round took so much longer than its scan that it has waited for the link."""
    return one.seconds >= LINK_BOUND * _read(one, costs) / scan_rate(history, costs)


# -- the report -----------------------------------------------------------------------------------


def shown(history: Sequence[Round], predicted: Sequence[float]) -> list[dict[str, Any]]:
    """The rounds as `--json` gives them; `predicted`: of the decision after each of them."""
    return [
        asdict(one) | {"dirty_rate": dirty_rate(history[:number]), "predicted": seconds}
        for number, (one, seconds) in enumerate(zip(history, predicted, strict=True), 1)
    ]


def compared(predicted: float, measured: float) -> str:
    """How good the prediction was: `predicted 310 ms, measured 341 ms (10 % more)`."""
    text = f"predicted {predicted * 1000:.0f} ms, measured {measured * 1000:.0f} ms"
    if predicted < 0.001:
        return text
    off = round((measured / predicted - 1) * 100)
    return text + (f" ({abs(off)} % {'more' if off > 0 else 'less'})" if off else " (as predicted)")
