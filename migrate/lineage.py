"""Under which ids a container has been known here: each move gives it a new one.

A host notes a move both when the container leaves and when it comes in, so that it still knows who
is meant by an id that is on record elsewhere (migrate/evacuated.py) when the container has been at
a third host meanwhile. Nothing but that depends on it: what cannot be written is done without.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection
from pathlib import Path

from migrate.config_file import replace
from migrate.locked import locked

PLACE = Path("/var/lib/migrate/lineage")
MOST = 4000  # moves that are remembered, at least half of them
_MOVE = re.compile(r"([0-9a-f]{64}) ([0-9a-f]{64})")


def note(old: str, new: str, place: Path = PLACE) -> None:
    """The container with the id `old` goes on as `new`."""
    if not _MOVE.fullmatch(f"{old} {new}"):
        return
    with contextlib.suppress(OSError), locked(place.parent):
        moves = _read(place)
        if moves.get(old) == new:
            return
        if len(moves) < MOST:
            with place.open("a") as file:
                file.write(f"{old} {new}\n")
            return
        kept = [*list(moves.items())[-MOST // 2 :], (old, new)]
        replace(place, "".join(f"{a} {b}\n" for a, b in kept), like=place)


def heir(ident: str, there: Collection[str], place: Path = PLACE) -> str:
    """As what a container goes on that was known as `ident`: one of the ids `there`, or ""."""
    return ident if ident in there else heirs(there, place).get(ident, "")


def heirs(there: Collection[str], place: Path = PLACE) -> dict[str, str]:
    """All former ids of the containers `there`, with those that they have now."""
    before: dict[str, list[str]] = {}
    for old, new in _read(place).items():
        before.setdefault(new, []).append(old)
    found = {ident: ident for ident in there}
    todo = list(found)
    while todo:
        ident = todo.pop()
        for old in before.get(ident, ()):
            if old not in found:
                found[old] = found[ident]
                todo.append(old)
    return {old: new for old, new in found.items() if old != new}


def _read(place: Path) -> dict[str, str]:
    """The latest move of each id, in their order; what is no line of ours is passed over."""
    moves: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in place.read_text(errors="replace").splitlines():
            if move := _MOVE.fullmatch(line):
                moves.pop(move[1], None)
                moves[move[1]] = move[2]
    return moves
