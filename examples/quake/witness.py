"""The real client as a witness of a migration: is it in the same game, and what did it see?"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

from examples.quake.client_log import Slot, slot_of
from examples.quake.gaps import Gap
from examples.quake.real_client import FLAVOUR, NAME, Frame, RealClient
from tests.e2e.quake_world import QuakeWorld
from tests.lab.tree import tree

EARLIER, LATER = 1.5, 1.0  # seconds before and after the gap at which a picture is taken
INTO = 0.75  # and into the gap: what share of it


def obtain() -> str | None:
    """Have the client and its data ready, downloaded if need be; gives why that cannot be."""
    try:
        tree(FLAVOUR)
    except (OSError, RuntimeError, subprocess.SubprocessError) as failure:
        return str(failure).splitlines()[0]
    return None


@dataclass(frozen=True)
class Shots:
    """Three frames: in the game before the gap, late in the gap, and the game going on."""

    before: Frame
    during: Frame
    after: Frame


def choose(frames: list[Frame], gap: Gap) -> Shots:
    """Which frames tell the story. Raises ValueError when nobody looked at the time."""
    if not frames:
        raise ValueError("there are no pictures")

    def nearest(wanted: float, among: list[Frame]) -> Frame:
        return min(among, key=lambda frame: abs(frame.at - wanted))

    silent = [frame for frame in frames if gap.begin <= frame.at <= gap.end]
    late = gap.begin + INTO * (gap.end - gap.begin)
    return Shots(
        nearest(gap.begin - EARLIER, frames),
        nearest(late, silent or frames),
        nearest(gap.end + LATER, frames),
    )


class Witness:
    """The client in the game, and its place in the server's list before anything was moved."""

    def __init__(self, world: QuakeWorld) -> None:
        """Raises ClientFailed."""
        self._world = world
        self.client = RealClient(world.player_host, world.server)
        self.before = self.slot()

    def slot(self) -> Slot | None:
        """Its place in the server's list now."""
        return slot_of(self._world.console("status"), NAME)

    def differences(self) -> list[str]:
        """Why it is not in the game as it was; empty when it is."""
        wrong = []
        seen, now = self.client.connection(), self.slot()
        if not self.client.alive():
            wrong.append("the real client has ended")
        if not seen.unbroken:
            said = f": {seen.broken[0]}" if seen.broken else ""
            wrong.append(
                f"the real client connected {seen.connects} times and got {seen.gamestates} "
                f"gamestates{said}"
            )
        if now is None or self.before is None or now.number != self.before.number:
            wrong.append(f"the real client's place was {self.before}, is {now}")
        elif now.ping is None or now.ping >= 999:
            wrong.append(f"the server hears nothing of the real client: {now}")
        return wrong

    def said(self) -> str:
        """A line for people."""
        seen, now = self.client.connection(), self.slot()
        places = " and ".join(str(one.number) if one else "none" for one in (self.before, now))
        return (
            f"ioquake3 connected {seen.connects} time, got {seen.gamestates} gamestate; its place "
            f"at the server before and after: {places}"
        )
