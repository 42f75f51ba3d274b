"""What a Quake 3 server and a player say to each other once the channel is there.

Written from reading ioquake3's code/client/cl_parse.c, cl_input.c and qcommon/msg.c; no line is
copied. Read: gamestate, server commands (they must be acknowledged, or the server drops the player
after 64) and the beginning of snapshots. Written: acknowledgements, moves and client commands.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass

from examples.quake.q3chan import Channel, hash_command
from examples.quake.q3msg import BadMessage, Reader, Writer
from examples.quake.q3oob import parse_info

# enum svc_ops_e and clc_ops_e of qcommon.h
SVC_NOP, SVC_GAMESTATE, SVC_CONFIGSTRING, SVC_BASELINE, SVC_COMMAND = 1, 2, 3, 4, 5
SVC_SNAPSHOT, SVC_EOF = 7, 8
CLC_MOVE_NO_DELTA, CLC_COMMAND, CLC_EOF = 3, 4, 5

SYSTEMINFO = 1  # the configstring with sv_serverid
NOT_ACTIVE = 2  # snapshot flag: the server has not let the player in yet
ENTITY_NUMBER_BITS = 10
# The fields of an entity in the order of msg.c's entityStateFields: bits, 0 for a float.
ENTITY_FIELDS = [
    *(32, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 8, 8, 8, 8, 10, 8, 19, 10, 8, 8, 0, 32, 8, 0, 0, 0),
    *(24, 16, 8, 10, 8, 8, 0, 0, 0, 8, 0, 32, 32, 32, 0, 0, 0, 0, 32, 0, 0, 0, 32, 16),
]
FLOAT_INT_BITS, FLOAT_INT_BIAS = 13, 4096  # whole floats are sent as small numbers

ATTACK = 1  # button: fires, and brings a dead player back
RUN = 127  # forwardmove at full speed


@dataclass(frozen=True)
class Snapshot:
    """`server_time`: the game's clock, ms. `command_time`: the last move carried out, ms of it.

    `moved`: distance to the position in the snapshot before, in game units.
    """

    server_time: int
    command_time: int
    moved: float


@dataclass
class News:
    """What one message brought."""

    gamestate: bool = False
    snapshot: Snapshot | None = None
    dropped: str | None = None


class Game:
    """The player's knowledge of the game on one connection."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._server_id = 0
        self._checksum_feed = 0
        self._command_heard = 0
        self._server_time: int | None = None
        self._position: tuple[float, float] | None = None
        self._unheard: dict[int, str] = {}  # own commands that the server has not acknowledged
        self._said = 0
        self._steps = 0
        self.active = False
        """The server counts the player as in the game: snapshots are the player's own."""

    def say(self, command: str) -> None:
        """Queue a command for the server; it is sent with every message until acknowledged."""
        self._said += 1
        self._unheard[self._said] = command

    def message(self) -> bytes:
        """The next datagram to the server: acknowledgements, commands, and a move if in a game."""
        out = Writer()
        out.long(self._server_id)
        out.long(self._channel.incoming)
        out.long(self._command_heard)
        for number, text in self._unheard.items():
            out.byte(CLC_COMMAND)
            out.long(number)
            out.string(text)
            self._channel.said(number, text)
        if self._server_time is not None:
            self._write_move(out, self._server_time)
        out.byte(CLC_EOF)
        return self._channel.encode(out.data(), self._server_id, self._command_heard)

    def _write_move(self, out: Writer, server_time: int) -> None:
        """Run in a wide circle, firing in bursts. Without the gamestate's key it would be noise."""
        out.byte(CLC_MOVE_NO_DELTA)
        out.byte(1)
        key = self._checksum_feed ^ self._channel.incoming
        key ^= hash_command(self._channel.server_command(self._command_heard))
        self._steps += 1
        yaw = self._steps * 600 & 0xFFFF  # of 65536 for a full turn
        buttons = ATTACK if self._steps % 40 < 10 else 0
        # As a difference to nothing: the time in full, then each field that is not 0.
        out.bits(0, 1)
        out.bits(server_time, 32)
        out.bits(1, 1)
        key ^= server_time
        fields = ((0, 16), (yaw, 16), (0, 16), (RUN, 8), (0, 8), (0, 8), (buttons, 16), (2, 8))
        for value, bits in fields:
            out.bits(int(value != 0), 1)
            if value:
                out.bits(value ^ key, bits)

    def take(self, message: bytes) -> News:
        """Read a message from the server. Raises BadMessage if it is not one."""
        news = News()
        reader = Reader(message)
        heard = reader.long()
        self._unheard = {n: text for n, text in self._unheard.items() if n > heard}
        while (kind := reader.byte()) != SVC_EOF:
            if kind == SVC_COMMAND:
                news.dropped = self._take_command(reader) or news.dropped
            elif kind == SVC_GAMESTATE:
                self._take_gamestate(reader)
                news.gamestate = True
            elif kind == SVC_SNAPSHOT:
                news.snapshot = self._take_snapshot(reader)
                break  # the rest of it is scenery, and nothing but the end follows
            elif kind != SVC_NOP:
                raise BadMessage(f"server operation {kind}")
        return news

    def _take_command(self, reader: Reader) -> str | None:
        number, text = reader.long(), reader.string()
        if number <= self._command_heard:
            return None
        self._command_heard = number
        self._channel.heard(number, text)
        end = re.match(r'disconnect\s*"?([^"]*)', text)
        return (end[1] or "disconnected") if end else None

    def _take_gamestate(self, reader: Reader) -> None:
        self.active = False
        self._position = None
        self._server_time = 0
        self._command_heard = reader.long()
        while (kind := reader.byte()) != SVC_EOF:
            if kind == SVC_CONFIGSTRING:
                number, text = reader.short(), reader.string()
                if number == SYSTEMINFO:
                    self._server_id = int(parse_info(text).get("sv_serverid", "0"))
            elif kind == SVC_BASELINE:
                reader.bits(ENTITY_NUMBER_BITS)
                _skip_entity(reader)
            else:
                raise BadMessage(f"operation {kind} in a gamestate")
        reader.long()  # the player's number
        self._checksum_feed = reader.long()

    def _take_snapshot(self, reader: Reader) -> Snapshot:
        server_time = reader.long()
        builds_upon, flags = reader.byte(), reader.byte()
        for _ in range(reader.byte()):
            reader.byte()  # which areas of the map are visible
        self.active = not flags & NOT_ACTIVE
        self._server_time = server_time
        if builds_upon:
            raise BadMessage("a snapshot that builds upon another one was not asked for")
        # The player's state begins with: number of fields, then time of the last move, x, y.
        # Fields at the end that are 0 are not sent: as long as the player is not there, most.
        fields = reader.byte()
        command_time = reader.long() if fields >= 1 and reader.bits(1) else 0
        x = _read_float(reader) if fields >= 2 else 0.0
        y = _read_float(reader) if fields >= 3 else 0.0
        position = (x, y)
        moved = math.dist(position, self._position) if self._position else 0.0
        self._position = position
        return Snapshot(server_time, command_time, moved)


def _read_float(reader: Reader) -> float:
    """A float field of the player's state (msg.c, MSG_ReadDeltaPlayerstate), 0 if not changed."""
    if not reader.bits(1):
        return 0.0
    if not reader.bits(1):
        return float(reader.bits(FLOAT_INT_BITS) - FLOAT_INT_BIAS)
    (value,) = struct.unpack("<f", struct.pack("<I", reader.bits(32)))
    return float(value)


def _skip_entity(reader: Reader) -> None:
    """Read over an entity (msg.c, MSG_ReadDeltaEntity): only the length matters."""
    if reader.bits(1) or not reader.bits(1):  # removed, or as it was
        return
    for bits in ENTITY_FIELDS[: reader.byte()]:
        if not reader.bits(1) or not reader.bits(1):  # unchanged, or 0
            continue
        if bits:
            reader.bits(bits)
        else:
            reader.bits(32 if reader.bits(1) else FLOAT_INT_BITS)
