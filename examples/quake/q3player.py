"""One player: the handshake, the clock of its moves, and the figures of what it noticed.

Handshake and timing as in ioquake3's code/client/cl_main.c and code/server/sv_client.c.
"""

from __future__ import annotations

import random
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from examples.quake.q3chan import Channel
from examples.quake.q3game import Game, Snapshot
from examples.quake.q3msg import BadMessage, compress
from examples.quake.q3oob import PREFIX, Address

MOVE_INTERVAL = 0.05  # seconds: as often as the server makes snapshots (sv_fps 20)
RETRY_INTERVAL = 1.0  # seconds between two tries of a handshake packet


class ConnectFailed(ConnectionError):
    """The server did not let the player in, or did not answer."""


@dataclass
class PlayerStats:
    """What happened to the player; times in ms, `server_time` is the game's clock."""

    gamestates: int = 0
    snapshots: int = 0
    first_server_time: int | None = None
    last_server_time: int | None = None
    server_time_steps_back: int = 0
    lost_sequences: int = 0
    last_sequence: int = 0
    reconnects: int = 0
    max_gap_ms: float = 0.0
    gaps: list[tuple[float, float]] = field(default_factory=list)
    """Silences of the server over the threshold: (s after the first snapshot, length in ms)."""
    moved: float = 0.0
    """How far the server says the player ran, in game units: are moves still listened to?"""
    last_command_time: int = 0
    """Server time of the last move that the server says it has carried out."""
    dropped_reason: str | None = None


class Player:
    """One player, for one game; use it from one thread, or `start` and `stop` it.

    `gap_ms`: silences longer than this are listed. `reconnect_after`: seconds of silence after
    which the player connects anew, as a human would in the end; None: never.
    """

    def __init__(
        self,
        server: Address,
        name: str,
        *,
        gap_ms: float = 150.0,
        reconnect_after: float | None = 10.0,
    ) -> None:
        self._server = server
        self._name = name
        self._gap_ms = gap_ms
        self._reconnect_after = reconnect_after
        self._qport = random.randrange(1, 1 << 16)
        self._socket: socket.socket | None = None
        self._channel = Channel(0, 0)
        self._game = Game(self._channel)
        self._lost_before = 0  # in channels given up
        self._stats = PlayerStats()
        self._timeline: list[tuple[float, int, int]] = []
        self._next_move = 0.0
        self._last_heard = 0.0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def stats(self) -> PlayerStats:
        """A copy of the figures so far; safe from any thread."""
        return replace(self._stats, gaps=list(self._stats.gaps))

    @property
    def timeline(self) -> list[tuple[float, int, int]]:
        """One (time.monotonic(), sequence, server time in ms) for each snapshot so far."""
        return list(self._timeline)

    def connect(self, timeout: float = 10.0) -> None:
        """Join the game and return as soon as the player is in it. Go on with run_for or start.

        Raises ConnectFailed after `timeout` seconds, or at once when the server says why not.
        """
        deadline = time.monotonic() + timeout
        self._close()
        # Connected, so that a server that is gone is noticed (ECONNREFUSED) and only the server is
        # heard; the answers must come from the address that was asked, as for a real player.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect(self._server)
        nonce = random.randrange(1, 1 << 31)
        words = self._handshake(b"getchallenge %d" % nonce, b"challengeResponse", deadline)
        challenge = int(words.split()[1])
        # OpenArena wants every player to have an id of 32 hexadecimal digits.
        guid = f"{random.getrandbits(128):032X}"
        info = (
            rf"\name\{self._name}\protocol\71\qport\{self._qport}\challenge\{challenge}\cl_guid\{guid}"
            r"\rate\99999\snaps\20\model\sergei\headmodel\sergei\handicap\100\color1\4\color2\5"
        )
        # NET_OutOfBandData compresses all after the word "connect "
        connect = b"connect " + compress(f'"{info}"'.encode("ascii", "replace"))
        self._handshake(connect, b"connectResponse", deadline)
        self._lost_before += self._channel.lost
        self._channel = Channel(challenge, self._qport)
        self._game = Game(self._channel)
        self._last_heard = time.monotonic()
        self._run(deadline, lambda: self._game.active)
        if not self._game.active:
            reason = self._stats.dropped_reason or f"no snapshot within {timeout:.0f} s"
            raise ConnectFailed(reason)

    def run_for(self, seconds: float) -> PlayerStats:
        """Play for so long (or until dropped, or `stop`), and give the figures."""
        self._run(time.monotonic() + seconds, lambda: False)
        return self.stats

    def start(self, timeout: float = 10.0) -> None:
        """Connect, then play in a thread of its own until `stop`. Raises ConnectFailed."""
        self.connect(timeout)
        self._thread = threading.Thread(target=self.run_for, args=(1e9,), daemon=True)
        self._thread.start()

    def stop(self) -> PlayerStats:
        """Leave the game (the server is told) and give the last figures."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        if self._game.active:
            self._game.say("disconnect")
            # Three times, as CL_Disconnect does: nothing acknowledges it.
            for _ in range(3):
                self._send(self._game.message())
        self._close()
        return self.stats

    def end(self) -> None:
        """Make run_for return soon; may be called from a signal handler."""
        self._ended.set()

    # -- one datagram after the other -------------------------------------------------------------

    def _handshake(self, request: bytes, answer: bytes, deadline: float) -> bytes:
        """Ask again and again until the answer begins with `answer`."""
        again = 0.0
        while (now := time.monotonic()) < deadline and not self._ended.is_set():
            if now >= again:
                again = now + RETRY_INTERVAL
                self._send(PREFIX + request)
            datagram = self._receive(min(again, deadline))
            if datagram is not None:
                if datagram.startswith(PREFIX + answer):
                    return datagram[len(PREFIX) :]
                if datagram.startswith(PREFIX + b"print\n"):
                    said = datagram.removeprefix(PREFIX + b"print\n")
                    raise ConnectFailed(said.decode("latin-1").strip())
        raise ConnectFailed(f"no {answer.decode()} from {self._server[0]}:{self._server[1]}")

    def _run(self, deadline: float, done: Callable[[], bool]) -> None:
        while (now := time.monotonic()) < deadline and not self._ended.is_set():
            if done() or self._stats.dropped_reason is not None:
                return
            if now >= self._next_move:
                # Not `+=`: after a pause of this machine, moves are not sent in a burst.
                self._next_move = now + MOVE_INTERVAL
                self._send(self._game.message())
            datagram = self._receive(min(self._next_move, deadline))
            if datagram is not None:
                self._take(datagram, time.monotonic())
            elif self._silent():
                self._stats.reconnects += 1
                try:
                    self.connect(max(0.0, deadline - now))
                except ConnectFailed as failure:
                    self._stats.dropped_reason = f"silence, then: {failure}"

    def _silent(self) -> bool:
        limit = self._reconnect_after
        return limit is not None and time.monotonic() - self._last_heard > limit

    def _take(self, datagram: bytes, now: float) -> None:
        if datagram.startswith(PREFIX):
            return
        message = self._channel.decode(datagram)
        if message is None:
            return
        self._last_heard = now
        stats = self._stats
        try:
            news = self._game.take(message)
        except BadMessage as failure:
            # A real player leaves the game then, too (CL_ParseServerMessage, ERR_DROP).
            stats.dropped_reason = f"unreadable message: {failure}"
            return
        stats.lost_sequences = self._lost_before + self._channel.lost
        stats.last_sequence = self._channel.incoming
        stats.gamestates += news.gamestate
        if news.dropped is not None:
            stats.dropped_reason = news.dropped
        if news.snapshot is not None and self._game.active:
            self._count(news.snapshot, now)

    def _count(self, snapshot: Snapshot, now: float) -> None:
        stats = self._stats
        if self._timeline:
            gap = (now - self._timeline[-1][0]) * 1000
            stats.max_gap_ms = max(stats.max_gap_ms, gap)
            if gap > self._gap_ms:
                stats.gaps.append((round(now - self._timeline[0][0], 3), round(gap, 1)))
        if stats.last_server_time is None:
            stats.first_server_time = snapshot.server_time
        elif snapshot.server_time < stats.last_server_time:
            stats.server_time_steps_back += 1
        stats.snapshots += 1
        stats.last_server_time = snapshot.server_time
        stats.moved += snapshot.moved
        stats.last_command_time = snapshot.command_time
        self._timeline.append((now, self._channel.incoming, snapshot.server_time))

    def _send(self, datagram: bytes) -> None:
        assert self._socket is not None, "connect first"
        try:
            self._socket.send(datagram)
        except OSError:
            # Refused or unreachable: UDP's player learns of it by the silence, not by this.
            return

    def _receive(self, deadline: float) -> bytes | None:
        assert self._socket is not None, "connect first"
        wait = max(0.0, deadline - time.monotonic())
        if not select.select([self._socket], [], [], wait)[0]:
            return None
        try:
            return self._socket.recv(65536)
        except ConnectionError:
            # Nobody listens there just now. Not in a tight loop.
            self._ended.wait(min(wait, 0.01))
            return None

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
