"""What the demo leaves behind: the story as a picture, the screenshots, the figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from examples.quake.gaps import Gap, Move, longest
from examples.quake.real_client import Frame
from examples.quake.screen import png
from examples.quake.story import Shot, Story, tell
from examples.quake.witness import choose
from tests.e2e.quake_world import Figures

OUT = Path(__file__).resolve().parents[2] / "out" / "demo"
"""Ignored by git."""
NAMES = ("1-before", "2-during", "3-after")


def shots_of(frames: Sequence[Frame], gap: Gap) -> list[Shot]:
    """The three screenshots of a move; none when nobody looked."""
    if not frames:
        return []
    chosen = choose(list(frames), gap)
    return [
        Shot(frame.at, png(frame.dump)) for frame in (chosen.before, chosen.during, chosen.after)
    ]


def leave(out: Path, move: Move, seen: Figures, frames: Sequence[Frame], proof: str) -> Path:
    """Write the story of a move into the folder `out`; gives the picture's path."""
    arrivals = [at for at, _, _ in seen.timeline]
    gap = longest(arrivals, move.begin, move.end)
    shots = shots_of(frames, gap)
    out.mkdir(parents=True, exist_ok=True)
    for name, shot in zip(NAMES, shots, strict=False):
        (out / f"{name}.png").write_bytes(shot.data)
    (out / "move.json").write_bytes(msgspec.json.format(msgspec.json.encode(move.summary)))
    picture = out / "story.svg"
    picture.write_text(tell(Story(move.summary, gap, arrivals, shots, proof)))
    return picture
