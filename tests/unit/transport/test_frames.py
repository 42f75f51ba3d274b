"""transport.frames: what was sent comes out, or StreamCorrupt."""

import random
import struct
from dataclasses import replace

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from transport import frames
from transport.errors import StreamCorrupt
from transport.frames import HEADER_SIZE, MAX_PAYLOAD, Buffer, Frame

_kinds = st.integers(0, 255)
_streams = st.integers(0, 65535)
# Both sorts: what compresses and what does not.
_payloads = st.binary(max_size=2000) | st.builds(
    lambda piece, times: piece * times, st.binary(min_size=1, max_size=50), st.integers(1, 100)
)


def wire(kind: int, payload: Buffer, stream: int = 0, compress: bool = True) -> bytes:
    header, stored = frames.encode(kind, payload, stream, compress=compress)
    return header + stored


def decode(data: bytes) -> Frame:
    header = frames.decode_header(data[:HEADER_SIZE])
    return frames.decode_payload(header, data[HEADER_SIZE : HEADER_SIZE + header.stored])


@given(_kinds, _payloads, _streams, st.booleans())
def test_roundtrip(kind: int, payload: bytes, stream: int, compress: bool) -> None:
    data = wire(kind, payload, stream, compress)
    assert decode(data) == Frame(kind, stream, payload)
    assert len(data) <= HEADER_SIZE + len(payload)


@given(_kinds, _payloads, _streams, st.booleans(), st.data())
def test_a_flipped_bit_never_gives_another_frame(
    kind: int, payload: bytes, stream: int, compress: bool, data: st.DataObject
) -> None:
    good = wire(kind, payload, stream, compress)
    position = data.draw(st.integers(0, 8 * len(good) - 1))
    bad = bytearray(good)
    bad[position // 8] ^= 1 << position % 8
    # zstd leaves a few bits unused: flipped there, the payload is still the right one. Everywhere
    # else, and in all of the header, a flipped bit must be seen.
    compressed = frames.decode_header(good[:HEADER_SIZE]).flags != 0
    if compressed and position >= 8 * HEADER_SIZE:
        try:
            assert decode(bytes(bad)) == Frame(kind, stream, payload)
        except StreamCorrupt:
            return
    else:
        with pytest.raises(StreamCorrupt):
            decode(bytes(bad))


@given(_payloads.filter(bool), st.booleans(), st.data())
def test_a_shortened_payload_is_detected(
    payload: bytes, compress: bool, data: st.DataObject
) -> None:
    good = wire(1, payload, compress=compress)
    end = data.draw(st.integers(HEADER_SIZE, len(good) - 1))
    with pytest.raises(StreamCorrupt):
        decode(good[:end])


@given(st.binary(min_size=HEADER_SIZE, max_size=HEADER_SIZE))
def test_no_header_promises_more_than_the_limit(data: bytes) -> None:
    for hostile in (data, wire(1, b"")[:2] + data[2:]):  # also with the right magic
        try:
            header = frames.decode_header(hostile)
        except StreamCorrupt:
            continue
        assert header.stored <= header.raw <= MAX_PAYLOAD


@pytest.mark.parametrize(
    ("flags", "stored", "raw"),
    [
        (2, 10, 10),  # a flag of the future
        (0, MAX_PAYLOAD + 1, MAX_PAYLOAD + 1),
        (1, 10, MAX_PAYLOAD + 1),
        (0, 10, 11),
        (1, 11, 11),  # compressed, and not smaller
        (1, 0, 11),
    ],
)
def test_headers_that_do_not_fit_are_refused(flags: int, stored: int, raw: int) -> None:
    magic = wire(1, b"")[:2]
    with pytest.raises(StreamCorrupt):
        frames.decode_header(magic + struct.pack("!BBHIIQ", 1, flags, 0, stored, raw, 0))


def bomb(raw: int, stored: bytes) -> tuple[frames.Header, bytes]:
    good = frames.decode_header(wire(1, b"x" * 1000)[:HEADER_SIZE])
    return replace(good, raw=raw, stored=len(stored)), stored


def test_a_bomb_is_not_unpacked() -> None:
    huge = zstandard.ZstdCompressor().compress(bytes(64 * MAX_PAYLOAD // 8))
    for raw in (1000, MAX_PAYLOAD):
        with pytest.raises(StreamCorrupt, match="declare"):
            frames.decode_payload(*bomb(raw, huge))


def test_a_bomb_that_declares_no_size_is_not_unpacked() -> None:
    quiet = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(MAX_PAYLOAD * 2))
    with pytest.raises(StreamCorrupt, match="declare"):
        frames.decode_payload(*bomb(1000, quiet))


def test_a_frame_that_lies_about_its_size_is_refused() -> None:
    packed = bytearray(zstandard.ZstdCompressor().compress(bytes(300)))
    assert zstandard.frame_content_size(bytes(packed)) == 300
    packed[5] += 1  # the declared size: 2 bytes, less 256, behind magic and descriptor
    assert zstandard.frame_content_size(bytes(packed)) == 301
    with pytest.raises(StreamCorrupt):
        frames.decode_payload(*bomb(301, bytes(packed)))


def test_compression_is_left_where_it_wins_nothing() -> None:
    noise = random.Random(1).randbytes(1024 * 1024)
    header, stored = frames.encode(1, noise)
    assert frames.decode_header(header).flags == 0
    assert isinstance(stored, memoryview)  # not a copy
    assert stored.obj is noise
    header, stored = frames.encode(1, noise[: len(noise) // 2] + bytes(len(noise) // 2))
    assert len(stored) < 0.6 * len(noise)
    assert len(frames.encode(1, bytes(len(noise)), compress=False)[1]) == len(noise)


def test_arguments_out_of_range_are_the_callers_fault() -> None:
    for kind, size, stream in ((256, 0, 0), (-1, 0, 0), (1, MAX_PAYLOAD + 1, 0), (1, 0, 65536)):
        with pytest.raises(ValueError):
            frames.encode(kind, bytes(size), stream)


def test_the_largest_payload_and_views_of_other_types_fit() -> None:
    assert decode(wire(1, bytes(MAX_PAYLOAD))).payload == bytes(MAX_PAYLOAD)
    numbers = memoryview(bytearray(range(8))).cast("I")
    assert decode(wire(1, numbers)).payload == bytes(range(8))
