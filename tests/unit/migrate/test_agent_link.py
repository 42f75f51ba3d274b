"""migrate.agent_link: a channel that can be interrupted between frames, and only there."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from migrate.agent_link import InterruptibleChannel
from migrate.errors import Interrupted
from transport.channel import Channel


@pytest.fixture
def ends() -> Iterator[tuple[InterruptibleChannel, Channel]]:
    here_read, there_write = os.pipe()
    there_read, here_write = os.pipe()
    here = InterruptibleChannel.over_fds(here_read, here_write)
    there = Channel.over_fds(there_read, there_write)
    yield here, there
    for channel in (here, there):
        channel.close()
    for fd in (here_read, here_write, there_read, there_write):
        os.close(fd)


def test_frames_pass_both_ways(ends: tuple[InterruptibleChannel, Channel]) -> None:
    here, there = ends
    here.send(1, b"there")
    assert there.receive(5).payload == b"there"
    there.send(2, b"back")
    assert here.receive(5).payload == b"back"


def test_a_wait_ends_when_it_is_interrupted(ends: tuple[InterruptibleChannel, Channel]) -> None:
    here, there = ends
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise Interrupted("enough")

    here.check = check
    threading.Timer(0.1, stop.set).start()
    begun = time.monotonic()
    with pytest.raises(Interrupted):
        here.receive(60)
    assert time.monotonic() - begun < 20
    with pytest.raises(Interrupted):
        here.send(1, b"x")
    # Nothing is half sent: the channel is as good as before.
    stop.clear()
    here.send(1, b"whole")
    assert there.receive(5).payload == b"whole"


def test_a_wait_has_its_end(ends: tuple[InterruptibleChannel, Channel]) -> None:
    with pytest.raises(TimeoutError):
        ends[0].receive(0.3)
