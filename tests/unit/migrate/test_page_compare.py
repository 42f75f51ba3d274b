"""migrate.page_compare: whatever is written between and during the rounds, the destination has
what was read last."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate import page_compare
from migrate.page_batch import (
    CACHED,
    COPY,
    LITERAL,
    MAX_BATCH_PAGES,
    PAGE,
    ZERO,
    PageBatch,
    decode,
    digest,
)
from migrate.page_compare import AREA_PAGES, BLOCK_PAGES, Batch, Comparer, Tally, mine, stripes
from tests.unit.migrate.store_lab import SEED, Lab, store_lab

PAGES = AREA_PAGES + 3 * BLOCK_PAGES  # of each object
CACHED_CONTENT = (7, 8)


def page_of(content: int) -> bytes:
    """A page for each number; 0 is the page of zeros."""
    return content.to_bytes(8, "little") * (PAGE // 8)


class Pair:
    """A comparer, and the page store that gets its batches."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        for content in CACHED_CONTENT:
            lab.cache[digest(page_of(content), SEED)] = page_of(content)
        self.batches: list[PageBatch] = []
        self.comparer = Comparer(SEED, self._emit, set(lab.cache))

    def _emit(self, payload: bytes) -> None:
        self.batches.append(decode(payload))
        self.lab.store.apply(payload)

    def announce(self, *numbers: int) -> None:
        for number in numbers:
            self.lab.store.announce(number, str(number))

    def scan(self, number: int, content: list[int], first: int = 0) -> None:
        """Give these pages to the comparer, from page `first` on, as ProcessMemory does."""
        page, data = first, memoryview(b"".join(page_of(each) for each in content))
        while data:
            count = AREA_PAGES - page % AREA_PAGES
            self.comparer.pages(number, page, data[: count * PAGE])
            data, page = data[count * PAGE :], page + count

    def round(self, *scans: tuple[int, list[int], int]) -> Tally:
        self.comparer.begin()
        self.batches.clear()
        for number, content, first in scans:
            self.scan(number, content, first)
        return self.comparer.end()

    def has(self, number: int, content: list[int], first: int = 0) -> None:
        self.has_all(number, dict(enumerate(content, first)))

    def has_all(self, number: int, pages: dict[int, int]) -> None:
        for page, each in pages.items():
            assert self.lab.page(number, page) == page_of(each), f"page {page} of {number}"

    def kinds(self) -> list[tuple[int, int]]:
        """The runs of the last round: (kind, pages)."""
        return [(run.kind, run.count) for batch in self.batches for run in batch.runs]


@pytest.fixture
def pair() -> Iterator[Pair]:
    with store_lab() as lab:
        made = Pair(lab)
        made.announce(1, 2)
        yield made


# -- the model ------------------------------------------------------------------------------------

contents = st.integers(0, 9)
edges = st.sampled_from([0, BLOCK_PAGES, AREA_PAGES - 1, AREA_PAGES])
lengths = st.one_of(st.integers(1, PAGES), st.sampled_from([1, BLOCK_PAGES, AREA_PAGES]))
spans = st.tuples(st.one_of(st.integers(0, PAGES - 1), edges), lengths)
writes = st.lists(st.tuples(st.sampled_from([1, 2]), spans, contents), max_size=12)
targets = st.one_of(st.integers(0, PAGES - 1), edges)
moves = st.lists(
    st.tuples(st.sampled_from([1, 2]), spans, st.sampled_from([1, 2]), targets), max_size=3
)
scanned = st.lists(st.tuples(st.sampled_from([1, 2]), spans), min_size=1, max_size=6)
rounds = st.lists(st.tuples(writes, moves, scanned, st.booleans()), min_size=1, max_size=5)


every = set(range(PAGES))


def pages_in(ranges: Iterable[tuple[int, int]]) -> set[int]:
    pages = [page for first, count in ranges for page in range(first, first + count)]
    assert pages == sorted(set(pages))
    return set(pages)


@settings(deadline=None, max_examples=150)
@given(rounds=rounds, seed=st.integers(0, 1 << 32), zeros=st.booleans())
def test_the_destination_has_what_was_read(rounds: list[Any], seed: int, zeros: bool) -> None:
    chance = random.Random(seed)
    content = range(10) if zeros else range(1, 10)  # without, whole areas are copied
    memory = {number: chance.choices(content, k=PAGES) for number in (1, 2)}
    with store_lab() as lab:
        pair = Pair(lab)
        pair.announce(1, 2)
        numbers = {1: 1, 2: 2}
        given: dict[int, dict[int, int]] = {1: {}, 2: {}}
        for write, move, scan, gone in rounds:
            for which, (first, count), content in write:
                last = min(first + count, PAGES)
                memory[which][first:last] = [content] * (last - first)
            for which, (first, count), target, to in move:
                moved = memory[which][first : first + count]
                last = min(to + len(moved), PAGES)
                memory[target][to:last] = moved[: last - to]
            pair.comparer.begin()
            seen: dict[int, set[int]] = {1: set(), 2: set()}
            for which, (first, count) in scan:
                last = min(first + count, PAGES)
                pair.scan(numbers[which], memory[which][first:last], first)
                given[which].update(enumerate(memory[which][first:last], first))
                seen[which].update(range(first, last))
            tally = pair.comparer.end()
            assert tally.dirty == tally.zero + tally.duplicate + tally.cached + tally.literal
            for which, number in numbers.items():
                pair.has_all(number, given[which])
                assert pages_in(pair.comparer.unseen(number, 0, PAGES)) == every - seen[which]
                assert pages_in(pair.comparer.missing(number, 0, PAGES)) == every - set(
                    given[which]
                )
            if gone:  # the process ends; another one has the same content, and a number of its own
                pair.comparer.forget(numbers[2])
                lab.store.drop([numbers[2]])
                numbers[2] += 1
                lab.store.announce(numbers[2], "2")
                given[2] = {}


@settings(deadline=None, max_examples=60)
@given(
    shift=st.integers(-PAGES, PAGES),
    seed=st.integers(0, 1 << 32),
)
def test_memory_that_moves_along(shift: int, seed: int) -> None:
    """Pages whose source is overwritten in the same round."""
    content = random.Random(seed).choices(range(10, 41), k=PAGES)
    with store_lab() as lab:
        pair = Pair(lab)
        pair.announce(1)
        pair.round((1, content, 0))
        turn = shift % PAGES
        moved = content[turn:] + content[:turn]
        pair.round((1, moved, 0))
        pair.has(1, moved)


# -- what a page becomes --------------------------------------------------------------------------


def test_the_second_round_sends_what_has_changed(pair: Pair) -> None:
    content = list(range(100, 100 + PAGES))
    first = pair.round((1, content, 0))
    assert (first.scanned, first.dirty, first.literal) == (PAGES, PAGES, PAGES)
    assert first.sent > PAGES
    second = pair.round((1, content, 0))
    assert vars(second) == vars(Tally(scanned=PAGES))
    content[17] = 5
    third = pair.round((1, content, 0))
    assert (third.dirty, third.literal) == (1, 1)
    assert pair.kinds() == [(LITERAL, 1)]
    pair.has(1, content)


def test_zeros_are_told_as_such_and_once(pair: Pair) -> None:
    tally = pair.round((1, [0] * PAGES, 0))
    assert (tally.zero, tally.dirty) == (PAGES, PAGES)
    assert pair.kinds() == [(ZERO, PAGES)]
    assert pair.round((1, [0] * PAGES, 0)).dirty == 0
    pair.round((1, [3], 5))
    assert pair.round((1, [0] * PAGES, 0)).zero == 1
    pair.has(1, [0] * PAGES)


def test_what_is_there_already_is_copied(pair: Pair) -> None:
    count = 3 * BLOCK_PAGES
    content = list(range(100, 100 + count))
    tally = pair.round((1, content, 0), (2, content, 0))
    assert (tally.literal, tally.duplicate) == (count, count)
    assert pair.kinds() == [(LITERAL, count), (COPY, count)]
    pair.has(2, content)


def test_all_that_a_forked_child_has_is_copied_by_the_area(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = list(range(100, 100 + 2 * AREA_PAGES))
    pair.round((1, content, 0))
    content[AREA_PAGES + 5] = 9  # the child has written there
    page_by_page: list[int] = []
    send = pair.comparer._send

    def one_page(number: int, block: int, i: int, *rest: Any) -> None:
        page_by_page.append(i)
        send(number, block, i, *rest)

    monkeypatch.setattr(pair.comparer, "_send", one_page)
    tally = pair.round((2, content, 0))
    assert (tally.dirty, tally.literal) == (2 * AREA_PAGES, 1)
    assert len(page_by_page) == BLOCK_PAGES  # of the one block in which it has
    pair.has(2, content)
    pair.has(1, content[:AREA_PAGES])
    assert pair.round((2, content, 0), (1, content[:AREA_PAGES], 0)).dirty == 0
    # A child of the child, when nobody else has it any more.
    pair.comparer.forget(1)
    pair.lab.store.drop([1])
    pair.announce(3)
    tally = pair.round((3, content, 0))
    assert tally.duplicate >= AREA_PAGES
    pair.has(3, content)


def test_an_area_is_not_copied_from_where_it_was(pair: Pair) -> None:
    content = list(range(100, 100 + AREA_PAGES))
    pair.round((1, content, 0))
    pair.round((1, [5], 3))  # no more
    tally = pair.round((2, content, 0))
    assert tally.literal == 1  # the page that is there no more
    pair.has(2, content)
    pair.round((1, content, 0), (2, [6] * AREA_PAGES, 0))
    pair.announce(3)
    pair.round((3, content, 0))
    pair.has(3, content)
    pair.has(2, [6] * AREA_PAGES)


def test_zeros_within_what_is_copied_take_no_space(pair: Pair) -> None:
    content = [0, *range(100, 99 + AREA_PAGES)]
    pair.round((1, content, 0))
    tally = pair.round((2, content, 0))
    assert (tally.zero, tally.duplicate) == (1, AREA_PAGES - 1)
    pair.has(2, content)


def test_no_copy_of_what_is_overwritten(pair: Pair) -> None:
    pair.round((1, [100], 0))
    pair.round((1, [200], 0), (2, [100], 0))
    assert pair.kinds() == [(LITERAL, 1), (LITERAL, 1)]
    pair.has(2, [100])
    pair.round((2, [300], 0), (1, [100], 0))
    pair.has(1, [100])


def test_no_copy_of_what_is_dropped(pair: Pair) -> None:
    pair.round((1, [100], 0))
    pair.comparer.forget(1)
    pair.lab.store.drop([1])
    pair.round((2, [100], 0))
    assert pair.kinds() == [(LITERAL, 1)]
    pair.has(2, [100])


def test_a_process_at_a_number_that_was_forgotten_is_read_anew(pair: Pair) -> None:
    pair.round((1, [100, 101], 0))
    pair.comparer.forget(1)
    assert list(pair.comparer.missing(1, 0, 2)) == [(0, 2)]
    assert pair.round((1, [100, 101], 0)).dirty == 2
    pair.has(1, [100, 101])


def test_the_cache_is_asked(pair: Pair) -> None:
    tally = pair.round((1, [7, 8, 7, 100], 20))
    assert tally.cached == 3
    assert pair.kinds() == [(CACHED, 3), (LITERAL, 1)]
    pair.has(1, [7, 8, 7, 100], 20)


def test_a_block_of_which_parts_were_seen(pair: Pair) -> None:
    content = list(range(100, 100 + BLOCK_PAGES))
    pair.round((1, content[3:9], 3))
    tally = pair.round((1, content, 0))
    assert tally.dirty == BLOCK_PAGES - 6
    assert pair.round((1, content[:2], 0)).dirty == 0
    assert pair.round((1, content, 0)).dirty == 0
    content[4] = 5
    assert pair.round((1, content[4:5], 4)).dirty == 1
    assert pair.round((1, content, 0)).dirty == 0
    pair.has(1, content)


def test_a_page_that_changes_and_changes_back(pair: Pair) -> None:
    """Between the rounds, or in parts of a block: what was read last counts."""
    content = list(range(100, 100 + BLOCK_PAGES))
    pair.round((1, content, 0))
    pair.round((1, [5], 3))
    pair.has(1, [5], 3)
    pair.round((1, content, 0))
    pair.has(1, content)


def test_an_index_that_is_full_costs_bytes_only(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_compare, "MAX_INDEX", 2)
    content = [100, 101, 102, 103]
    tally = pair.round((1, content, 0), (2, content, 0))
    assert (tally.literal, tally.duplicate) == (6, 2)
    pair.has(2, content)


def test_batches_stay_within_what_the_destination_takes(pair: Pair) -> None:
    content = list(range(100, 1500))
    pair.round((1, content, 0), (2, content, 0), (1, [0, 1] * 700, 0))
    for batch in pair.batches:
        pages = [run.count for run in batch.runs if run.kind != ZERO]
        assert 0 < len(batch.runs) <= page_compare.BATCH_RUNS
        assert sum(pages) <= page_compare.BATCH_LITERALS <= MAX_BATCH_PAGES
    pair.has(1, [0, 1] * 700)
    pair.has(2, content)


def test_what_is_collected_is_sent_at_the_end_of_the_round() -> None:
    sent: list[bytes] = []
    batch = Batch(sent.append)
    batch.flush()
    assert sent == []
    batch.add(1, 0, ZERO)
    assert sent == []
    batch.flush()
    batch.flush()
    assert len(sent) == 1
    assert batch.sent == len(sent[0])


def test_a_run_of_copies_never_reads_what_it_writes() -> None:
    """A run is one step (PageRun): its sources are as they were before it."""
    sent: list[bytes] = []
    batch = Batch(sent.append)
    for number, page, source in [(1, 1, 0), (1, 2, 1), (1, 20, 10), (1, 21, 11), (2, 22, 21)]:
        batch.add(number, page, COPY, known=b"d" * 16, from_object=1, from_page=source)
    batch.flush()
    runs = [(run.object, run.page, run.count, run.from_page) for run in decode(sent[0]).runs]
    assert runs == [(1, 1, 1, 0), (1, 2, 1, 1), (1, 20, 2, 10), (2, 22, 1, 21)]


# -- workers --------------------------------------------------------------------------------------


@given(page=st.integers(0, 1 << 36), count=st.integers(1, 1 << 17), workers=st.integers(1, 4))
def test_each_page_is_one_workers(page: int, count: int, workers: int) -> None:
    parts: list[tuple[int, int]] = []
    for worker in range(workers):
        for at, length in stripes(page, count, worker, workers):
            assert length > 0
            assert mine(at // BLOCK_PAGES, worker, workers)
            assert mine((at + length - 1) // BLOCK_PAGES, worker, workers)
            parts.append((at, length))
    at = page
    for begin, length in sorted(parts):
        assert begin == at
        at += length
    assert at == page + count
    # Blocks are never shared: two would compare parts of one.
    assert all(begin % BLOCK_PAGES == 0 or begin == page for begin, _ in parts)
