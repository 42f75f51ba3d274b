"""A player of Quake 3 in pure Python, who notices everything that happens to the connection.

    python3 examples/quake/q3.py play 10.0.0.2:27960 --seconds 10 --json
    python3 examples/quake/q3.py status 10.0.0.2:27960
    python3 examples/quake/q3.py rcon 10.0.0.2:27960 PASSWORD COMMAND...

To the server this is a human player: it connects, takes the gamestate, runs about, fires, and
acknowledges snapshots 20 times a second. It is written from reading ioquake3 (code/client,
code/server, code/qcommon); no line is copied. Of a snapshot it reads the beginning only (time, own
position), and it asks for snapshots that do not build upon others, since it does not keep any.

The same game, unharmed, means: one gamestate, no lost sequence number, no reconnect, and server
times that go on where they were. A new server process would send a second gamestate, if anything.
The player should have a private (RFC 1918) address: others are held up by a search for id
Software's authorize server.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path

if not __package__:  # called by its path: the folder above `examples` is not searched then
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.quake.q3oob import Address, NoAnswer, Status, StatusPlayer, getstatus, rcon
from examples.quake.q3player import ConnectFailed, Player, PlayerStats

__all__ = [
    "ConnectFailed",
    "NoAnswer",
    "Player",
    "PlayerStats",
    "Status",
    "StatusPlayer",
    "getstatus",
    "rcon",
]


def _play(server: Address, args: argparse.Namespace) -> int:
    player = Player(
        server, args.name, gap_ms=args.gap_ms, reconnect_after=args.reconnect_after or None
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: player.end())
    try:
        player.connect(args.connect_timeout)
    except ConnectFailed as failure:
        print(f"not connected: {failure}", file=sys.stderr)
        return 1
    # For whoever waits for the player to be in the game before doing something to it.
    print("playing", file=sys.stderr, flush=True)
    player.run_for(args.seconds)
    figures = asdict(player.stop())
    if args.timeline:
        figures["timeline"] = player.timeline
    if args.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:24} {value}")
    return 0 if figures["dropped_reason"] is None else 2


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return host, int(port)


def main() -> int:
    parser = argparse.ArgumentParser(description="A Quake 3 player without a screen.")
    commands = parser.add_subparsers(dest="command", required=True)
    play = commands.add_parser("play", help="play, then print what happened (SIGTERM: at once)")
    play.add_argument("server", type=_address, metavar="HOST:PORT")
    play.add_argument("--seconds", type=float, default=10.0)
    play.add_argument("--name", default="migrant")
    play.add_argument("--connect-timeout", type=float, default=10.0, metavar="SECONDS")
    play.add_argument(
        "--reconnect-after",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="of silence; 0: never",
    )
    play.add_argument("--gap-ms", type=float, default=150.0, help="list longer silences")
    play.add_argument("--json", action="store_true")
    play.add_argument("--timeline", action="store_true", help="with every snapshot's time")
    status = commands.add_parser("status", help="print settings and players as JSON")
    status.add_argument("server", type=_address, metavar="HOST:PORT")
    console = commands.add_parser("rcon", help="run a command on the server's console")
    console.add_argument("server", type=_address, metavar="HOST:PORT")
    console.add_argument("password")
    console.add_argument("words", nargs="+", metavar="COMMAND")
    args = parser.parse_args()
    try:
        if args.command == "status":
            print(json.dumps(asdict(getstatus(args.server))))
        elif args.command == "rcon":
            print(rcon(args.server, args.password, " ".join(args.words)), end="")
        else:
            return _play(args.server, args)
    except NoAnswer as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
