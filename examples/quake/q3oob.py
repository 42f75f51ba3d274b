"""What can be asked of a Quake 3 server without being connected: its status and its console.

Such packets begin with four bytes of 0xFF and are plain text (code/server/sv_main.c, SVC_Status and
SVC_RemoteCommand). The server answers an address at most 10 times in a burst, then once a second.
"""

from __future__ import annotations

import re
import socket
import time
from dataclasses import dataclass

PREFIX = b"\xff\xff\xff\xff"
Address = tuple[str, int]


class NoAnswer(TimeoutError):
    """The server did not answer in time."""


@dataclass(frozen=True)
class StatusPlayer:
    """One line of the player list; `ping` in ms is 0 for bots and 999 while not in the game yet."""

    score: int
    ping: int
    name: str


@dataclass(frozen=True)
class Status:
    """`cvars` are the public settings; g_timestamp among them is when this game was begun."""

    cvars: dict[str, str]
    players: list[StatusPlayer]


def getstatus(server: Address, timeout: float = 2.0) -> Status:
    """Settings and players of the server. Raises NoAnswer after `timeout` seconds."""
    answer = _ask(server, b"getstatus", b"statusResponse\n", timeout)
    settings, *lines = answer.split("\n")
    found = (re.fullmatch(r'(-?\d+) (\d+) "(.*)"', line) for line in lines)
    players = [StatusPlayer(int(one[1]), int(one[2]), one[3]) for one in found if one]
    return Status(parse_info(settings), players)


def rcon(server: Address, password: str, command: str, timeout: float = 2.0) -> str:
    """What the server's console prints on `command`; "Bad rconpassword." is an answer like another.

    Long answers come in several packets that do not say how many they are: whatever comes within
    0.1 s of the last one is taken. Raises NoAnswer when none comes within `timeout` seconds.
    """
    text = f"rcon {password} {command}".encode("latin-1")
    return _ask(server, text, b"print\n", timeout, more=0.1)


def parse_info(text: str) -> dict[str, str]:
    r"""The pairs of an "info string", \name\value\name\value..."""
    words = text.lstrip("\\").split("\\")
    return dict(zip(words[::2], words[1::2], strict=False))


def _ask(
    server: Address, request: bytes, head: bytes, timeout: float, more: float | None = None
) -> str:
    """Ask until something beginning with `head` comes; with `more`, add what follows within it."""
    deadline = time.monotonic() + timeout
    parts: list[bytes] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(server)
        try:
            sock.send(PREFIX + request)
        except OSError as error:
            raise NoAnswer(f"{server[0]}:{server[1]}: {error}") from error
        while True:
            wait = more if parts and more else deadline - time.monotonic()
            sock.settimeout(max(wait, 0.001))
            try:
                datagram = sock.recv(65536)
            except OSError as error:  # in time, or refused: nobody listens there
                if parts:
                    break
                raise NoAnswer(f"{server[0]}:{server[1]} does not answer: {error}") from error
            if datagram.startswith(PREFIX + head):
                parts.append(datagram[len(PREFIX + head) :])
                if more is None:
                    break
    return b"".join(parts).decode("latin-1")
