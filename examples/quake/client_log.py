"""What the real client's console says of its connection: was it ever broken, was it made anew?"""

from __future__ import annotations

import re
from dataclasses import dataclass

# One line each time that the client has got a gamestate and begins the game with it
# (code/client/cl_cgame.c, CL_InitCGame); the next ones end a connection (cl_main.c, common.c).
GAME_BEGUN = re.compile(r"^CL_InitCGame:", re.MULTILINE)
CONNECTING = re.compile(r"^\S+ resolved to \S+", re.MULTILINE)
BROKEN = re.compile(
    r"^(?:Server connection timed out\.|Server disconnected\b.*|ERROR: .*|\*+ ?(?:ERROR|DROP).*"
    r"|Connection refused.*|.*Server shutdown.*|----- CL_Shutdown -----)$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Connection:
    """`gamestates`: games begun; `connects`: times that it set out for the server; `broken`: the
    lines that told of an end."""

    gamestates: int
    connects: int
    broken: tuple[str, ...]

    @property
    def unbroken(self) -> bool:
        """One connection, one game, and still in it."""
        return self.gamestates == 1 and self.connects <= 1 and not self.broken


def read_log(text: str) -> Connection:
    """What a console's log says up to now."""
    return Connection(
        gamestates=len(GAME_BEGUN.findall(text)),
        connects=len(CONNECTING.findall(text)),
        broken=tuple(line.strip() for line in BROKEN.findall(text)),
    )


@dataclass(frozen=True)
class Slot:
    """A line of the server's own list: `number` is kept as long as the connection is."""

    number: int
    ping: int | None
    """ms that its answers take; 999 when it has not answered for long; None: not in the game."""
    address: str


def slot_of(status: str, name: str) -> Slot | None:
    """The player of that name in the answer to the console's `status`."""
    line = re.compile(
        rf"^ *(\d+) +-?\d+ +(CON|ZMB|-?\d+) +{re.escape(name)}(?:\^7)? +(?:\d+ +)?(?:\^7)?(\S+)",
        re.MULTILINE,
    )
    found = line.search(status)
    if not found:
        return None
    ping = None if found[2].isalpha() else int(found[2])
    return Slot(int(found[1]), ping, found[3])
