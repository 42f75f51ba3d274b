"""transport.channel: over pipes, with another end that is slow, silent, gone or hostile."""

import contextlib
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transport.channel import Channel, _FdStreams
from transport.errors import ConnectionLost, StreamCorrupt
from transport.frames import HEADER_SIZE, Buffer, encode


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """Reading and writing end; both are closed in the end, if they are not yet."""
    ends = os.pipe()
    try:
        yield ends
    finally:
        for fd in ends:
            close_quietly(fd)


def close_quietly(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        return


@contextmanager
def pair(heartbeat: float = 2.0, silence: float = 15.0) -> Iterator[tuple[Channel, Channel]]:
    with (
        pipe() as (a_in, b_out),
        pipe() as (b_in, a_out),
        Channel.over_fds(a_in, a_out, heartbeat=heartbeat, silence=silence) as a,
        Channel.over_fds(b_in, b_out, heartbeat=heartbeat, silence=silence) as b,
    ):
        yield a, b


@contextmanager
def listener(heartbeat: float = 60.0, silence: float = 15.0) -> Iterator[tuple[Channel, int]]:
    """A channel, and the descriptor by which a test feeds it any bytes."""
    with (
        pipe() as (read_fd, feed),
        pipe() as (_, write_fd),
        Channel.over_fds(read_fd, write_fd, heartbeat=heartbeat, silence=silence) as channel,
    ):
        yield channel, feed


def in_thread(
    channel: Channel, *payloads: bytes, kind: int = 1, stream: int = 0
) -> threading.Thread:
    """Send them in a thread that has been started."""

    def send() -> None:
        for payload in payloads:
            channel.send(kind, payload, stream, compress=False)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread


def frame(payload: bytes, kind: int = 1) -> bytes:
    header, stored = encode(kind, payload)
    return header + stored


def test_frames_arrive_whole_in_order_and_counted() -> None:
    with pair() as (a, b):
        payloads = [b"", b"x", bytes(5000), random.Random(2).randbytes(3_000_000)]
        sender = in_thread(a, *payloads, kind=7, stream=300)
        received = [b.receive(10) for _ in payloads]
        sender.join()
        assert [(f.kind, f.stream, f.payload) for f in received] == [(7, 300, p) for p in payloads]
        assert a.sent_raw == b.received_raw == 3_005_001
        assert a.sent_wire == b.received_wire
        assert a.sent_wire == 3_005_001 + len(payloads) * HEADER_SIZE


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=8), st.data())
def test_frames_arrive_however_the_bytes_are_cut(
    payloads: list[bytes], data: st.DataObject
) -> None:
    wire = b"".join(frame(p) for p in payloads)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=10)))
    pieces = [wire[i:j] for i, j in zip([0, *cuts], [*cuts, len(wire)], strict=True)]

    class Pieces:
        def readinto(self, buffer: memoryview, timeout: float) -> int:
            while pieces and not pieces[0]:
                del pieces[0]
                raise TimeoutError  # a pause at each cut
            count = min(len(buffer), len(pieces[0])) if pieces else 0
            buffer[:count] = pieces[0][:count] if pieces else b""
            if pieces:
                pieces[0] = pieces[0][count:]
            return count

    def discard(data: Buffer) -> None:
        pass

    with Channel(Pieces(), discard, heartbeat=60) as channel:
        assert [channel.receive().payload for _ in payloads] == payloads
        with pytest.raises(ConnectionLost, match="between two frames"):
            channel.receive()


def test_many_threads_send_without_mixing_their_frames() -> None:
    with pair(heartbeat=0.01) as (a, b):
        noise = [bytes([n]) * 100_000 for n in range(8)]
        threads = [in_thread(a, *[p] * 20) for p in noise]
        received = [b.receive(10).payload for _ in range(8 * 20)]
        for thread in threads:
            thread.join()
        assert sorted(received) == sorted(noise * 20)


def test_heartbeats_keep_a_quiet_connection_and_receive_skips_them() -> None:
    # Silence is longer than this process may be without a CPU.
    with pair(heartbeat=0.05, silence=1.0) as (a, b):
        with pytest.raises(TimeoutError):
            b.receive(1.6)
        assert b.received_wire > 0
        assert b.received_raw == 0
        a.send(1, b"still there")
        assert b.receive(10).payload == b"still there"


def test_silence_is_noticed() -> None:
    with listener(silence=0.2) as (channel, _):
        begun = time.monotonic()
        with pytest.raises(ConnectionLost, match=r"nothing came .* for 0\.2 s"):
            channel.receive()
        assert 0.2 <= time.monotonic() - begun < 20


def test_a_program_that_is_just_being_started_has_more_time() -> None:
    """On a slow host Python alone takes longer than a link may be silent."""
    with (
        pipe() as (read_fd, feed),
        pipe() as (_, write_fd),
        Channel(_FdStreams(read_fd, write_fd), lambda _: None, silence=0.2, start=3.0) as channel,
    ):
        with pytest.raises(TimeoutError):
            channel.receive(0.6)
        os.write(feed, frame(b"x"))
        assert channel.receive(10).payload == b"x"
        with pytest.raises(ConnectionLost, match=r"for 0\.2 s"):
            channel.receive(10)
    with listener(silence=0.2) as (channel, _), pytest.raises(ConnectionLost, match=r"for 0\.2 s"):
        channel.receive(10)


def test_silence_adds_up_over_short_receives_but_not_over_pauses() -> None:
    with listener(silence=1.0) as (channel, feed):
        time.sleep(1.1)  # nobody received: nothing was missed
        with pytest.raises(TimeoutError):
            channel.receive(0.1)
        os.write(feed, frame(b"x"))
        assert channel.receive(10).payload == b"x"

        def receive_often() -> None:
            for _ in range(20):
                with pytest.raises(TimeoutError):
                    channel.receive(0.1)

        with pytest.raises(ConnectionLost):
            receive_often()


def test_a_frame_that_comes_slowly_is_not_silence() -> None:
    wire = frame(b"x")
    with listener(silence=1.0) as (channel, feed):
        for piece in (wire[:5], wire[5:15], wire[15:22]):
            os.write(feed, piece)
            with pytest.raises(TimeoutError):
                channel.receive(0.4)
        os.write(feed, wire[22:])
        assert channel.receive(10).payload == b"x"


def test_a_timeout_in_the_middle_of_a_frame_loses_nothing() -> None:
    wire = frame(b"one frame")
    with listener() as (channel, feed):
        for cut in (3, 25):  # in the header, in the payload
            os.write(feed, wire[:cut])
            with pytest.raises(TimeoutError):
                channel.receive(0.05)
            os.write(feed, wire[cut:])
            assert channel.receive(10).payload == b"one frame"
        with pytest.raises(TimeoutError):
            channel.receive(0)


def test_a_flood_of_heartbeats_does_not_hold_receive_up() -> None:
    beats = frame(b"", kind=0) * 100
    stop = threading.Event()
    with listener() as (channel, feed):
        os.set_blocking(feed, False)

        def flood() -> None:
            while not stop.is_set():
                with contextlib.suppress(BlockingIOError):
                    os.write(feed, beats)

        thread = threading.Thread(target=flood)
        thread.start()
        try:
            with pytest.raises(TimeoutError):
                channel.receive(0.2)
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize(
    ("cut", "where"), [(0, "between two"), (5, "middle of"), (22, "middle of"), (24, "middle of")]
)
def test_the_end_of_the_stream_says_where(cut: int, where: str) -> None:
    with listener() as (channel, feed):
        os.write(feed, frame(b"hello")[:cut])
        os.close(feed)
        for _ in range(2):  # and again, for whoever asks again
            with pytest.raises(ConnectionLost, match=where):
                channel.receive(1)


def test_after_a_corrupt_frame_nothing_is_believed() -> None:
    with listener() as (channel, feed):
        os.write(feed, b"SSH-2.0-OpenSSH, not a frame at all" + frame(b"x"))
        for _ in range(2):
            with pytest.raises(StreamCorrupt):
                channel.receive(1)


def test_a_closed_reader_is_connection_lost_for_the_sender() -> None:
    with pipe() as (read_fd, write_fd), Channel.over_fds(read_fd, write_fd) as channel:
        os.close(read_fd)
        for _ in range(2):
            with pytest.raises(ConnectionLost, match="Broken pipe"):
                channel.send(1, b"x")


def test_after_half_a_frame_nothing_more_is_sent() -> None:
    written: list[bytes] = []

    def write(data: Buffer) -> None:
        written.append(bytes(data))
        if len(written) == 2:
            raise ConnectionLost("in the middle")

    class Nothing:
        def readinto(self, buffer: memoryview, timeout: float) -> int:
            return 0

    with Channel(Nothing(), write, heartbeat=0.05) as channel:
        with pytest.raises(ConnectionLost):
            channel.send(1, random.Random(1).randbytes(100_000))
        with pytest.raises(ConnectionLost):
            channel.send(1, b"would be read as the rest of the payload")
        time.sleep(0.2)
    assert len(written) == 2


def test_a_peer_that_does_not_read_holds_sends_up_but_nothing_breaks() -> None:
    with pair(heartbeat=0.05) as (a, b):
        noise = random.Random(3).randbytes(4_000_000)
        sender = in_thread(a, noise)
        time.sleep(0.5)  # heartbeats have come due meanwhile
        assert sender.is_alive()
        assert b.receive(30).payload == noise
        sender.join(30)
        assert not sender.is_alive()
        a.send(1, b"next")
        assert b.receive(5).payload == b"next"


def test_descriptors_that_do_not_block_work_as_well() -> None:
    with pipe() as (read_fd, write_fd), Channel.over_fds(read_fd, write_fd) as itself:
        os.set_blocking(read_fd, False)
        os.set_blocking(write_fd, False)
        noise = random.Random(4).randbytes(4_000_000)
        sender = in_thread(itself, noise)
        assert itself.receive(30).payload == noise
        sender.join()


def test_close_stops_the_heartbeats() -> None:
    with pair(heartbeat=0.02) as (a, b):
        with pytest.raises(TimeoutError):
            b.receive(0.6)
        a.close()
        sent = a.sent_wire
        assert sent > 0
        time.sleep(0.1)
        assert a.sent_wire == sent


def test_kind_0_is_not_for_callers() -> None:
    with pair() as (a, _), pytest.raises(ValueError):
        a.send(0, b"")
