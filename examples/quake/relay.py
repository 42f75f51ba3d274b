"""UDP from this machine into a network namespace: how a person outside joins the lab's game.

    nsenter --net=/run/netns/X python3 -m examples.quake.relay FD HOST:PORT

The listening socket FD was made outside, and is inherited; what is sent on leaves by sockets that
are made here, inside: one for each player, so that the server can tell them apart by their ports.
No rule of the machine's firewall is changed, and when this ends nothing is left.
"""

from __future__ import annotations

import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from examples.quake.q3oob import Address

IDLE = 120.0  # seconds after which a player that says nothing is forgotten
PLAYERS = 64  # at once; who asks for the status is one for IDLE seconds
LARGEST = 65536


class Relay:
    """Datagrams between `outside` and `server`, in one thread."""

    def __init__(
        self, outside: socket.socket, server: Address, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._outside, self._server, self._clock = outside, server, clock
        self._inside: dict[Address, socket.socket] = {}
        self._heard: dict[Address, float] = {}
        self._selector = selectors.DefaultSelector()
        outside.setblocking(False)
        self._selector.register(outside, selectors.EVENT_READ, None)

    @property
    def players(self) -> list[Address]:
        return list(self._inside)

    def step(self, timeout: float) -> None:
        """Pass on what has come, or comes within `timeout` seconds."""
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                self._from_outside()
            else:
                self._from_inside(key.data)
        for player in [one for one, at in self._heard.items() if self._clock() - at > IDLE]:
            self._forget(player)

    def close(self) -> None:
        """End all; the outer socket is the caller's."""
        for player in self.players:
            self._forget(player)
        self._selector.close()

    def _from_outside(self) -> None:
        try:
            data, player = self._outside.recvfrom(LARGEST)
        except OSError:  # an ICMP error of an earlier answer is reported here
            return
        inside = self._inside.get(player)
        if inside is None:
            if len(self._inside) >= PLAYERS:
                return
            inside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            inside.setblocking(False)
            inside.connect(self._server)
            self._inside[player] = inside
            self._selector.register(inside, selectors.EVENT_READ, player)
        self._heard[player] = self._clock()
        _send(lambda: inside.send(data))

    def _from_inside(self, player: Address) -> None:
        inside = self._inside.get(player)
        if inside is None:
            return
        try:
            data = inside.recv(LARGEST)
        except OSError:  # nobody listens there just now: UDP's player learns it by the silence
            return
        _send(lambda: self._outside.sendto(data, player))

    def _forget(self, player: Address) -> None:
        inside = self._inside.pop(player)
        del self._heard[player]
        self._selector.unregister(inside)
        inside.close()


def _send(send: Callable[[], int]) -> None:
    try:
        send()
    except OSError:
        return  # a lost datagram, as anywhere on the way


def start(port: int, netns: str, server: str) -> subprocess.Popen[bytes]:
    """Receive at this machine's UDP port for `server` (address:port) in a namespace; the caller
    ends the process. Raises OSError when the port is taken."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outside:
        outside.bind(("0.0.0.0", port))
        return subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{netns}", "--", sys.executable, "-m",
             "examples.quake.relay", str(outside.fileno()), server],
            stdin=subprocess.DEVNULL,
            pass_fds=[outside.fileno()],
            cwd=Path(__file__).resolve().parents[2],
            # Ctrl-C is for the demo: players are to be served until the hosts are gone.
            start_new_session=True,
        )  # fmt: skip


def main() -> None:
    outside = socket.socket(fileno=int(sys.argv[1]))
    host, _, port = sys.argv[2].rpartition(":")
    relay = Relay(outside, (host, int(port)))
    while True:
        relay.step(10.0)


if __name__ == "__main__":
    main()
