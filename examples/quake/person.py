"""`./demo --play`: a person joins with a client of their own, and moves the server by Enter."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

from examples.quake.build_image import PORT
from examples.quake.gaps import longest
from examples.quake.relay import start
from tests.e2e.quake_world import MoveFailed, QuakeWorld

SETTLED = 1.0  # seconds that the measuring player listens before and after a move


class PortTaken(Exception):
    """This machine's port of the game is in use; the text says so."""


def own_addresses() -> list[str]:
    """Where this machine may be reached: the address of its default route, if it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent: connecting a UDP socket only looks the route up. (192.0.2.1 is for
            # documentation: nobody has it.)
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return []
        return [str(probe.getsockname()[0])]


def invitation(addresses: list[str], port: int = PORT) -> str:
    """What a person does to join."""
    where = [*addresses, "127.0.0.1"]
    lines = ["To join, on a machine with OpenArena 0.8.8 (Debian: apt install openarena):"]
    for address in where:
        note = "   (on this machine)" if address == "127.0.0.1" else ""
        lines.append(f"  openarena +connect {address}:{port}{note}")
    lines.append("or in its console (Shift-Escape or ~):  /connect " + f"{where[0]}:{port}")
    lines.append(
        "With plain ioquake3 instead of Debian's openarena, first: +set com_basegame baseoa "
        "+set com_protocol 71 +set com_legacyprotocol 71 +set fs_basepath (where baseoa is)"
    )
    return "\n".join(lines)


@contextlib.contextmanager
def published(world: QuakeWorld, port: int = PORT) -> Iterator[None]:
    """This machine's UDP port leads to the game, as long as the `with` lasts. Raises PortTaken."""
    try:
        relay = start(port, world.player_host.netns, world.server)
    except OSError as failure:
        raise PortTaken(f"UDP port {port} of this machine: {failure.strerror}") from failure
    try:
        yield
    finally:
        relay.kill()
        relay.wait()


def play(world: QuakeWorld) -> None:
    """Move back and forth at each Enter, until Ctrl-C or the end of the input."""
    with published(world):
        print(invitation(own_addresses()), flush=True)
        here, there = world.a, world.b
        while True:
            print(
                f"\nThe server is on {here.name}. Enter: migrate it to {there.name}. Ctrl-C: end.",
                flush=True,
            )
            try:
                input()
            except (EOFError, KeyboardInterrupt):
                return
            try:
                print(_one(world, there.name), flush=True)
            except MoveFailed as failure:
                print(f"It stays on {here.name}: {failure}", flush=True)
                continue
            here, there = there, here


def _one(world: QuakeWorld, to: str) -> str:
    """One move, looked at by a player who joins for that."""
    source, target = (world.a, world.b) if to == world.b.name else (world.b, world.a)
    player = world.player()
    try:
        time.sleep(SETTLED)
        move = world.timed_move(source, target)
        time.sleep(SETTLED)
    finally:
        seen = player.stop()
    gap = longest([at for at, _, _ in seen.timeline], move.begin, move.end)
    parts = ", ".join(f"{name} {s * 1000:.0f}" for name, s in move.summary.parts.items())
    names = ", ".join(one.name for one in world.status().players)
    return (
        f"Moved to {to}: no snapshot for {gap.ms:.0f} ms, of which the container stood still for "
        f"{move.summary.downtime * 1000:.0f} ms ({parts}).\nIn the game: {names}"
    )
