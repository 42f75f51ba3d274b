"""migrate.caller_link: stdin and stdout as a link that can be cut, whoever hangs in it."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from migrate.agent_link import CALLER, link_to
from migrate.caller_link import CallerLink, Streams
from migrate.errors import ProtocolMismatch
from migrate.messages import Greeting, Hello
from migrate.protocol import MESSAGE, PROTOCOL_VERSION, decode_request, send
from tests.unit.migrate.fleet import FACTS
from transport.channel import Channel
from transport.errors import ConnectionLost, HostUnreachable

Ends = tuple[Streams, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        # One descriptor for both ways, as sshd may give it: O_NONBLOCK is then for both.
        yield Streams(ours.fileno(), ours.fileno()), theirs


def test_bytes_go_both_ways(ends: Ends) -> None:
    streams, far = ends
    far.sendall(b"hello")
    buffer = memoryview(bytearray(10))
    assert streams.readinto(buffer, 5) == 5
    streams.write(b"x" * 100)
    assert far.recv(200) == b"x" * 100


def test_nothing_comes_in_time(ends: Ends) -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        ends[0].readinto(memoryview(bytearray(1)), 0.3)
    assert 0.25 < time.monotonic() - began < 20


def test_the_end_is_seen(ends: Ends) -> None:
    streams, far = ends
    far.close()
    assert streams.readinto(memoryview(bytearray(1)), 5) == 0
    with pytest.raises(ConnectionLost):
        streams.write(b"x" * 1000)


def test_a_write_that_nobody_reads_waits_and_can_be_cut(ends: Ends) -> None:
    streams, _ = ends
    timer = threading.Timer(0.3, streams.cut)
    timer.start()
    with pytest.raises(ConnectionLost, match="cut"):
        streams.write(bytes(64 << 20))
    timer.join()


def test_a_large_write_arrives_whole(ends: Ends) -> None:
    streams, far = ends
    data = os.urandom(4 << 20)
    thread = threading.Thread(target=streams.write, args=(data,))
    thread.start()
    got = bytearray()
    while len(got) < len(data):
        got += far.recv(1 << 20)
    thread.join()
    assert bytes(got) == data


def test_a_read_can_be_cut(ends: Ends) -> None:
    timer = threading.Timer(0.3, ends[0].cut)
    timer.start()
    began = time.monotonic()
    with pytest.raises(ConnectionLost, match="cut"):
        ends[0].readinto(memoryview(bytearray(1)), 60)
    assert time.monotonic() - began < 30
    timer.join()


@pytest.mark.parametrize("version", [PROTOCOL_VERSION, PROTOCOL_VERSION + 1])
def test_greetings(ends: Ends, version: int) -> None:
    streams, far = ends

    def answer() -> None:
        with Channel.over_fds(far.fileno(), far.fileno()) as channel:
            frame = channel.receive(5)
            assert frame.kind == MESSAGE
            assert isinstance(decode_request(frame.payload), Hello)
            send(channel, Greeting(protocol=version, version="x", facts=FACTS, host_id="me"))

    thread = threading.Thread(target=answer)
    thread.start()
    link = CallerLink(streams, "a")
    try:
        if version == PROTOCOL_VERSION:
            with link as entered:
                assert entered.greet().host_id == "me"
        else:
            with pytest.raises(ProtocolMismatch, match="a speaks"):
                link.greet()
    finally:
        link.channel.close()
        thread.join()


def test_a_peer_that_has_fetched_is_not_called() -> None:
    """Its name may mean another host, or none: it has to come by itself."""
    with pytest.raises(HostUnreachable, match="must come again") as raised:
        link_to(CALLER + "hosta")
    assert "migrate return" in raised.value.remedy
    assert "hosta" in raised.value.remedy
