"""One batch of memory pages as it crosses the wire: the codec (docs/memory.md, "The page stream").

Pure: bytes to structs and back. Whatever `decode` lets through adds up in itself; whether the
objects exist and the digests fit is for the page store to say.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final

import msgspec
import xxhash
import zstandard

from transport.errors import StreamCorrupt

Buffer = bytes | bytearray | memoryview

PAGE: Final = 4096
"""Bytes of a page. Larger pages of the kernel's are several of these."""
MAX_BATCH_PAGES: Final = 1024
"""The most pages of a batch, those of ZERO runs not counted: they carry no data."""
DIGEST: Final = 16
"""Bytes of a digest (xxh3_128)."""
MAX_PAGE: Final = 1 << 40
"""Page numbers are below: 52 bits of address, the most that x86 and arm64 give to a process."""

ZERO, LITERAL, COPY, CACHED = range(4)

_LEVEL = 1  # FACTS.md: 1.2 GB/s on random data; higher levels are slower than the networks
_WORTH = 0.95  # what shrinks by less is sent as it is
_SAMPLE_STEP, _SAMPLE_PIECE = 16 << 10, 1 << 10


class PageRun(msgspec.Struct, array_like=True, frozen=True, gc=False, forbid_unknown_fields=True):
    """`count` pages from `page` on (a number: address / 4096) of `object`, the store's number.

    `kind`: ZERO: they are all zero. LITERAL: they are the next ones in the batch's `literals`.
    COPY: they are as the pages from `from_page` on of `from_object` are at the destination when
    all runs before this one are done. CACHED: each is in the cache, under its digest.
    """

    object: int
    page: int
    count: int
    kind: int
    from_object: int = 0
    from_page: int = 0


class PageBatch(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """`runs` are carried out in their order.

    `digests`: 16 bytes for each page of the COPY and CACHED runs, in order. `size`: bytes of all
    LITERAL pages; `literals`: these, in order: on the wire one zstd frame, or as they are when
    that is `size` bytes long. What `decode` gives is never compressed.
    """

    runs: list[PageRun]
    digests: bytes
    size: int
    literals: bytes | memoryview


class _Contexts(threading.local):
    """zstd contexts: costly to make, and not to be shared between threads."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=_LEVEL)
        # Without a limit a frame of a few bytes may ask for a window of 128 MiB.
        self.decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_BATCH_PAGES * PAGE)


_contexts = _Contexts()
_encoder = msgspec.msgpack.Encoder()


class _Wire(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A PageBatch before it is checked. A memoryview is not copied out of the payload."""

    runs: list[PageRun]
    digests: bytes
    size: int
    literals: memoryview


_decoder = msgspec.msgpack.Decoder(_Wire)


def digest(page: Buffer, seed: int) -> bytes:
    """The digest of one page. `seed`: of the session, 64 bits, known to the two hosts only."""
    return xxhash.xxh3_128_digest(page, seed=seed)


def encode(
    runs: Sequence[PageRun],
    digests: Buffer,
    literals: Buffer,
    compressor: zstandard.ZstdCompressor | None = None,
) -> bytes:
    """The payload of a frame; send it with `compress=False`.

    `literals`: the pages of the LITERAL runs, joined. `compressor`: one that only this thread
    uses; without it one of this thread is used. The caller sees that it all adds up.
    """
    size = len(literals)
    stored: Buffer = literals
    if size:
        compressor = compressor or _contexts.compressor
        if _shrinks(literals, compressor):
            smaller = compressor.compress(literals)
            if len(smaller) < _WORTH * size:
                stored = smaller
    return _encoder.encode((runs, digests, size, stored))


def _shrinks(literals: Buffer, compressor: zstandard.ZstdCompressor) -> bool:
    """Whether a sixteenth of it, taken from everywhere, does: trying all takes 1 ms per MiB."""
    if len(literals) < 4 * _SAMPLE_STEP:
        return True
    view = memoryview(literals)
    starts = range(0, len(view), _SAMPLE_STEP)
    sample = b"".join([view[at : at + _SAMPLE_PIECE] for at in starts])
    return len(compressor.compress(sample)) < _WORTH * len(sample)


def decode(payload: Buffer) -> PageBatch:
    """Raises StreamCorrupt for whatever no `encode` of a sane batch made."""
    try:
        wire = _decoder.decode(payload)
    # ValidationError is a DecodeError; RecursionError is not.
    except (msgspec.DecodeError, RecursionError) as problem:
        raise StreamCorrupt(f"a batch of pages cannot be read: {problem}") from problem
    literal, digested = _counts(wire.runs)
    if wire.size != literal * PAGE:
        raise StreamCorrupt(f"a batch claims {wire.size} bytes for {literal} pages")
    if len(wire.digests) != digested * DIGEST:
        raise StreamCorrupt(
            f"a batch has {len(wire.digests)} bytes of digests for {digested} pages"
        )
    # msgspec before 0.20 gives views whose `shape` is the message's; `nbytes` is right, and so is
    # a slice.
    literals: bytes | memoryview = wire.literals[: wire.literals.nbytes]
    if len(literals) != wire.size:
        literals = _decompress(literals, wire.size)
    return PageBatch(wire.runs, wire.digests, wire.size, literals)


def _counts(runs: list[PageRun]) -> tuple[int, int]:
    """Check the runs; gives how many pages are literal, and how many have a digest."""
    literal = digested = 0
    for run in runs:
        kind, count = run.kind, run.count
        if not (0 < count <= MAX_PAGE and 0 <= run.page <= MAX_PAGE - count and run.object > 0):
            raise StreamCorrupt(f"a batch has an impossible run: {run}")
        if kind == COPY:
            if not (0 <= run.from_page <= MAX_PAGE - count and run.from_object > 0):
                raise StreamCorrupt(f"a batch has an impossible run: {run}")
            digested += count
        elif run.from_object or run.from_page or not ZERO <= kind <= CACHED:
            raise StreamCorrupt(f"a batch has an impossible run: {run}")
        elif kind == LITERAL:
            literal += count
        elif kind == CACHED:
            digested += count
    if literal + digested > MAX_BATCH_PAGES:
        raise StreamCorrupt(f"a batch of {literal + digested} pages, over {MAX_BATCH_PAGES}")
    return literal, digested


def _decompress(stored: Buffer, size: int) -> bytes:
    try:
        # python-zstandard allocates what the frame declares, whatever max_output_size says: so
        # the declaration is checked first. Our encoder always writes it.
        if zstandard.frame_content_size(stored) != size:
            raise StreamCorrupt("the pages of a batch are of another size than it says")
        content = _contexts.decompressor.decompress(
            stored, max_output_size=size, allow_extra_data=False
        )
    except zstandard.ZstdError as problem:
        raise StreamCorrupt(f"the pages of a batch cannot be decompressed: {problem}") from problem
    if len(content) != size:
        raise StreamCorrupt("the pages of a batch are of another size than it says")
    return content
