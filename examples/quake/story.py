"""The picture that tells what happened: what the player saw, what came, what the tool did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from examples.quake.gaps import Gap
from migrate.picture import LABEL, Picture, Piece, duration, fit
from migrate.summary import Summary

WIDTH = 960
LEFT, RIGHT = 32.0, WIDTH - 32.0
BETWEEN = 12.0  # pixels between two screenshots
STRIP = 26.0
DOT = 2.6
AROUND = 0.8  # seconds that are shown before and after the migration
CLOSE = 0.2  # and before and after the gap
ROLES = ("part0", "part1", "part2", "part3", "part4")


@dataclass(frozen=True)
class Shot:
    """A screenshot as a picture file, and when it was taken (time.monotonic())."""

    at: float
    data: bytes
    media: str = "image/png"


@dataclass(frozen=True)
class Story:
    """One move. `arrivals`: of snapshots, times of time.monotonic(); `shots`: before, during and
    after the gap, none if nobody looked; `proof`: a line that says why it is the same game."""

    summary: Summary
    gap: Gap
    arrivals: Sequence[float]
    shots: Sequence[Shot]
    proof: str
    ratio: float = 0.75  # height of a screenshot to its width


class Axis:
    """Seconds to pixels."""

    def __init__(self, begin: float, end: float) -> None:
        self.begin, self.end = begin, end
        self._scale = (RIGHT - LEFT) / (end - begin)

    def x(self, at: float) -> float:
        return LEFT + (min(max(at, self.begin), self.end) - self.begin) * self._scale


def tell(story: Story) -> str:
    """The story as an SVG picture, which refers to nothing outside of it."""
    summary = story.summary
    title = f"A game of OpenArena moves from host {summary.source} to host {summary.destination}"
    picture = Picture(WIDTH, title)
    picture.text(LEFT, 40, title, size=21, bold=True)
    said = f"while somebody plays it. The player heard nothing for {story.gap.ms:.0f} ms."
    picture.text(LEFT, 62, f"{said} {story.proof}", size=13, role="dim")
    y = 78.0
    if story.shots:
        y = _shots(picture, story, y)
    begun = phases_begin(summary, story.gap)
    whole = Axis(begun - AROUND, begun + sum(summary.phases.values()) + AROUND)
    y = _whole(picture, story, whole, y + 30)
    y = _close(picture, story, whole, y)
    return picture.svg(y + 20)


def phases_begin(summary: Summary, gap: Gap) -> float:
    """When the tool began, by the player's clock: the phase `freeze` ends with the silence."""
    before = 0.0
    for name, seconds in summary.phases.items():
        before += seconds
        if name == "freeze":
            break
    return gap.end - before


def _shots(picture: Picture, story: Story, y: float) -> float:
    """The screenshots side by side; gives the lower edge of their captions."""
    gap = story.gap
    width = (RIGHT - LEFT - BETWEEN * (len(story.shots) - 1)) / len(story.shots)
    height = width * story.ratio
    for at, shot in enumerate(story.shots):
        x = LEFT + at * (width + BETWEEN)
        picture.image(x, y, width, height, shot.data, shot.media)
        picture.text(x, y + height + 17, f"{at + 1}: {when(shot.at, gap)}", bold=True)
    return y + height + 17


def when(at: float, gap: Gap) -> str:
    """A moment in words, as seen from the gap."""
    if at < gap.begin:
        return f"{duration(gap.begin - at)} before the gap"
    if at <= gap.end:
        return f"{duration(at - gap.begin)} without a snapshot"
    return f"{duration(at - gap.end)} after the gap, from the new host"


def _dots(picture: Picture, story: Story, axis: Axis, y: float) -> None:
    for at in story.arrivals:
        if axis.begin <= at <= axis.end:
            picture.dot(axis.x(at), y, DOT, "literal")


def _marks(picture: Picture, story: Story, axis: Axis, y: float) -> None:
    """Where the screenshots are on an axis."""
    for number, shot in enumerate(story.shots, 1):
        if axis.begin <= shot.at <= axis.end:
            picture.text(axis.x(shot.at), y, str(number), size=11, anchor="middle", bold=True)
            picture.line(axis.x(shot.at), y + 3, axis.x(shot.at), y + 11, "ink")


def _pieces(times: dict[str, float], begin: float, axis: Axis) -> list[Piece]:
    pieces: list[Piece] = []
    for at, (name, seconds) in enumerate(times.items()):
        x, end = axis.x(begin), axis.x(begin + seconds)
        role = "frozen" if name == "freeze" and "restore" not in times else ROLES[at % len(ROLES)]
        pieces.append((x, end - x, name, role, f"{name} {duration(seconds)}"))
        begin += seconds
    return pieces


def _whole(picture: Picture, story: Story, axis: Axis, y: float) -> float:
    """Everything from before the migration to after it; gives the lower edge of the strip."""
    gap, summary = story.gap, story.summary
    heading = f"The whole migration: {duration(summary.total)}. Each dot is a snapshot that came"
    picture.text(LEFT, y, heading, size=14, bold=True)
    _marks(picture, story, axis, y + 20)
    y += 34
    picture.area([(axis.x(gap.begin), y), (axis.x(gap.end), y), (axis.x(gap.end), y + 20),
                  (axis.x(gap.begin), y + 20)], "frozen", 0.16)  # fmt: skip
    _dots(picture, story, axis, y + 10)
    y += 22
    pieces = _pieces(summary.phases, phases_begin(summary, gap), axis)
    picture.strip(y, STRIP, pieces)
    return picture.legend(y + STRIP + 18, pieces, LEFT, RIGHT)


def _close(picture: Picture, story: Story, above: Axis, y: float) -> float:
    """The gap and what it is made of, on a scale of its own; gives the last base line."""
    gap, summary = story.gap, story.summary
    axis = Axis(gap.begin - CLOSE, gap.end + CLOSE)
    picture.area([(above.x(axis.begin), y + 10), (above.x(axis.end), y + 10), (RIGHT, y + 34),
                  (LEFT, y + 34)], "dim", 0.12)  # fmt: skip
    heading = f"The gap, to scale: {gap.ms:.0f} ms; a snapshot every 50 ms is usual"
    picture.text(LEFT, y + 54, heading, size=14, bold=True)
    y += 66
    _marks(picture, story, axis, y + 8)
    y += 22
    begin, end = axis.x(gap.begin), axis.x(gap.end)
    picture.area([(begin, y), (end, y), (end, y + 20), (begin, y + 20)], "frozen", 0.16)
    _dots(picture, story, axis, y + 10)
    words = fit(f"nothing for {gap.ms:.0f} ms", LABEL, end - begin - 4 * DOT)
    picture.text((begin + end) / 2, y + 14, words, anchor="middle")
    y += 22
    pieces = _pieces(summary.parts, gap.end - summary.downtime, axis)
    picture.strip(y, STRIP, pieces)
    y = picture.legend(y + STRIP + 18, pieces, LEFT, RIGHT)
    note = "The tool's times are laid so that the container's standstill ends with the silence."
    picture.text(LEFT, y + 18, note, size=11, role="dim")
    return y + 18
