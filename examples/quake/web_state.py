"""What the page of `./demo --web` shows, and how it follows from what hosts, player and tool say.

Pure: no process, no clock, no network. The page gets all of it as one JSON object at every change.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

PHASES = ("preflight", "image", "prepare", "pre-copy", "freeze", "confirm")
LOG = 40  # lines of a migration that are kept
LONGEST = 300  # characters of one of them


class Host(msgspec.Struct):
    """`up`: answered when it was asked last; `address`: what its people call it."""

    name: str
    address: str
    up: bool = True


class Player(msgspec.Struct):
    """`ping` in ms as the server counts it: 0 for bots, and for who is near."""

    score: int
    ping: int
    name: str


class Seen(msgspec.Struct):
    """A line of examples/quake/q3watch.py: what the player noticed since it joined."""

    gamestates: int = 0
    snapshots: int = 0
    lost: int = 0
    reconnects: int = 0
    dropped: str | None = None
    answered_ms: float | None = None
    gaps: list[float] = []
    map: str | None = None
    players: list[Player] | None = None


class Move(msgspec.Struct):
    """A migration: `running`, or ended with or without an `error`.

    `gap`: the longest silence of the server that the player noticed in it, in ms; None: none that
    was longer than usual. `downtime`: how long it stood still as the tool says, in ms.
    """

    source: str
    to: str
    phase: str = ""
    bytes: int = 0
    total: int | None = None
    log: list[str] = []
    running: bool = True
    error: str | None = None
    gap: float | None = None
    downtime: float | None = None
    seconds: float | None = None
    settled: bool = False
    """The player has been heard of since, so that `gap` is final."""


class State(msgspec.Struct):
    """`where`: the host on which the server is."""

    hosts: list[Host]
    where: str | None = None
    seen: Seen | None = None
    move: Move | None = None
    moves: int = 0
    phases: tuple[str, ...] = PHASES

    def refuse(self, to: str) -> str | None:
        """Why the server cannot be moved to `to` now; None: it can."""
        if to not in [host.name for host in self.hosts]:
            return "there is no such host"
        if self.move and self.move.running:
            return "a migration is running"
        if self.where is None:
            return "the server is nowhere to be seen"
        if to == self.where:
            return "it is there already"
        return None


class Line(msgspec.Struct):
    """A line of `--progress-json`: it has one of these, `total` beside `phase`."""

    phase: str | None = None
    total: int | None = None
    bytes: int | None = None
    note: str | None = None
    warning: str | None = None


class Summary(msgspec.Struct):
    """Of what `migrate --json` prints at the end, the part that is shown."""

    downtime: float | None = None
    total: float | None = None
    message: str | None = None
    remedy: str | None = None


def find(states: Mapping[str, str], before: str | None) -> str | None:
    """On which host the server is, by what Docker calls its container on each that has one.

    Around the commit there are two: the frozen one at the source is the old one. While it is only
    made at the destination, it has not gone there.
    """
    for wanted in ("running", "paused"):
        if found := [host for host, state in states.items() if state == wanted]:
            return before if before in found else found[0]
    return None


def progressed(move: Move, text: str) -> Move:
    """The migration after a line of its standard error, whatever that is."""
    try:
        line = msgspec.json.decode(text, type=Line)
    except (msgspec.DecodeError, UnicodeError):
        return noted(move, text)
    if line.phase is not None:
        return msgspec.structs.replace(move, phase=line.phase, total=line.total, bytes=0)
    if line.bytes is not None:
        return msgspec.structs.replace(move, bytes=line.bytes)
    return noted(move, line.warning or line.note or "")


def noted(move: Move, text: str) -> Move:
    if not text.strip():
        return move
    return msgspec.structs.replace(move, log=[*move.log, text.strip()[:LONGEST]][-LOG:])


def ended(move: Move, code: int, output: str) -> Move:
    """The migration after the tool ended with `code` and printed `output`."""
    try:
        summary = msgspec.json.decode(output, type=Summary)
    except (msgspec.DecodeError, UnicodeError):
        summary = Summary(message=f"migrate ended with {code}")
    error = None
    if code:
        error = ". ".join(filter(None, [summary.message or f"exit code {code}", summary.remedy]))
    downtime = None if summary.downtime is None else summary.downtime * 1000
    return msgspec.structs.replace(
        move, running=False, error=error, downtime=downtime, seconds=summary.total
    )


def longest_gap(before: Seen | None, after: Seen) -> float | None:
    """The longest silence that the player noticed since `before`."""
    return max(after.gaps[len(before.gaps) if before else 0 :], default=None)


def plain(name: str) -> str:
    """A player's name without the game's colours (^1 to ^9, ^a ...) and unprintable characters."""
    return "".join(c for c in re.sub(r"\^[0-9A-Za-z]", "", name) if c.isprintable())


def heard(line: str) -> Seen | None:
    """What the player says; None: it is not that."""
    try:
        seen = msgspec.json.decode(line, type=Seen)
    except (msgspec.DecodeError, UnicodeError):
        return None
    for player in seen.players or []:
        player.name = plain(player.name)
    return seen
