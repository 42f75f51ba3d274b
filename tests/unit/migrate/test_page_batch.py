"""migrate.page_batch: what is encoded comes back; anything else is StreamCorrupt, and only that."""

from __future__ import annotations

import os
import random

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from migrate.page_batch import (
    CACHED,
    COPY,
    DIGEST,
    LITERAL,
    MAX_BATCH_PAGES,
    MAX_PAGE,
    PAGE,
    ZERO,
    PageRun,
    decode,
    digest,
    encode,
)
from transport.errors import StreamCorrupt

numbers = st.integers(1, (1 << 31) - 1)
pages = st.integers(0, MAX_PAGE - 8)
counts = st.integers(1, 8)
runs = st.lists(
    st.one_of(
        st.builds(PageRun, numbers, pages, st.integers(1, 8), st.just(ZERO)),
        st.builds(PageRun, numbers, pages, counts, st.sampled_from([LITERAL, CACHED])),
        st.builds(PageRun, numbers, pages, counts, st.just(COPY), numbers, pages),
    ),
    max_size=12,
)


def parts(batch: list[PageRun], seed: int) -> tuple[bytes, bytes]:
    """Digests and literals that fit; the literals now random, now all alike."""
    rng = random.Random(seed)
    literal = sum(run.count for run in batch if run.kind == LITERAL)
    known = sum(run.count for run in batch if run.kind in (COPY, CACHED))
    content = [
        rng.randbytes(PAGE) if rng.random() < 0.5 else bytes([rng.randrange(256)]) * PAGE
        for _ in range(literal)
    ]
    return rng.randbytes(known * DIGEST), b"".join(content)


@given(batch=runs, seed=st.integers(0, 99))
def test_a_batch_comes_back(batch: list[PageRun], seed: int) -> None:
    digests, literals = parts(batch, seed)
    found = decode(encode(batch, digests, literals))
    assert found.runs == batch
    assert found.digests == digests
    assert found.size == len(literals)
    assert bytes(found.literals) == literals


@given(batch=runs, seed=st.integers(0, 99), data=st.data())
def test_a_mutated_batch_is_refused_or_sane(
    batch: list[PageRun], seed: int, data: st.DataObject
) -> None:
    digests, literals = parts(batch, seed)
    payload = bytearray(encode(batch, digests, literals))
    for _ in range(data.draw(st.integers(1, 4))):
        # Mostly at the beginning: there the runs are.
        at = data.draw(st.integers(0, min(len(payload), 200) - 1))
        payload[at] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del payload[data.draw(st.integers(0, len(payload) - 1)) :]
    try:
        found = decode(payload)
    except StreamCorrupt:
        return
    literal = sum(run.count for run in found.runs if run.kind == LITERAL)
    known = sum(run.count for run in found.runs if run.kind in (COPY, CACHED))
    assert len(found.literals) == found.size == literal * PAGE
    assert len(found.digests) == known * DIGEST
    assert all(r.page >= 0 and r.count > 0 and r.page + r.count <= MAX_PAGE for r in found.runs)
    assert all(r.from_page + r.count <= MAX_PAGE for r in found.runs if r.kind == COPY)


@given(st.binary(max_size=300))
def test_noise_is_refused(payload: bytes) -> None:
    with pytest.raises(StreamCorrupt):
        decode(payload)


def test_nesting_is_refused() -> None:
    with pytest.raises(StreamCorrupt):
        decode(b"\x91" * 100_000)


@pytest.mark.parametrize(
    "run",
    [
        PageRun(0, 0, 1, ZERO), PageRun(-1, 0, 1, ZERO), PageRun(1, -1, 1, ZERO),
        PageRun(1, 0, 0, ZERO), PageRun(1, 0, -1, LITERAL), PageRun(1, MAX_PAGE, 1, ZERO),
        PageRun(1, 1, MAX_PAGE, ZERO), PageRun(1, 0, 1, 4), PageRun(1, 0, 1, -1),
        PageRun(1, 0, 1, COPY), PageRun(1, 0, 1, COPY, 1, MAX_PAGE), PageRun(1, 0, 1, COPY, 1, -1),
        PageRun(1, 0, 1, ZERO, 1), PageRun(1, 0, 1, CACHED, 0, 1), PageRun(1, 0, 1, LITERAL, 1),
    ],
)  # fmt: skip
def test_impossible_runs(run: PageRun) -> None:
    count = max(run.count, 0)
    digests = bytes(DIGEST * count) if run.kind in (COPY, CACHED) else b""
    with pytest.raises(StreamCorrupt, match="impossible run"):
        decode(encode([run], digests, bytes(PAGE * count) if run.kind == LITERAL else b""))


def test_too_many_pages() -> None:
    half = MAX_BATCH_PAGES // 2
    literals = bytes(half * PAGE)
    enough = [PageRun(1, 0, half, LITERAL), PageRun(1, 9999, half, CACHED)]
    decode(encode(enough, bytes(half * DIGEST), literals))
    more = [*enough, PageRun(1, 99999, 1, CACHED)]
    with pytest.raises(StreamCorrupt, match="over 1024"):
        decode(encode(more, bytes((half + 1) * DIGEST), literals))


def test_zero_runs_may_be_long() -> None:
    run = PageRun(1, 0, MAX_PAGE, ZERO)
    assert decode(encode([run], b"", b"")).runs == [run]


def wire(size: int, literals: bytes, count: int = 1) -> bytes:
    return msgspec.msgpack.encode(([PageRun(1, 0, count, LITERAL)], b"", size, literals))


@pytest.mark.parametrize(
    "literals",
    [
        b"", b"x", zstandard.compress(bytes(PAGE - 1)), zstandard.compress(bytes(PAGE + 1)),
        zstandard.compress(bytes(PAGE)) + b"x", zstandard.compress(bytes(PAGE))[:-1],
        zstandard.compress(bytes(1 << 30)), bytes(PAGE + 1),
        zstandard.ZstdCompressor(write_content_size=False).compress(bytes(PAGE)),
        zstandard.compress(bytes(PAGE)) * 2,
    ],
    ids=[
        "none", "no zstd", "short", "long", "tail", "cut", "bomb", "plain, long", "no size", "twice"
    ],
)  # fmt: skip
def test_literals_of_another_size(literals: bytes) -> None:
    with pytest.raises(StreamCorrupt):
        decode(wire(PAGE, literals))


def test_a_size_that_does_not_fit_the_runs() -> None:
    with pytest.raises(StreamCorrupt):
        decode(wire(2 * PAGE, bytes(2 * PAGE)))


def test_random_content_is_not_compressed_and_not_copied() -> None:
    content = os.urandom(64 * PAGE)
    payload = encode([PageRun(1, 0, 64, LITERAL)], b"", content)
    assert len(payload) < len(content) + 64
    found = decode(payload).literals
    assert isinstance(found, memoryview)
    assert found.obj is payload


def test_content_that_shrinks_is_compressed() -> None:
    content = b"all the same " * 315 * 64
    content = content[: 48 * PAGE]
    assert len(encode([PageRun(1, 0, 48, LITERAL)], b"", content)) < len(content) // 10


def test_digests_depend_on_the_seed() -> None:
    page = os.urandom(PAGE)
    assert digest(page, 1) == digest(bytearray(page), 1)
    assert digest(page, 1) != digest(page, 2)
    assert len(digest(page, 1)) == DIGEST
