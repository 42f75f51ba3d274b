"""`./demo --times N`: one player through many migrations, there and back again, and its gaps."""

from __future__ import annotations

import json
import time
from pathlib import Path

from examples.quake.gaps import Gap, Move, lines, longest, report
from tests.e2e.quake_world import QuakeWorld, differences

SETTLED = 2.0  # seconds of play before, between and after the moves
A_MOVE = 60  # seconds that a move may take on a very busy machine
SHOWN = 10  # reasons that are printed; all are in the file


def run(world: QuakeWorld, times: int, out: Path) -> bool:
    """`times` moves between hosts a and b; gives whether it was one game throughout.

    Prints a line for each and the sums, and writes all of it as JSON to `out`.
    """
    player = world.player("--seconds", str(times * A_MOVE + 60))
    before = world.status()
    time.sleep(SETTLED)
    hosts = (world.a, world.b)
    moves: list[Move] = []
    for number in range(times):
        source, to = hosts[number % 2], hosts[1 - number % 2]
        moves.append(world.timed_move(source, to))
        said = moves[-1].summary
        print(
            f"  {number + 1:3}  {said.source} -> {said.destination}  stood still "
            f"{said.downtime * 1000:.0f} ms of {said.total:.1f} s",
            flush=True,
        )
        time.sleep(SETTLED)
    after = world.status()
    seen = player.stop()
    wrong = differences(before, after, seen, times)
    if seen.dropped_reason is not None:  # nobody listened then, and there are no figures
        print("\n".join(f"  NO: {line}" for line in wrong[:SHOWN]))
        return False
    arrivals = [at for at, _, _ in seen.timeline]
    gaps: list[Gap] = [longest(arrivals, move.begin, move.end) for move in moves]
    made = report(moves, gaps)
    made["player"] = {
        "gamestates": seen.gamestates,
        "snapshots": seen.snapshots,
        "lost": seen.lost_sequences,
        "reconnects": seen.reconnects,
    }
    made["wrong"] = wrong
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(made, indent=2) + "\n")
    print(f"{times} migrations, one player:")
    print("\n".join(lines(made)))
    print(
        f"  the player got {seen.gamestates} gamestate and {seen.snapshots} snapshots, "
        f"{seen.lost_sequences} lost; reconnected {seen.reconnects} times"
    )
    for line in wrong[:SHOWN]:
        print(f"  NO: {line}")
    print(f"All figures: {out}")
    return not wrong
