"""What of the memory is new to the destination: the comparison with what was sent before.

Runs in the scanner processes (migrate/scanner.py). Memory is hashed in areas of 1 MiB, at memory
speed; the blocks of 64 KiB of an area only when the area has changed, and the pages of a block only
when the block has: what Python does per block would cost more than reading it. So is what the
destination has elsewhere: all that a forked child has of its parent is found an area at a time.
Nothing of the content is kept here but digests (about 0.6 % of the memory).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass

import xxhash

from migrate.page_batch import CACHED, COPY, DIGEST, LITERAL, PAGE, ZERO, PageRun, digest, encode

BLOCK_PAGES = 16
BLOCK = BLOCK_PAGES * PAGE
AREA_BLOCKS = 16
AREA_PAGES = AREA_BLOCKS * BLOCK_PAGES
AREA = AREA_BLOCKS * BLOCK
FULL_AREA = (1 << AREA_PAGES) - 1
BATCH_LITERALS = 256  # pages of content that travel in one batch
BATCH_RUNS = 512
# Entries of the index of contents, about 130 bytes each; what is beyond is sent as it is.
MAX_INDEX = 2 << 20


@dataclass
class Tally:
    """Pages of one round by what became of them. `sent`: bytes of the batches."""

    scanned: int = 0
    dirty: int = 0
    zero: int = 0
    duplicate: int = 0
    cached: int = 0
    literal: int = 0
    sent: int = 0


class Batch:
    """Collects runs of pages until they are worth sending."""

    def __init__(self, emit: Callable[[bytes], None]) -> None:
        self._emit = emit
        self.sent = 0
        self._clear()

    def _clear(self) -> None:
        self._runs: list[PageRun] = []
        self._digests: list[bytes] = []
        self._literals: list[bytes] = []
        self._pages = 0
        # The run that may still grow: object, page, count, kind, from_object, from_page.
        self._last: list[int] | None = None

    def add(
        self, number: int, page: int, kind: int, content: bytes = b"", known: bytes = b"",
        from_object: int = 0, from_page: int = 0,
    ) -> None:  # fmt: skip
        """One page. `content` of a literal, `known`: the digest of the others."""
        last = self._last
        if (
            last
            and last[0] == number
            and last[3] == kind
            and last[1] + last[2] == page
            and (kind != COPY or self._continues(last, from_object, from_page))
        ):
            last[2] += 1
        else:
            self._close_run()
            self._last = [number, page, 1, kind, from_object, from_page]
        if kind == LITERAL:
            self._literals.append(content)
        elif kind != ZERO:
            self._digests.append(known)
        if kind != ZERO:
            self._pages += 1
        if self._pages >= BATCH_LITERALS or len(self._runs) >= BATCH_RUNS:
            self.flush()

    def copy(self, number: int, page: int, known: bytes, from_object: int, from_page: int) -> None:
        """Pages that are elsewhere at the destination, apart from these. `known`: their digests."""
        count = len(known) // DIGEST
        if self._pages + count > BATCH_LITERALS:
            self.flush()
        last = self._last
        if (
            last
            and (last[0], last[3], last[1] + last[2]) == (number, COPY, page)
            and self._continues(last, from_object, from_page, count)
        ):
            last[2] += count
        else:
            self._close_run()
            self._last = [number, page, count, COPY, from_object, from_page]
        self._digests.append(known)
        self._pages += count
        if self._pages >= BATCH_LITERALS or len(self._runs) >= BATCH_RUNS:
            self.flush()

    @staticmethod
    def _continues(last: list[int], from_object: int, from_page: int, more: int = 1) -> bool:
        """Whether a run of copies goes on there, without reading what it writes itself."""
        number, page, count, _, from_number, begin = last
        apart = number != from_number or abs(page - begin) >= count + more
        return apart and from_object == from_number and from_page == begin + count

    def _close_run(self) -> None:
        if self._last:
            self._runs.append(PageRun(*self._last))
            self._last = None

    def flush(self) -> None:
        """Send what is there."""
        self._close_run()
        if self._runs:
            payload = encode(self._runs, b"".join(self._digests), b"".join(self._literals))
            self.sent += len(payload)
            self._emit(payload)
            self._clear()


class Comparer:
    """Knows what the destination has, and sends what differs.

    `seed`: of the session's digests; `cached`: digests of pages that the destination's cache has.
    """

    def __init__(
        self, seed: int, emit: Callable[[bytes], None], cached: Container[bytes] = ()
    ) -> None:
        self.seed = seed
        self.cached = cached
        self.tally = Tally()
        self._batch = Batch(emit)
        self._zero = digest(bytes(PAGE), seed)
        self._zero_block = xxhash.xxh3_128_digest(bytes(BLOCK), seed=seed)
        # object -> block number -> digest of the block (b"" when not all of it was seen at once),
        # digests of its pages, which of them the destination has
        self._known: dict[int, dict[int, tuple[bytes, bytes, int]]] = {}
        # object -> area number -> digest of the area, of which the destination has every page
        self._areas: dict[int, dict[int, bytes]] = {}
        # object -> area number -> which of its pages were read in this round
        self._seen: dict[int, dict[int, int]] = {}
        self._places: dict[bytes, tuple[int, int]] = {}  # of pages
        # Digest of an area or a block -> object and first block. An entry may be out of date.
        self._pieces: dict[bytes, tuple[int, int]] = {}

    def begin(self) -> None:
        """A new round: nothing is seen yet."""
        self.tally = Tally()
        self._batch.sent = 0
        self._seen = {}

    def end(self) -> Tally:
        """Send the rest of the round; gives what became of its pages."""
        self._batch.flush()
        self.tally.sent = self._batch.sent
        return self.tally

    def forget(self, number: int) -> None:
        """An address space has gone."""
        self._known.pop(number, None)
        self._areas.pop(number, None)
        self._seen.pop(number, None)

    # -- scanning --------------------------------------------------------------------------------

    def pages(self, number: int, page: int, content: memoryview) -> None:
        """Some pages, from `page` on, which lie within one area."""
        count = len(content) // PAGE
        area, first = divmod(page, AREA_PAGES)
        self.tally.scanned += count
        seen = self._seen.setdefault(number, {})
        areas = self._areas.setdefault(number, {})
        if count == AREA_PAGES:
            seen[area] = FULL_AREA
            now = xxhash.xxh3_128_digest(content, seed=self.seed)
            if areas.get(area) == now:
                return
            if not self._copied(number, page // BLOCK_PAGES, AREA_BLOCKS, now):
                self._blocks(number, page, content)
            areas[area] = now
            return
        seen[area] = seen.get(area, 0) | ((1 << count) - 1) << first
        if self._blocks(number, page, content):
            areas.pop(area, None)

    def _blocks(self, number: int, page: int, content: memoryview) -> bool:
        """Compare block by block; gives whether any differs."""
        known = self._known.setdefault(number, {})
        changed = False
        at = 0
        while at < len(content):
            block, first = divmod(page, BLOCK_PAGES)
            piece = content[at : at + (BLOCK_PAGES - first) * PAGE]
            at += len(piece)
            page += len(piece) // PAGE
            before = known.get(block)
            whole = b""
            if len(piece) == BLOCK:
                whole = xxhash.xxh3_128_digest(piece, seed=self.seed)
                if before and before[0] == whole:
                    continue
                if not before and self._copied(number, block, 1, whole):
                    changed = True
                    continue
            dirty = self.tally.dirty
            self._pages(number, block, first, piece, whole, before)
            changed |= self.tally.dirty != dirty
        return changed

    def _copied(self, number: int, block: int, count: int, whole: bytes) -> bool:
        """Whether `count` blocks, of which none was seen before, and which have the digest `whole`
        together, are elsewhere at the destination, and were sent as a copy of that."""
        known = self._known.setdefault(number, {})
        if any(one in known for one in range(block, block + count)):
            return False
        place = self._pieces.get(whole)
        entries = self._entries(place, count, whole) if place else []
        if not entries:
            if place or len(self._pieces) < MAX_INDEX:
                self._pieces[whole] = number, block
            return False
        assert place
        digests = b"".join([entry[1] for entry in entries])
        if self._zero in digests:  # which take no space there, unless they are copied
            return False
        self._batch.copy(
            number, block * BLOCK_PAGES, digests, place[0], place[1] * BLOCK_PAGES
        )  # fmt: skip
        known.update(zip(range(block, block + count), entries, strict=True))
        self.tally.dirty += count * BLOCK_PAGES
        self.tally.duplicate += count * BLOCK_PAGES
        return True

    def _entries(
        self, place: tuple[int, int], count: int, whole: bytes
    ) -> list[tuple[bytes, bytes, int]]:
        """What is known of the blocks from `place` on, when they still have that digest there."""
        number, block = place
        known = self._known.get(number, {})
        if count > 1:
            area = self._areas.get(number, {}).get(block // AREA_BLOCKS)
            return [known[block + i] for i in range(count)] if area == whole else []
        entry = known.get(block)
        return [entry] if entry and entry[0] == whole else []

    def _pages(
        self, number: int, block: int, first: int, content: memoryview, whole: bytes,
        before: tuple[bytes, bytes, int] | None,
    ) -> None:  # fmt: skip
        """Compare page by page; note and send what differs."""
        seed, xxh = self.seed, xxhash.xxh3_128_digest
        count = len(content) // PAGE
        if whole and whole == self._zero_block:
            digests = [self._zero] * count
        else:
            digests = [xxh(content[i : i + PAGE], seed=seed) for i in range(0, count * PAGE, PAGE)]
        old, mask = (before[1], before[2]) if before else (bytes(DIGEST * BLOCK_PAGES), 0)
        # While it is being overwritten, nothing may be copied from it.
        self._known[number].pop(block, None)
        for i, found in enumerate(digests, first):
            if not mask >> i & 1 or old[DIGEST * i : DIGEST * (i + 1)] != found:
                self._send(number, block, i, found, content[(i - first) * PAGE :][:PAGE])
        new = b"".join(digests)
        mask |= ((1 << count) - 1) << first
        if count != BLOCK_PAGES:
            new = old[: DIGEST * first] + new + old[DIGEST * (first + count) :]
            # The digest of the block stays unknown until it is seen as a whole; unless nothing
            # has changed.
            whole = before[0] if before and before[1] == new else b""
        self._known[number][block] = (whole, new, mask)

    def _send(self, number: int, block: int, i: int, found: bytes, content: memoryview) -> None:
        tally = self.tally
        tally.dirty += 1
        page = block * BLOCK_PAGES + i
        if found == self._zero:
            tally.zero += 1
            self._batch.add(number, page, ZERO)
            return
        place = self._places.get(found)
        if place and self._has(place, found):
            tally.duplicate += 1
            self._batch.add(
                number, page, COPY, known=found, from_object=place[0], from_page=place[1]
            )
            return
        if len(self._places) < MAX_INDEX:
            self._places[found] = (number, page)
        if found in self.cached:
            tally.cached += 1
            self._batch.add(number, page, CACHED, known=found)
        else:
            tally.literal += 1
            self._batch.add(number, page, LITERAL, content=bytes(content))

    def _has(self, place: tuple[int, int], found: bytes) -> bool:
        """Whether the destination still has that content there: it may be overwritten meanwhile."""
        block, i = divmod(place[1], BLOCK_PAGES)
        known = self._known.get(place[0], {}).get(block)
        return bool(
            known and known[2] >> i & 1 and known[1][DIGEST * i : DIGEST * (i + 1)] == found
        )

    # -- what the final dump asks for ----------------------------------------------------------

    def unseen(self, number: int, page: int, count: int) -> Iterator[tuple[int, int]]:
        """The pages of that range that were not read in this round: (page, count), within areas.

        The final dump's list of pages is the truth: what was not read while frozen must be.
        """
        seen = self._seen.get(number, {})
        return _gaps(seen.get, page, count)

    def missing(self, number: int, page: int, count: int) -> Iterator[tuple[int, int]]:
        """The pages of that range that the destination was never given."""
        known = self._known.get(number, {})
        areas = self._areas.get(number, {})

        def mask(area: int, default: int) -> int:
            if area in areas:
                return FULL_AREA
            found = default
            for i in range(AREA_BLOCKS):
                if entry := known.get(area * AREA_BLOCKS + i):
                    found |= entry[2] << i * BLOCK_PAGES
            return found

        return _gaps(mask, page, count)


def _gaps(mask: Callable[[int, int], int], page: int, count: int) -> Iterator[tuple[int, int]]:
    """What lacks in a range. `mask`: the pages of an area that do not, given its number and 0."""
    end = page + count
    while page < end:
        area, first = divmod(page, AREA_PAGES)
        last = min(end - area * AREA_PAGES, AREA_PAGES)
        lacking = ~mask(area, 0) & ((1 << last) - 1) & ~((1 << first) - 1)
        while lacking:
            begin = (lacking & -lacking).bit_length() - 1
            rest = lacking >> begin
            length = (~rest & (rest + 1)).bit_length() - 1
            yield area * AREA_PAGES + begin, length
            lacking &= ~(((1 << length) - 1) << begin)
        page = area * AREA_PAGES + last


def mine(block: int, worker: int, workers: int) -> bool:
    """Whether this worker compares that block: stripes of 32 MiB, so that the processes that share
    pages copy-on-write (the same addresses) come to the same worker, which then sees duplicates."""
    return (block >> 9) % workers == worker


def stripes(page: int, count: int, worker: int, workers: int) -> Iterable[tuple[int, int]]:
    """The parts of a range of pages that are this worker's: (page, count)."""
    if workers == 1:
        yield page, count
        return
    stripe = BLOCK_PAGES << 9
    end = page + count
    while page < end:
        upto = min(end, (page // stripe + 1) * stripe)
        if mine(page // BLOCK_PAGES, worker, workers):
            yield page, upto - page
        page = upto
