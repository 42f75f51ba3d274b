"""Datagrams into the lab and back, and what a person is told."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from examples.quake import relay
from examples.quake.person import invitation
from examples.quake.relay import IDLE, PLAYERS, Relay


def udp() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("127.0.0.1", 0))
    made.settimeout(2)
    return made


class World:
    """A server, a relay before it, and a clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.server, self.outside = udp(), udp()
        self.door = self.outside.getsockname()
        self.relay = Relay(self.outside, self.server.getsockname(), lambda: self.now)

    def arrives(self, player: socket.socket, data: bytes) -> tuple[str, int]:
        """Send it through; gives from where the server sees it."""
        player.sendto(data, self.door)
        self.relay.step(2)
        got, sender = self.server.recvfrom(100)
        assert got == data
        return str(sender[0]), int(sender[1])


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.relay.close()
    for one in (made.server, made.outside):
        one.close()


@pytest.fixture
def players() -> Iterator[list[socket.socket]]:
    made = [udp(), udp()]
    yield made
    for one in made:
        one.close()


def test_answers_find_the_one_who_asked(world: World, players: list[socket.socket]) -> None:
    one, two = players
    first, second = world.arrives(one, b"one"), world.arrives(two, b"two")
    assert first != second  # the server can tell them apart
    world.server.sendto(b"for two", second)
    world.relay.step(2)
    world.server.sendto(b"for one", first)
    world.relay.step(2)
    assert (one.recv(100), two.recv(100)) == (b"for one", b"for two")
    assert world.arrives(one, b"again") == first  # and they stay who they are


def test_who_is_silent_is_forgotten(world: World, players: list[socket.socket]) -> None:
    one, two = players
    world.arrives(one, b"one")
    world.now = IDLE - 1
    world.arrives(two, b"two")
    assert len(world.relay.players) == 2
    world.now = IDLE + 1
    world.relay.step(0)
    assert world.relay.players == [two.getsockname()]


def test_a_server_that_is_gone_ends_nothing(world: World, players: list[socket.socket]) -> None:
    world.arrives(players[0], b"one")
    address = world.server.getsockname()
    world.server.close()
    players[0].sendto(b"two", world.door)
    world.relay.step(2)
    world.relay.step(0.2)  # the refusal
    world.server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    world.server.bind(address)
    world.server.settimeout(2)
    world.arrives(players[0], b"three")


def test_there_is_a_limit(
    world: World, players: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert PLAYERS > 1
    monkeypatch.setattr(relay, "PLAYERS", 1)
    world.arrives(players[0], b"one")
    players[1].sendto(b"two", world.door)
    world.relay.step(2)
    assert world.relay.players == [players[0].getsockname()]


def test_how_to_join() -> None:
    said = invitation(["192.0.2.7"], 27960)
    assert "openarena +connect 192.0.2.7:27960\n" in said
    assert "openarena +connect 127.0.0.1:27960 " in said
    assert "com_protocol 71" in said
    assert "/connect 127.0.0.1:27960" in invitation([])
