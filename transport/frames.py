"""One frame of the stream: a header of fixed size, then the payload, compressed where it pays.

    magic 2 | kind 1 | flags 1 | stream 2 | stored length 4 | raw length 4 | checksum 8

All numbers are in network order. The checksum is xxh3_64 of the raw payload, seeded with kind,
flags, stream and stored length: so it vouches for the header too, at no cost.

What is read here comes from another host and is taken as hostile: no length is believed before it
has been held against `MAX_PAYLOAD`.
"""

from __future__ import annotations

import struct
import threading
from dataclasses import dataclass

import xxhash
import zstandard

from transport.errors import StreamCorrupt

Buffer = bytes | bytearray | memoryview

MAX_PAYLOAD = 8 * 1024 * 1024
"""The most that one frame carries, in bytes before compression."""

_HEADER = struct.Struct("!2sBBHIIQ")
HEADER_SIZE = _HEADER.size
"""Bytes of a header."""

_MAGIC = b"mG"
_ZSTD = 1
_LEVEL = 1  # 400 MB/s a core and more; higher levels are slower than the networks we run on
_WORTH_TRYING = 256  # below, a zstd header eats what compression wins
_SAMPLE_FROM = 64 * 1024  # smaller payloads are tried whole
_SAMPLE_PIECES, _SAMPLE_PIECE = 8, 2048
_SAMPLE_RATIO = 0.95


@dataclass(frozen=True)
class Header:
    """A header that has been checked: the lengths are within the limit and fit each other."""

    kind: int
    flags: int
    stream: int
    stored: int
    raw: int
    checksum: int


@dataclass(frozen=True)
class Frame:
    """What one frame carried. `kind` (0-255) and `stream` (0-65535) mean what the caller says."""

    kind: int
    stream: int
    payload: bytes


class _Contexts(threading.local):
    """zstd contexts: costly to make (level 1: 1 MB), and not to be shared between threads."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=_LEVEL)
        # Without a limit a frame of a few bytes may ask for a window of 128 MiB.
        self.decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_PAYLOAD)


_contexts = _Contexts()


def encode(
    kind: int, payload: Buffer, stream: int = 0, *, compress: bool = True
) -> tuple[bytes, Buffer]:
    """Make a frame: its header, and the payload as it is to be sent after it.

    `payload` is at most `MAX_PAYLOAD` bytes; it is not copied when it is sent as it is. Safe to
    call from many threads. Raises `ValueError` for a payload, kind or stream out of range.
    """
    view = memoryview(payload)
    view = view if view.format == "B" and view.ndim == 1 else view.cast("B")
    raw = len(view)
    if raw > MAX_PAYLOAD:
        raise ValueError(f"a payload of {raw} bytes is over the limit of {MAX_PAYLOAD}")
    if not (0 <= kind <= 0xFF and 0 <= stream <= 0xFFFF):
        raise ValueError(f"kind {kind} or stream {stream} does not fit the header")
    flags = 0
    stored: Buffer = view
    if compress and raw > _WORTH_TRYING and _looks_compressible(view):
        smaller = _contexts.compressor.compress(view)
        if len(smaller) < raw:
            flags, stored = _ZSTD, smaller
    size = len(stored)
    checksum = _checksum(view, kind, flags, stream, size)
    return _HEADER.pack(_MAGIC, kind, flags, stream, size, raw, checksum), stored


def decode_header(data: Buffer) -> Header:
    """Read the first `HEADER_SIZE` bytes of a frame; `.stored` bytes of payload follow them.

    Raises `StreamCorrupt` for what no `encode` made. The checksum is looked at with the payload.
    """
    magic, kind, flags, stream, stored, raw, checksum = _HEADER.unpack(data)
    if magic != _MAGIC:
        raise StreamCorrupt(f"the stream has {magic!r} where a frame should begin")
    if flags & ~_ZSTD:
        raise StreamCorrupt(f"a frame has flags ({flags:#x}) that this version does not know")
    if raw > MAX_PAYLOAD:
        raise StreamCorrupt(f"a frame claims {raw} bytes, over the limit of {MAX_PAYLOAD}")
    if not (0 < stored < raw if flags & _ZSTD else stored == raw):
        raise StreamCorrupt(f"a frame claims {stored} bytes to be {raw} (flags {flags:#x})")
    return Header(kind, flags, stream, stored, raw, checksum)


def decode_payload(header: Header, stored: Buffer) -> Frame:
    """Give the frame whose payload came as `stored` (`header.stored` bytes).

    Raises `StreamCorrupt` when it does not decompress to exactly `header.raw` bytes, or when the
    checksum differs.
    """
    payload = _decompress(header, stored) if header.flags & _ZSTD else bytes(stored)
    if len(payload) != header.raw:
        raise StreamCorrupt(f"a frame of {header.raw} bytes came with {len(payload)}")
    expected = _checksum(payload, header.kind, header.flags, header.stream, header.stored)
    if header.checksum != expected:
        raise StreamCorrupt(f"a frame of {header.raw} bytes has the wrong checksum")
    return Frame(header.kind, header.stream, payload)


def _checksum(payload: Buffer, kind: int, flags: int, stream: int, stored: int) -> int:
    seed = kind << 56 | flags << 48 | stream << 32 | stored
    return xxhash.xxh3_64_intdigest(payload, seed=seed)


def _decompress(header: Header, stored: Buffer) -> bytes:
    try:
        # python-zstandard allocates what the frame itself declares, whatever max_output_size says:
        # so the declaration is checked first. Our encoder always writes it.
        if zstandard.frame_content_size(stored) != header.raw:
            raise StreamCorrupt("a compressed frame does not declare the size of its header")
        return _contexts.decompressor.decompress(stored, max_output_size=header.raw)
    except zstandard.ZstdError as error:
        raise StreamCorrupt(f"a compressed frame cannot be decompressed: {error}") from error


def _looks_compressible(view: memoryview) -> bool:
    """Whether a few pieces from all over the payload shrink: 16 KiB tell, at 2 % of the cost."""
    if len(view) < _SAMPLE_FROM:
        return True
    step = (len(view) - _SAMPLE_PIECE) // (_SAMPLE_PIECES - 1)
    sample = b"".join(view[i * step : i * step + _SAMPLE_PIECE] for i in range(_SAMPLE_PIECES))
    return len(_contexts.compressor.compress(sample)) < _SAMPLE_RATIO * len(sample)
