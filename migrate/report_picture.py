"""The picture of a migration: rounds, phases, the frozen window to scale, a short table."""

from __future__ import annotations

import math
from collections.abc import Sequence

from migrate.picture import (
    LABEL,
    ROW,
    THIN,
    WIDER_IN_BOLD,
    Picture,
    Piece,
    amount,
    clean,
    duration,
    fit,
    page,
    text_width,
)
from migrate.report import Figures, RoundFigures
from migrate.switchover import SENTENCES, Reason, compared

WIDTH = 960
LEFT, RIGHT = 32.0, WIDTH - 32.0
AXIS = 72.0  # room for the figures beside the bars
CHART, STRIP = 220.0, 28.0
KINDS = ("literal", "cached", "duplicate", "zero")  # from the bottom up
PARTS = 5  # colours of the frozen window's parts
SHORTEST = 1e-6  # seconds; what is less is nothing
SHOWN = 20  # rounds in the table; of more, the first and the last


def draw(figures: Figures) -> str:
    """The figures as an SVG picture."""
    picture = Picture(WIDTH, title(figures))
    y = _head(picture, figures)
    if figures.rounds:
        y = _rounds(picture, figures, y + 34)
    frozen_at = None
    if figures.phases:
        y, frozen_at = _phases(picture, figures, y + 34)
    if figures.downtime >= SHORTEST:
        y = _frozen(picture, figures, y, frozen_at)
    y = _facts(picture, figures, y + 34)
    if figures.rounds:
        y = _table(picture, figures, y + 24)
    return picture.svg(y + 20)


def draw_page(figures: Figures) -> str:
    """The same as a web page."""
    return page(draw(figures), title(figures))


def title(figures: Figures) -> str:
    return f"{figures.container}: {figures.source} → {figures.destination}"


def _heading(picture: Picture, y: float, text: str) -> None:
    picture.text(LEFT, y, text, size=14, bold=True)


def _head(picture: Picture, figures: Figures) -> float:
    picture.text(
        LEFT, 40, fit(title(figures), 21 * WIDER_IN_BOLD, RIGHT - LEFT), size=21, bold=True
    )
    said = f"stood still {duration(figures.downtime)} of {duration(figures.total)}"
    if figures.memory_source:
        said += f" · memory source {figures.memory_source}"
    picture.text(LEFT, 62, fit(said, 13, RIGHT - LEFT), size=13, role="dim")
    return 62


# -- rounds ---------------------------------------------------------------------------------------


def _rounds(picture: Picture, figures: Figures, y: float) -> float:
    """Bars on a logarithmic scale: the first round sends a thousand times as much as the last."""
    rounds, size = figures.rounds, figures.page_size
    _heading(picture, y, f"Pre-copy: {len(rounds)} round{'s' * (len(rounds) != 1)}")
    _legend(picture, y)
    picture.text(
        LEFT, y + 18, "memory found dirty, on a logarithmic scale; the colours are shares of it",
        size=11, role="dim",
    )  # fmt: skip
    low, high = scale([amount for one in rounds for amount in (one.dirty * size, one.sent)])
    bottom = y + 42 + CHART
    left = LEFT + AXIS

    def height(value: float) -> float:
        if value <= low:
            return 2.0 if value > 0 else 0.0
        return max(CHART * math.log(value / low) / math.log(high / low), 2.0)

    step = low
    while step <= high:
        at = bottom - CHART * math.log(step / low) / math.log(high / low)
        picture.line(left, at, RIGHT, at)
        picture.text(
            left - 8, at + (4 if step > low else 0), amount(step), size=11, role="dim", anchor="end"
        )
        step *= 16
    slot = (RIGHT - left) / len(rounds)
    width = min(slot * 0.72, 64.0)
    numbers = [str(one.number or at) for at, one in enumerate(rounds, 1)]
    every = max(math.ceil(max(text_width(text + " ", 11) for text in numbers) / slot), 1)
    figured = slot >= text_width("99.9 MiB ", 11)
    for at, one in enumerate(rounds):
        centre = left + (at + 0.5) * slot
        top = _bar(
            picture, one, size, (centre - width / 2, bottom, width, height(one.dirty * size))
        )
        sent = bottom - height(one.sent)
        picture.line(centre - width / 2 - 3, sent, centre + width / 2 + 3, sent, "bg", 5)
        picture.line(centre - width / 2 - 3, sent, centre + width / 2 + 3, sent, "ink", 2)
        if figured:
            picture.text(
                centre, min(top, sent) - 7, amount(one.dirty * size), size=11, anchor="middle"
            )
            picture.text(
                centre, bottom + 30, duration(one.seconds), size=11, role="dim", anchor="middle"
            )
        if at % every == 0:
            picture.text(centre, bottom + 15, numbers[at], size=11, anchor="middle")
    picture.line(left, bottom, RIGHT, bottom, "dim")
    picture.text(left - 8, bottom + 15, "round", size=11, role="dim", anchor="end")
    return bottom + (30 if figured else 15)


def _bar(
    picture: Picture, one: RoundFigures, size: int, box: tuple[float, float, float, float]
) -> float:
    """One round's bar, whose parts are the shares of the kinds of pages; gives its upper end."""
    x, bottom, width, height = box
    counts = [getattr(one, kind) for kind in KINDS]
    # A report that does not say what became of the pages: all of one kind.
    total = sum(counts) or 1
    if not any(counts):
        counts = [1, 0, 0, 0]
    y = bottom
    for kind, count in zip(KINDS, counts, strict=True):
        part = height * count / total
        if part > 0:
            y -= part
            tip = f"{kind}: {count} pages, {amount(count * size)}"
            picture.rect(x, y, width, part, kind, tip if sum(counts) > 1 else "")
    return bottom - height


def _legend(picture: Picture, y: float) -> None:
    x = RIGHT
    for name in ("sent", *KINDS):
        x -= text_width(name, LABEL)
        picture.text(x, y, name)
        x -= 20
        if name == "sent":
            picture.line(x, y - 4, x + 14, y - 4, "ink", 2)
        else:
            picture.rect(x, y - 10, 12, 12, name)
        x -= 14


def scale(values: Sequence[int]) -> tuple[float, float]:
    """The ends of a logarithmic scale that holds the values, in steps of 16 from 4 KiB."""
    some = [value for value in values if value > 0] or [1]
    low = high = 4096.0
    while low > min(some) and low > 1:
        low /= 16
    while low * 16 < min(some):
        low *= 16
    high = low * 16
    while high < max(some):
        high *= 16
    return low, high


# -- phases ---------------------------------------------------------------------------------------


def _pieces(times: dict[str, float], per_second: float) -> list[Piece]:
    """One after the other, to scale, and no further than the right edge."""
    pieces: list[Piece] = []
    end = LEFT
    for at, (name, seconds) in enumerate(times.items()):
        begin, end = end, min(end + seconds * per_second, RIGHT)
        role = "frozen" if name == "freeze" and "restore" not in times else f"part{at % PARTS}"
        pieces.append((begin, end - begin, clean(name), role, f"{name} {duration(seconds)}"))
    return pieces


def _span(figures: Figures) -> float:
    """Seconds from the begin to the last thing that is drawn."""
    ends = [figures.total, sum(figures.phases.values())]
    ends += [one.started + one.seconds for one in figures.rounds]
    if figures.lazy:
        ends.append(_freeze_end(figures) + figures.lazy.seconds)
    return max([*ends, SHORTEST])


def _freeze_end(figures: Figures) -> float:
    """When the phase `freeze` ended; from then on it runs at the destination."""
    at = 0.0
    for name, seconds in figures.phases.items():
        at += seconds
        if name == "freeze":
            break
    return at


def _phases(
    picture: Picture, figures: Figures, y: float
) -> tuple[float, tuple[float, float] | None]:
    """A strip of the phases to scale, over it a thin one of the rounds. Gives its lower edge, and
    from where to where on it the container stood still."""
    per_second = (RIGHT - LEFT) / _span(figures)
    pieces = _pieces(figures.phases, per_second)
    _heading(picture, y, f"The whole migration: {duration(figures.total)}")
    y = picture.legend(y + 22, pieces, LEFT, RIGHT) + 12
    for at, one in enumerate(figures.rounds):
        tip = f"round {one.number or at + 1}: {duration(one.seconds)}"
        role = ("literal", "cached")[at % 2]
        x = LEFT + one.started * per_second
        picture.rect(x, y, max(one.seconds * per_second, 0.75), THIN, role, tip)
    freeze_end = LEFT + _freeze_end(figures) * per_second
    if figures.lazy:
        tip = f"memory filled in behind it: {duration(figures.lazy.seconds)}"
        seconds = figures.lazy.seconds
        picture.rect(freeze_end, y, max(seconds * per_second, 0.75), THIN, "duplicate", tip)
    if figures.rounds or figures.lazy:
        y += THIN + 3
    picture.strip(y, STRIP, pieces)
    if "freeze" not in figures.phases:
        return y + STRIP, None
    window = min(figures.downtime, figures.phases["freeze"]) * per_second
    return y + STRIP, (freeze_end - window, freeze_end)


# -- the frozen window ----------------------------------------------------------------------------


def _frozen(
    picture: Picture, figures: Figures, y: float, above: tuple[float, float] | None
) -> float:
    """Its parts on a scale of their own, and how long it was predicted to be. `above`: where it is
    on the strip of the phases, whose lower edge is `y`."""
    switchover = figures.switchover
    predicted = switchover.predicted if switchover else None
    # A prediction that was far too high must not make the rest too small to see.
    window = max(figures.downtime, min(predicted or 0.0, 3 * figures.downtime))
    per_second = (RIGHT - LEFT) / window
    said = duration(figures.downtime)
    if switchover and predicted is not None:
        measured = switchover.measured
        said = compared(predicted, figures.downtime if measured is None else measured)
    share = figures.downtime / max(figures.total, figures.downtime)
    note = f"{share:.1%} of the migration, to scale"
    top = y + 74
    if above:
        end = LEFT + figures.downtime * per_second
        picture.area([(above[0], y), (above[1], y), (end, top), (LEFT, top)], "frozen", 0.16)
    _heading(picture, y + 34, f"The frozen window: {said}")
    if predicted is not None:
        note += "; the line below it is the prediction"
        note += ", cut off" if predicted > window else ""
    picture.text(LEFT, y + 52, note, size=11, role="dim")
    pieces = _pieces(figures.parts or {"frozen": figures.downtime}, per_second)
    picture.strip(top, STRIP, pieces)
    y = top + STRIP + 3
    if predicted is not None:
        picture.rect(LEFT, y, min(predicted * per_second, RIGHT - LEFT), THIN, "dim", said)
        y += THIN
    return picture.legend(y + 20, pieces, LEFT, RIGHT)


# -- in words -------------------------------------------------------------------------------------


def _facts(picture: Picture, figures: Figures, y: float) -> float:
    """What the bars do not say, one a line."""
    facts = {"moved": f"{amount(figures.raw)}, {amount(figures.sent)} sent"}
    if figures.raw:
        facts["moved"] += f" ({figures.sent / figures.raw:.0%})"
    facts["moved"] += ", with the image" if figures.image_sent else ""
    if figures.memory:
        facts["checkpoint"] = amount(figures.memory)
    if figures.switchover and figures.switchover.reason:
        reason = figures.switchover.reason
        known = reason in set(Reason)
        facts["frozen then, because"] = SENTENCES[Reason(reason)] if known else reason
    if figures.lazy:
        facts["filled in behind it"] = (
            f"{amount(figures.lazy.pages * figures.page_size)} in {duration(figures.lazy.seconds)}"
        )
    for at, (name, value) in enumerate(facts.items()):
        picture.text(LEFT, y + at * ROW, name, role="dim")
        picture.text(LEFT + 160, y + at * ROW, fit(value, LABEL, RIGHT - LEFT - 160))
    return y + (len(facts) - 1) * ROW


COLUMNS = (
    "round", "started", "took", "scanned", "dirty", "zero", "duplicate", "cached", "literal",
    "sent", "sent/s", "dirty/s", "predicted",
)  # fmt: skip


def _table(picture: Picture, figures: Figures, y: float) -> float:
    rounds = list(enumerate(figures.rounds, 1))
    left_out = len(rounds) - SHOWN
    width = (RIGHT - LEFT) / len(COLUMNS)

    def line(y: float, cells: Sequence[str], role: str) -> None:
        for at, cell in enumerate(cells, 1):
            short = fit(cell, 11, width - 4)
            picture.text(LEFT + at * width, y, short, size=11, role=role, anchor="end")

    line(y, COLUMNS, "dim")
    picture.line(LEFT, y + 6, RIGHT, y + 6)
    y += 6
    for at, (number, one) in enumerate(rounds):
        if left_out > 0 and SHOWN // 2 <= at < SHOWN // 2 + left_out:
            if at == SHOWN // 2:
                y += ROW
                picture.text(LEFT + width, y, f"{left_out} more", size=11, role="dim")
            continue
        y += ROW
        line(y, _cells(one, number, figures.page_size), "ink")
    return y


def _cells(one: RoundFigures, number: int, size: int) -> list[str]:
    kinds = (one.scanned, one.dirty, one.zero, one.duplicate, one.cached, one.literal)
    return [
        str(one.number or number), duration(one.started), duration(one.seconds),
        *(amount(pages * size) for pages in kinds), amount(one.sent),
        amount(one.sent / one.seconds) if one.seconds >= SHORTEST else "–",
        "–" if one.dirty_rate is None else amount(one.dirty_rate),
        "–" if one.predicted is None else duration(one.predicted),
    ]  # fmt: skip
