"""migrate.address_spaces: PageMap, on ourselves: which pages hold content of their own."""

from __future__ import annotations

import array
import ctypes
import errno
import mmap
import os
import random
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate import address_spaces
from migrate.address_spaces import (
    PageMap,
    tracks_writes,
)
from migrate.page_batch import PAGE
from tests.unit.migrate.guinea_pig import GuineaPig


class Own:
    """Anonymous memory of this process."""

    def __init__(self, pages: int, flags: int = mmap.MAP_PRIVATE) -> None:
        self.map = mmap.mmap(-1, pages * PAGE, flags=flags | mmap.MAP_ANONYMOUS | NORESERVE)
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            self.map.madvise(mmap.MADV_NOHUGEPAGE)
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        self.end = self.start + pages * PAGE

    def write(self, *pages: int) -> None:
        for page in pages:
            self.map[page * PAGE] = 1

    def pages(self, ranges: Iterator[tuple[int, int]]) -> list[int]:
        found: list[int] = []
        for begin, end in ranges:
            assert self.start <= begin < end <= self.end
            found += range((begin - self.start) // PAGE, (end - self.start) // PAGE)
        assert found == sorted(set(found))
        return found


NORESERVE = 0x4000  # mman.h


@pytest.fixture(params=["scan", "entries"])
def pagemap(request: pytest.FixtureRequest) -> Iterator[PageMap]:
    made = PageMap(os.getpid())
    made._scan = request.param == "scan"
    yield made
    made.close()


def test_pages_that_were_written_and_no_others(pagemap: PageMap) -> None:
    own = Own(300)
    written = sorted(random.Random(1).sample(range(300), 90))
    own.write(*written)
    assert own.pages(pagemap.populated(own.start, own.end, shared=False)) == written
    some = [page for page in written if 10 <= page < 200]
    found = pagemap.populated(own.start + 10 * PAGE, own.start + 200 * PAGE, shared=False)
    assert own.pages(found) == some


def test_both_ways_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address_spaces, "ENTRIES", 64)  # many reads
    monkeypatch.setattr(address_spaces, "SCAN_REGIONS", 3)  # many calls
    own = Own(1000)
    own.write(*random.Random(2).sample(range(1000), 400), 0, 63, 64, 65, 999)
    pagemap = PageMap(os.getpid())
    scanned = list(pagemap._by_scan(own.start, own.end, False, False))
    listed = list(pagemap._by_entries(own.start, own.end, False, False))
    pagemap.close()
    assert own.pages(iter(scanned)) == own.pages(iter(listed))
    # Neighbours that one call ends between may come as two.
    assert len(listed) <= len(scanned)


def test_the_zero_page_is_no_content(pagemap: PageMap) -> None:
    own = Own(8)
    assert own.map[3 * PAGE] == 0  # a read fault
    own.write(5)
    # Its entry in pagemap is like any other's: only the scan tells.
    expected = [5] if pagemap._scan else [3, 5]
    assert own.pages(pagemap.populated(own.start, own.end, shared=False)) == expected


def test_what_was_given_back_is_a_hole(pagemap: PageMap) -> None:
    own = Own(8)
    own.write(*range(8))
    own.map.madvise(mmap.MADV_DONTNEED, 2 * PAGE, 3 * PAGE)
    found = own.pages(pagemap.populated(own.start, own.end, shared=False))
    assert found == [0, 1, 5, 6, 7]


def test_shared_pages_only_when_they_are_asked_for(pagemap: PageMap) -> None:
    own = Own(8, mmap.MAP_SHARED)
    own.write(1, 6)
    assert own.pages(pagemap.populated(own.start, own.end, shared=True)) == [1, 6]
    assert own.pages(pagemap.populated(own.start, own.end, shared=False)) == []


def test_of_a_private_file_only_what_was_written(pagemap: PageMap, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 8 * PAGE)
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=3)
    assert bytes(mapped).count(b"x") == 8 * PAGE  # all of it is in memory
    mapped[4 * PAGE] = 1
    start = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
    found = list(pagemap.populated(start, start + 8 * PAGE, shared=False))
    assert found == [(start + 4 * PAGE, start + 5 * PAGE)]


def test_a_sparse_mapping_takes_little_time(pagemap: PageMap) -> None:
    own = Own((64 << 30) // PAGE)
    last = (64 << 30) // PAGE - 1
    own.write(0, 70_000, last)
    with open("/proc/self/pagemap", "rb", buffering=0) as file:
        begun = time.process_time()
        for at in range(own.start, own.end, address_spaces.ENTRIES * PAGE):
            os.pread(file.fileno(), 8 * address_spaces.ENTRIES, at // PAGE * 8).strip(b"\0")
        looking = time.process_time() - begun
    begun = time.process_time()
    assert own.pages(pagemap.populated(own.start, own.end, shared=False)) == [0, 70_000, last]
    # A loop over its 16 million entries takes five times as long as one look at all the bytes.
    assert time.process_time() - begun < (0.5 if pagemap._scan else 2.5) * looking + 0.1


def test_a_kernel_without_the_scan_is_asked_in_the_other_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []

    def refuse(*_: object) -> int:
        calls.append(1)
        raise OSError(errno.ENOTTY, "no such ioctl")

    monkeypatch.setattr("fcntl.ioctl", refuse)
    own = Own(8)
    own.write(2)
    pagemap = PageMap(os.getpid())
    for _ in range(2):
        assert own.pages(pagemap.populated(own.start, own.end, shared=False)) == [2]
    assert len(calls) == 1
    pagemap.close()


@pytest.mark.parametrize("scan", [True, False])
def test_a_process_that_has_ended(scan: bool) -> None:
    with GuineaPig(16 * PAGE) as pig:
        pig.put(0, *[b"x"] * 16)
        pagemap = PageMap(pig.pid)
        pagemap._scan = scan
        assert list(pagemap.populated(pig.address, pig.address + 16 * PAGE, shared=False))
    with pytest.raises(ProcessLookupError):
        list(pagemap.populated(pig.address, pig.address + 16 * PAGE, shared=False))
    pagemap.close()


class Entries:
    """pagemap as it would be on another kernel: the pages that were written to are soft-dirty."""

    def __init__(self, entries: list[int]) -> None:
        self.data = array.array("Q", entries).tobytes()

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        return self.data[offset : offset + size]


@given(entries=st.lists(st.sampled_from(range(16)), min_size=1, max_size=64), written=st.booleans(),
       shared=st.booleans())  # fmt: skip
def test_entries_by_their_bits(entries: list[int], written: bool, shared: bool) -> None:
    bits = (
        address_spaces.PRESENT, address_spaces.SWAPPED, address_spaces.FILE,
        address_spaces.SOFT_DIRTY,
    )  # fmt: skip
    words = [sum(bit for i, bit in enumerate(bits) if entry >> i & 1) for entry in entries]
    expected = [
        page
        for page, entry in enumerate(entries)
        if entry & 3 and (shared or not entry & 4) and (not written or entry & 8)
    ]
    pagemap = PageMap(os.getpid())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(address_spaces, "ENTRIES", 7)
        patch.setattr("migrate.address_spaces.os.pread", Entries(words).pread)
        found = list(pagemap._by_entries(0, len(words) * PAGE, shared, written))
    pagemap.close()
    assert [p for begin, end in found for p in range(begin // PAGE, end // PAGE)] == expected
    assert all(found[i][1] < found[i + 1][0] for i in range(len(found) - 1))


def test_whether_writes_are_tracked(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Own(1)
    own.write(0)
    with open("/proc/self/pagemap", "rb", buffering=0) as file:
        file.seek(own.start // PAGE * 8)
        (entry,) = struct.unpack("Q", file.read(8))
    assert tracks_writes() == bool(entry >> 55 & 1)
    monkeypatch.setattr(address_spaces, "SOFT_DIRTY", address_spaces.PRESENT)
    assert tracks_writes()
