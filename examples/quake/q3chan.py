"""Quake 3's channel between a player and a server: sequence numbers, fragments and scrambling.

Written from reading ioquake3's code/qcommon/net_chan.c and client/cl_net_chan.c; no line is copied.
This is the old ("legacy") form of the channel, which OpenArena's servers speak since they set
com_legacyprotocol to their com_protocol: no checksum in the header, but messages are scrambled.
The server tells players apart by IP address and qport, a number the player has made up: the UDP
source port may change on the way (sv_main.c, SV_PacketEvent).
"""

from __future__ import annotations

import struct

from examples.quake.q3msg import BadMessage, Reader

FRAGMENT_SIZE = 1300  # bytes: a message is cut up from this length on
_FRAGMENT_BIT = 1 << 31
# Messages begin with numbers that the other side needs in order to unscramble the rest.
_PLAIN_FROM_SERVER = 4  # bytes
_PLAIN_FROM_CLIENT = 12
_KEPT = 64  # MAX_RELIABLE_COMMANDS: both sides remember as many commands


def scramble(data: bytes, plain: int, key: int, text: str) -> bytes:
    """XOR all but the first `plain` bytes; called again with the same key and text, undo it.

    The key starts as the lowest byte of `key` and moves on with each character of `text`, over and
    over. `text` is the last command the two sides agree on: who has not seen it cannot read on.
    """
    state = key & 0xFF
    # A C string: its end counts as a character only if it is the only one.
    letters = text.encode("ascii", "replace") or b"\0"
    out = bytearray(data)
    for index in range(plain, len(out)):
        place = index - plain
        state ^= letters[place % len(letters)] << (place & 1) & 0xFF
        out[index] ^= state
    return bytes(out)


def hash_command(text: str) -> int:
    """MSG_HashKey over the first 32 characters: part of the key of every move."""
    total = sum(char * (119 + index) for index, char in enumerate(text.encode("ascii")[:32]))
    return total ^ total >> 10 ^ total >> 20


class Channel:
    """A player's end of the channel. It makes and takes datagrams; the socket is the caller's."""

    def __init__(self, challenge: int, qport: int) -> None:
        self._challenge = challenge
        self._qport = qport
        self._outgoing = 1
        self._fragments = bytearray()
        self._fragments_of = 0
        self.incoming = 0
        """Sequence number of the last complete message from the server; 0 before the first."""
        self.lost = 0
        """Sequence numbers that were skipped: messages the server sent and we never had."""
        self._server_commands = {0: ""}
        self._client_commands = {0: ""}

    def heard(self, number: int, text: str) -> None:
        """The server's reliable command `number` has come: it may be a key from now on."""
        self._keep(self._server_commands, number, text)

    def said(self, number: int, text: str) -> None:
        """The player's reliable command `number` is about to be sent: likewise."""
        self._keep(self._client_commands, number, text)

    def server_command(self, number: int) -> str:
        return self._server_commands.get(number, "")

    @staticmethod
    def _keep(commands: dict[int, str], number: int, text: str) -> None:
        commands[number] = text
        commands.pop(number - _KEPT, None)

    def encode(self, message: bytes, server_id: int, command_seen: int) -> bytes:
        """The datagram for a message that says it has seen server command `command_seen`.

        Never in fragments: a player's message with one move and a command is below 200 bytes.
        """
        key = self._challenge ^ server_id ^ self.incoming
        body = scramble(message, _PLAIN_FROM_CLIENT, key, self.server_command(command_seen))
        sequence, self._outgoing = self._outgoing, self._outgoing + 1
        return struct.pack("<IH", sequence, self._qport) + body

    def decode(self, datagram: bytes) -> bytes | None:
        """The message that this datagram completes, or None: a fragment, a repetition, too late."""
        if len(datagram) < 4:
            return None
        (number,) = struct.unpack_from("<I", datagram)
        sequence = number & ~_FRAGMENT_BIT
        if sequence <= self.incoming:
            return None
        body: bytes | None = datagram[4:]
        if number & _FRAGMENT_BIT:
            body = self._assemble(sequence, datagram)
        if body is None:
            return None
        self.lost += sequence - self.incoming - 1
        self.incoming = sequence
        try:
            agreed = self._client_commands.get(Reader(body).long(), "")
        except BadMessage:
            return None
        return scramble(body, _PLAIN_FROM_SERVER, self._challenge ^ sequence, agreed)

    def _assemble(self, sequence: int, datagram: bytes) -> bytes | None:
        if len(datagram) < 8:
            return None
        start, length = struct.unpack_from("<HH", datagram, 4)
        part = datagram[8 : 8 + length]
        if sequence != self._fragments_of:
            self._fragments_of = sequence
            self._fragments.clear()
        if start != len(self._fragments) or len(part) != length:
            return None  # one is missing: the whole message is, and counts as lost with the next
        self._fragments += part
        return None if length == FRAGMENT_SIZE else bytes(self._fragments)
