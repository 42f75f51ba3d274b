"""A player who says all the time what he sees, for the page of `./demo --web`.

    python3 examples/quake/q3watch.py 10.0.0.2:27960

Plays until its standard input ends (a signal would not get through nsenter or ssh), and prints a
line of JSON every half second: what the player noticed so far, and the server's own list of
players, as often as the server answers an address.
"""

from __future__ import annotations

import json
import select
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

if not __package__:  # called by its path: the folder above `examples` is not searched then
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.quake.q3oob import Address, NoAnswer, Status, getstatus
from examples.quake.q3player import ConnectFailed, Player, PlayerStats

EVERY = 0.5  # seconds between two lines
ASK_EVERY = 1.5  # the server answers an address once a second in the long run


def line(stats: PlayerStats, status: Status | None, answered: float | None) -> dict[str, Any]:
    """What is printed; `status` and `answered` (within how many seconds) are None while the server
    does not answer. The pings that the server tells are 0 for everybody who is near."""
    return {
        "gamestates": stats.gamestates,
        "snapshots": stats.snapshots,
        "lost": stats.lost_sequences,
        "reconnects": stats.reconnects,
        "dropped": stats.dropped_reason,
        "answered_ms": answered and round(answered * 1000, 1),
        "gaps": [length for _, length in stats.gaps],
        "map": status and status.cvars.get("mapname"),
        "players": status and [asdict(player) for player in status.players],
    }


def watch(server: Address) -> None:
    player = Player(server, "migrant")
    player.start()
    asked = 0.0
    status: Status | None = None
    answered: float | None = None
    while not select.select([sys.stdin], [], [], EVERY)[0]:
        if time.monotonic() - asked >= ASK_EVERY:
            asked = time.monotonic()
            try:
                status = getstatus(server, timeout=EVERY)
                answered = time.monotonic() - asked
            except NoAnswer:
                status = answered = None
        print(json.dumps(line(player.stats, status, answered)), flush=True)
    player.stop()


def main() -> int:
    host, _, port = sys.argv[1].rpartition(":")
    try:
        watch((host, int(port)))
    except ConnectFailed as failure:
        print(f"not connected: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
