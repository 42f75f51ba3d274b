"""Downtime of a small container, and its ratio to bare CRIU in the same run.

`python3 -m tests.bench.downtime [--pair docker28] [--rounds 10] [--json FILE]`: needs root and the
lab. Moves and bare CRIU alternate, so that both meet the same noise; medians of all rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from tests.e2e.world import PAIRS, World
from tests.e2e.world import world as make_world

COUNTER = ["sh", "/workloads/counter.sh"]


def bare(world: World) -> dict[str, float]:
    """One `criu dump` + `criu restore` on host a."""
    text = world.a.run(["python3", "/root/bare_criu.py", "app", "1"], timeout=120).stdout
    found: dict[str, float] = json.loads(text.splitlines()[-1])
    return found


def measure(pair: str, rounds: int) -> dict[str, Any]:
    moves: list[dict[str, Any]] = []
    bares: list[dict[str, float]] = []
    with make_world("bench", pair) as world:
        world.a.write("/root/bare_criu.py", Path(__file__).with_name("bare_criu.py").read_text())
        world.start(world.a, "app", COUNTER)
        world.wait_for_output(world.a, "app")
        world.migrate(world.a, "app", world.b)  # the image goes, and caches are filled
        world.migrate(world.b, "app", world.a)
        for _ in range(rounds):
            bares.append(bare(world))
            moves.append(world.migrate(world.a, "app", world.b))
            world.migrate(world.b, "app", world.a)
    return {"pair": pair, "moves": moves, "bare": bares}


def report(result: dict[str, Any]) -> str:
    moves, bares = result["moves"], result["bare"]
    ours = statistics.median(move["downtime"] for move in moves)
    criu = statistics.median(one["dump"] + one["restore"] for one in bares)
    lines = [
        f"pair {result['pair']}, {len(moves)} rounds, medians",
        f"  bare CRIU   {criu * 1000:6.0f} ms = dump "
        f"{statistics.median(one['dump'] for one in bares) * 1000:.0f} + restore "
        f"{statistics.median(one['restore'] for one in bares) * 1000:.0f}",
        f"  downtime    {ours * 1000:6.0f} ms = {ours / criu:.2f} x bare CRIU",
    ]
    for part in moves[0]["parts"]:
        value = statistics.median(move["parts"][part] for move in moves)
        lines.append(f"    {part:<10} {value * 1000:6.0f} ms")
    for detail in moves[0]["details"]:
        value = statistics.median(move["details"][detail] for move in moves)
        lines.append(f"      restore: {detail:<12} at {value * 1000:4.0f} ms")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pair", choices=sorted(PAIRS), default="docker28")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    result = measure(given.pair, given.rounds)
    if given.json:
        given.json.write_text(json.dumps(result))
    print(report(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
