"""examples.quake.q3player against a server that says only what the test wants it to say."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from examples.quake.q3chan import scramble
from examples.quake.q3game import CLC_COMMAND, SVC_EOF, SVC_GAMESTATE, SVC_SNAPSHOT
from examples.quake.q3msg import Reader, Writer
from examples.quake.q3oob import PREFIX, NoAnswer, getstatus, rcon
from examples.quake.q3player import ConnectFailed, Player

CHALLENGE = -24301
STATUS = rb"""statusResponse
\mapname\oa_dm1\g_timestamp\2026-11-22 22:14:29
-1 0 "Grunt"
3 999 "new "one""
"""


class FakeServer(threading.Thread):
    """Lets everybody in and answers every move with a snapshot, unless told otherwise."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._sock.getsockname()
        self.refusal: bytes | None = None
        self.mute = False
        self.skip = 0  # sequence numbers to leave out before the next snapshot
        self.connects = 0
        self.commands: list[str] = []
        self._sequence = 0
        self._time = 5000

    def run(self) -> None:
        while (packet := self._sock.recvfrom(65536))[0]:
            data, player = packet
            if not self.mute:
                for answer in self._answers(data):
                    self._sock.sendto(answer, player)

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", self.address)
        self.join(5)
        self._sock.close()

    def _answers(self, data: bytes) -> Iterator[bytes]:
        if data.startswith(PREFIX + b"getstatus"):
            yield PREFIX + STATUS
        elif data.startswith(PREFIX + b"rcon "):
            yield PREFIX + b"print\n" + data[len(PREFIX) :]
            yield PREFIX + b"print\n, and more"
        elif data.startswith(PREFIX + b"getchallenge "):
            yield PREFIX + b"challengeResponse %d %s 71" % (CHALLENGE, data.split()[1])
        elif data.startswith(PREFIX + b"connect "):
            self.connects += 1
            self._sequence = 0
            yield PREFIX + (self.refusal or b"connectResponse %d" % CHALLENGE)
        else:
            yield self._play(data)

    def _play(self, data: bytes) -> bytes:
        reader = Reader(data[6:])
        server_id, acknowledged, heard = reader.long(), reader.long(), reader.long()
        plain = scramble(data[6:], 12, CHALLENGE ^ server_id ^ acknowledged, "")
        reader = Reader(plain)
        assert (reader.long(), reader.long(), reader.long()) == (server_id, acknowledged, heard)
        if reader.byte() == CLC_COMMAND:
            reader.long()
            self.commands.append(reader.string())
        self._sequence += 1 + self.skip
        self.skip = 0
        self._time += 50
        out = Writer()
        out.long(0)
        if self._sequence == 1:
            for value, bits in ((SVC_GAMESTATE, 8), (0, 32), (SVC_EOF, 8), (0, 32), (99, 32)):
                out.bits(value, bits)
        for value, bits in ((SVC_SNAPSHOT, 8), (self._time, 32), (0, 8), (0, 8), (0, 8), (0, 8)):
            out.bits(value, bits)
        body = scramble(out.data(), 4, CHALLENGE ^ self._sequence, "")
        return struct.pack("<I", self._sequence) + body


def soon(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    server = FakeServer()
    server.start()
    yield server
    server.close()


def test_a_player_in_a_thread(server: FakeServer) -> None:
    player = Player(server.address, "me")
    player.start()
    soon(lambda: player.stats.snapshots > 3)
    early = player.stats
    server.skip = 3
    soon(lambda: player.stats.snapshots > early.snapshots + 3)
    stats = player.stop()
    assert (stats.gamestates, stats.reconnects, stats.dropped_reason) == (1, 0, None)
    assert (early.lost_sequences, stats.lost_sequences) == (0, 3)
    assert stats.last_server_time == 5000 + 50 * stats.snapshots
    assert [row[2] for row in player.timeline] == [
        5050 + 50 * number for number in range(stats.snapshots)
    ]
    soon(lambda: len(server.commands) >= 3)
    assert server.commands == ["disconnect"] * 3


def test_a_full_server(server: FakeServer) -> None:
    server.refusal = b"print\nServer is full\n"
    with pytest.raises(ConnectFailed, match=r"^Server is full$"):
        Player(server.address, "me").connect(5)


def test_nobody_there(server: FakeServer) -> None:
    server.mute = True
    start = time.monotonic()
    with pytest.raises(ConnectFailed, match="no challengeResponse"):
        Player(server.address, "me").connect(0.3)
    with pytest.raises(NoAnswer):
        getstatus(server.address, timeout=0.2)
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(("patience", "reconnects"), [(1.0, 1), (None, 0)])
def test_silence(server: FakeServer, patience: float | None, reconnects: int) -> None:
    player = Player(server.address, "me", reconnect_after=patience)
    player.connect()
    player.run_for(0.2)
    server.mute = True
    # Asked at 1 s, which nobody hears, and at 2 s; a machine that stands still is no silence yet.
    threading.Timer(1.3, setattr, (server, "mute", False)).start()
    stats = player.run_for(2.7)
    player.stop()
    assert stats.reconnects == reconnects
    assert (stats.gamestates, server.connects) == (1 + reconnects, 1 + reconnects)
    assert stats.max_gap_ms > 500
    assert max(length for _, length in stats.gaps) == round(stats.max_gap_ms, 1)


def test_status_and_console(server: FakeServer) -> None:
    status = getstatus(server.address)
    assert status.cvars == {"mapname": "oa_dm1", "g_timestamp": "2026-11-22 22:14:29"}
    players = [(one.score, one.ping, one.name) for one in status.players]
    assert players == [(-1, 0, "Grunt"), (3, 999, 'new "one"')]
    assert rcon(server.address, "pw", "set a b") == "rcon pw set a b, and more"
