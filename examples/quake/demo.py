"""The main job, shown: a Quake 3 server moves to another host while somebody plays on it.

    ./demo [--back] [--keep] [--no-client]
    ./demo --times N
    ./demo --play
    ./demo --web [ADDRESS:PORT]

Sets up three hosts on this machine (namespaces, see tests/lab): a and b with Docker and `migrate`,
and player, from where a player joins the game by the port published on a, and stays there. Then
`migrate quake b` on host a, and a look at whether it is still the same game. Exit code 0: it is.
The real client looks on from host player, if it can be had (examples/quake/real_client.py).
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

from examples.quake import person, series, told, web
from examples.quake.gaps import Move
from examples.quake.q3oob import Status
from examples.quake.real_client import FLAVOUR, ClientFailed
from examples.quake.witness import Witness, obtain
from migrate.run import Result
from tests.e2e.quake_world import (
    MARK,
    NAME,
    SCRIPT,
    Figures,
    MoveFailed,
    QuakeWorld,
    differences,
    lost_outside,
    quake_lab,
)
from tests.lab.host import LabHost

LAB = "qdemo"
LOCK = "/run/lock/migrate-demo.lock"
AROUND = 3.0  # seconds of play before, between and after the moves


def say(text: str = "") -> None:
    print(text, flush=True)


def host_line(host: LabHost) -> str:
    def first(argv: list[str]) -> str:
        result: Result = host.run(argv)
        return result.stdout.splitlines()[0].removeprefix("Version: ")

    docker = first(["docker", "version", "-f", "{{.Server.Version}}"])
    return f"  {host.name:<7}{host.address}  Docker {docker}, CRIU {first(['criu', '--version'])}"


def moment(status: Status) -> str:
    """g_timestamp: when the server began this game."""
    return status.cvars.get("g_timestamp", "none")


def show(before: Status, after: Status, seen: Figures, moves: int, witness: Witness | None) -> bool:
    """Print the proof; gives whether it is the same game."""
    longest = sorted(seen.gaps, key=lambda gap: gap[1])[-max(moves, 1) :]
    lengths = [length for _, length in sorted(longest)] or [seen.max_gap_ms]
    gaps = " and ".join(f"{length:.0f} ms" for length in lengths)
    lost = f"{seen.lost_sequences} lost"
    if seen.lost_sequences:
        lost += f" ({lost_outside(seen.timeline, moves)} of them outside of the move)"
    say("The same game?")
    say(f"  begun at (g_timestamp)   before: {moment(before)}   after: {moment(after)}")
    say(f"  setting `{MARK}`       before: {before.cvars.get(MARK)}   "
        f"after: {after.cvars.get(MARK)}")  # fmt: skip
    say(f"  players                  before: {', '.join(p.name for p in before.players)}")
    say(f"                           after:  {', '.join(p.name for p in after.players)}")
    say(f"  the player got {seen.gamestates} gamestate and {seen.snapshots} snapshots, {lost}; "
        f"reconnected {seen.reconnects} times")  # fmt: skip
    say(f"  longest silence that the player noticed: {gaps} (50 ms is usual)")
    wrong = differences(before, after, seen, moves)
    if witness:
        say(f"  {witness.said()}")
        wrong += witness.differences()
    for line in wrong:
        say(f"  NO: {line}")
    if not wrong:
        say("Yes: the same game, and nobody was thrown out.")
    return not wrong


def move(world: QuakeWorld, source: LabHost, to: LabHost) -> Move:
    say(f"root@{source.name}:~# migrate {NAME} {to.name}")
    done = world.timed_move(source, to)
    # What `migrate` prints without the --json that it was called with, for the figures.
    say(f"{done.summary.way}\n{done.summary.text()}\n")
    return done


@contextmanager
def game(keep: bool, flavour: str = "trixie") -> Iterator[QuakeWorld]:
    """Three hosts with the server running on a. `flavour`: of host player."""
    say("Setting up three hosts on this machine (the first time: some minutes) ...")
    with ExitStack() as stack:
        world = stack.enter_context(quake_lab(LAB, keep=keep, player=flavour))
        stack.callback(deaf)
        a, b = world.a, world.b
        say("\n".join([host_line(a), host_line(b), f"  player {world.player_host.address}"]))
        world.start_server(a)
        world.mark("migrate")
        say(f"OpenArena's server runs as container `{NAME}` on a, with -p {world.publish}.")
        yield world


def look_on(world: QuakeWorld) -> Witness | None:
    """The real client, in the game; None, and a line that says why, when it cannot be."""
    try:
        return Witness(world)
    except ClientFailed as failure:
        say(f"Without the real client, which does not come up: {failure}")
        return None


def play(back: bool, keep: bool, client: bool) -> int:
    if client and (why := obtain()):
        say(f"Without the real client, which cannot be had: {why}")
        client = False
    with game(keep, FLAVOUR if client else "trixie") as world:
        a, b = world.a, world.b
        witness = look_on(world) if client else None
        say(f"The player connects to a, {world.server}, and stays there.")
        say()
        player = world.player()
        before = world.status()
        if witness:
            witness.client.watch()
        time.sleep(AROUND)
        moves = []
        for source, to in ((a, b), (b, a))[: 2 if back else 1]:
            moves.append(move(world, source, to))
            time.sleep(AROUND)
        after = world.status()
        frames = witness.client.watched() if witness else []
        seen = player.stop()
        same = show(before, after, seen, len(moves), witness)
        proof = "It is the same game." if same else "It is NOT the same game."
        if seen.dropped_reason is None:  # else nobody knows how long the gap was
            say(f"The story as a picture: {told.leave(told.OUT, moves[0], seen, frames, proof)}")
        if keep:
            look_around(world, a if back else b)
    return 0 if same else 1


def on_a_page(own: str, port: int) -> int:
    """The hosts, the server and a player, on a web page with a button per host, until Ctrl-C."""
    with web.listen(own, port) as listener, game(keep=False) as world:
        web.show(world, own, listener, say)
    return 0


def many(times: int) -> int:
    with game(keep=False) as world:
        return 0 if series.run(world, times, told.OUT / "gaps.json") else 1


def invite() -> int:
    with game(keep=False) as world:
        person.play(world)
    return 0


def look_around(world: QuakeWorld, owner: LabHost) -> None:
    python = os.path.relpath(sys.executable)
    lab = f"{python} -m tests.lab"
    say(f"""
The hosts stay up. The server is on {owner.name} now. From this directory:
  {lab} exec {LAB} {owner.name} docker ps
  {lab} exec {LAB} {owner.name} bash
  {lab} exec {LAB} player python3 {SCRIPT} status {world.server}
  {lab} exec {LAB} player python3 {SCRIPT} play {world.server} --seconds 20
  {lab} down {LAB}      ends it and leaves nothing""")


def deaf() -> None:
    """From here on the hosts are taken down, and a second Ctrl-C must not stop that half-way."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def end(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def count(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def main() -> int:
    parser = argparse.ArgumentParser(prog="./demo", description="Move a Quake 3 server, live.")
    parser.add_argument("--back", action="store_true", help="move it there and back again")
    parser.add_argument("--keep", action="store_true", help="leave the hosts up afterwards")
    parser.add_argument(
        "--no-client", action="store_true", help="without the real client and its pictures"
    )
    other = parser.add_mutually_exclusive_group()
    other.add_argument(
        "--times", type=count, metavar="N", help="move it N times, say how long the gaps were"
    )
    other.add_argument(
        "--play", action="store_true", help="join it yourself, and move it when you like"
    )
    other.add_argument(
        "--web", nargs="?", type=web.address, const=web.DEFAULT, metavar="ADDRESS:PORT",
        help=f"a web page to move it from, until Ctrl-C ({web.DEFAULT})",
    )  # fmt: skip
    given = parser.parse_args()
    if os.geteuid() != 0:
        print("demo: this needs root, for the hosts' namespaces", file=sys.stderr)
        return 1
    # The lab must be taken down also when this is told to end or its terminal goes away.
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGHUP, end)
    with open(LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("demo: another ./demo runs on this machine", file=sys.stderr)
            return 1
        try:
            if given.times:
                return many(given.times)
            if given.play:
                return invite()
            if given.web:
                return on_a_page(*given.web)
            return play(given.back, given.keep, not given.no_client)
        except (MoveFailed, person.PortTaken, web.CannotListen) as failure:
            print(f"demo: {failure}", file=sys.stderr)
        except KeyboardInterrupt:
            print("demo: interrupted", file=sys.stderr)
            return 130
    return 1


if __name__ == "__main__":
    sys.exit(main())
