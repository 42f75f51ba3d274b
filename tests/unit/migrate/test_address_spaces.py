"""migrate.address_spaces: what there is to read, on real processes and made-up ones."""

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
    Mapping,
    Objects,
    PageMap,
    Region,
    container_pids,
    inner_pid,
    parse_maps,
    pid_level,
    tracks_writes,
)
from migrate.page_batch import PAGE
from tests.unit.migrate.guinea_pig import GuineaPig, container

# -- /proc/PID/maps -------------------------------------------------------------------------------

LINES = """\
55d1c0a00000-55d1c0a2a000 r-xp 00002000 fe:00 1837 /usr/bin/sh (deleted)
55d1c1f5e000-55d1c1f7f000 rw-p 00000000 00:00 0                          [heap]
7f0a3c000000-7f0a3c021000 rwxp 00000000 00:00 0
7f0a40000000-7f0a40400000 rw-s 00001000 00:01 2053                       /dev/zero (deleted)
7f0a44000000-7f0a44400000 rw-s 00000000 00:01 2054                       /memfd:a name (deleted)
7f0a48000000-7f0a48001000 rw-s 00000000 00:01 3                          /SYSV00000000 (deleted)
7f0a49000000-7f0a49001000 rw-s 00000000 00:01 77                         [anon_shmem:mine]
7f0a4c000000-7f0a4c400000 rw-s 00000000 fe:00 99                         /var/lib/data
7f0a4d000000-7f0a4d001000 r--p 00000000 00:00 0                          [anon:mine]
7ffd1a000000-7ffd1a021000 rw-p 00000000 00:00 0                          [stack]
7ffd1a1b0000-7ffd1a1b4000 r--p 00000000 00:00 0                          [vvar]
7ffd1a1b4000-7ffd1a1b6000 r--p 00000000 00:00 0                          [vvar_vclock]
7ffd1a1b6000-7ffd1a1b8000 r-xp 00000000 00:00 0                          [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
"""


def test_real_lines() -> None:
    assert parse_maps(LINES) == [
        Mapping(0x55D1C0A00000, 0x55D1C0A2A000, 0x2000, False, 1837, True),
        Mapping(0x55D1C1F5E000, 0x55D1C1F7F000, 0, False, 0, False),
        Mapping(0x7F0A3C000000, 0x7F0A3C021000, 0, False, 0, True),
        Mapping(0x7F0A40000000, 0x7F0A40400000, 0x1000, True, 2053, False),
        Mapping(0x7F0A44000000, 0x7F0A44400000, 0, True, 2054, False),
        Mapping(0x7F0A48000000, 0x7F0A48001000, 0, True, 3, False),
        Mapping(0x7F0A49000000, 0x7F0A49001000, 0, True, 77, False),
        Mapping(0x7F0A4D000000, 0x7F0A4D001000, 0, False, 0, False),
        Mapping(0x7FFD1A000000, 0x7FFD1A021000, 0, False, 0, False),
    ]


addresses = st.integers(0, (1 << 35) - 2).flatmap(
    lambda first: st.tuples(st.just(first), st.integers(first + 1, (1 << 35) - 1))
)


@given(
    pages=addresses, offset=st.integers(0, 1 << 40), inode=st.integers(0, 2**64 - 1),
    read=st.sampled_from("r-"), write=st.sampled_from("w-"), execute=st.sampled_from("x-"),
    name=st.text(st.characters(blacklist_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=20),
)  # fmt: skip
def test_private_lines(
    pages: tuple[int, int], offset: int, inode: int, read: str, write: str, execute: str, name: str
) -> None:
    start, end = (page * PAGE for page in pages)
    offset *= PAGE
    line = f"{start:08x}-{end:08x} {read}{write}{execute}p {offset:08x} fe:00 {inode} /{name}"
    assert parse_maps(line) == [Mapping(start, end, offset, False, inode, execute == "x")]
    assert parse_maps(line.replace("p ", "s ", 1)) == []  # a shared file is not the container's


def test_names_do_not_make_lines() -> None:
    """The kernel writes a line feed in a name as \\012 (fs/proc/task_mmu.c: seq_path)."""
    assert parse_maps("\n\nx\n") == []


# -- processes ------------------------------------------------------------------------------------


def test_processes_of_a_cgroup_and_those_below(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "cgroup.procs").write_text("20\n3\n")
    (tmp_path / "a" / "b" / "cgroup.procs").write_text("100\n3\n")
    (tmp_path / "a" / "cgroup.threads").write_text("7\n")
    assert container_pids(str(tmp_path)) == [3, 20, 100]
    assert container_pids(str(tmp_path / "gone")) == []


@pytest.mark.parametrize(
    ("status", "level", "inner"),
    [
        ("Name:\tx\nNSpid:\t812\n", 0, 812),
        ("Name:\tx\nNSpid:\t812\t1\n", 1, 1),
        ("Name:\tx\nNSpid:\t812\t27\t1\n", 1, 27),  # in a pid namespace within the container's
        ("Name:\tx\nNSpid:\t812\n", 1, 0),
        ("Name:\tx\n", 1, 0),
        ("", 0, 0),
    ],
)
def test_pids_as_seen_in_the_container(status: str, level: int, inner: int) -> None:
    assert inner_pid(status, level) == inner


def test_the_level_is_that_of_init() -> None:
    assert pid_level("NSpid:\t812\n") == 0
    assert pid_level("Name:\tNSpid:\nNSpid:\t812\t1\n") == 1
    assert pid_level("") == 0


class Proc:
    """A made-up /proc."""

    def __init__(self, top: Path) -> None:
        self.top = top

    def process(self, pid: int, inner: str, maps: str) -> None:
        directory = self.top / str(pid)
        directory.mkdir(exist_ok=True)
        (directory / "status").write_text(f"NSpid:\t{pid}\t{inner}\n")
        (directory / "maps").write_text(maps)

    def gone(self, pid: int) -> None:
        (self.top / str(pid) / "maps").unlink()


HEAP = "00001000-00003000 rw-p 00000000 00:00 0 [heap]\n"
CODE = "00008000-00009000 r-xp 00000000 fe:00 5 /bin/sh\n"


def segment(at: int, offset: int, pages: int, inode: int) -> str:
    start = at * PAGE
    return (
        f"{start:08x}-{start + pages * PAGE:08x} rw-s {offset * PAGE:08x} 00:01 {inode} "
        "/dev/zero (deleted)\n"
    )


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    made = Proc(tmp_path)
    made.process(100, "1", HEAP)
    return made


def test_numbers_stay_and_new_ones_are_told_once(proc: Proc) -> None:
    proc.process(101, "7", HEAP + CODE)
    objects = Objects(100, proc.top)
    regions = [
        Region(1, 100, 0x1000, 0x3000, 1, False),
        Region(2, 101, 0x1000, 0x3000, 1, False),
        Region(2, 101, 0x8000, 0x9000, 8, False),
    ]
    assert objects.regions([100, 101], frozen=False) == regions
    assert objects.take_new() == [(1, "1"), (2, "7")]
    assert objects.regions([100, 101], frozen=False) == regions
    assert objects.take_new() == []
    assert objects.take_gone() == []
    assert objects.pids == {"1": 100, "7": 101}


def test_what_has_gone_is_told_once_and_its_number_never_comes_again(proc: Proc) -> None:
    proc.process(101, "7", HEAP + segment(64, 0, 4, 9))
    objects = Objects(100, proc.top)
    objects.regions([100, 101], frozen=False)
    assert objects.take_new() == [(1, "1"), (2, "7"), (3, "shmem-9")]
    proc.gone(101)
    assert {r.object for r in objects.regions([100, 101], frozen=False)} == {1}
    assert objects.take_gone() == [2, 3]
    assert objects.take_gone() == []
    proc.process(105, "7", HEAP)
    objects.regions([100, 105], frozen=False)
    assert objects.take_new() == [(4, "7")]
    assert objects.pids["7"] == 105


def test_what_an_image_directory_has_is_there_too(proc: Proc) -> None:
    objects = Objects(100, proc.top)
    for name in ("1", "7", "shmem-9"):
        objects.number(name)
    objects.saw(["1", "shmem-9"])
    assert objects.take_gone() == [2]


def test_zombies_and_strangers_have_nothing_to_read(proc: Proc) -> None:
    proc.process(101, "7", "")
    proc.process(102, "", HEAP)
    objects = Objects(100, proc.top)
    assert {r.pid for r in objects.regions([100, 101, 102, 103], frozen=False)} == {100}
    assert objects.take_new() == [(1, "1")]


def test_a_segment_is_read_once(proc: Proc) -> None:
    whole, part, other = segment(64, 0, 8, 9), segment(96, 2, 3, 9), segment(96, 6, 4, 9)
    proc.process(100, "1", whole)
    proc.process(101, "2", part)
    proc.process(102, "3", other)
    objects = Objects(100, proc.top)
    found = [r for r in objects.regions([100, 101, 102], frozen=False) if r.shared]
    # What the other one has beyond the end of the first mapping is only to be had there.
    assert [(r.object, r.pid, r.start // PAGE, r.page) for r in found] == [
        (found[0].object, 100, 64, 0), (found[0].object, 102, 96, 6),
    ]  # fmt: skip
    names = dict(objects.take_new())
    assert names[found[0].object] == "shmem-9"


def test_page_numbers_of_segments_are_those_of_the_segment(proc: Proc) -> None:
    proc.process(100, "1", segment(64, 5, 8, 9))
    (region,) = Objects(100, proc.top).regions([100], frozen=False)
    assert (region.page, region.start, region.end) == (5, 64 * PAGE, 72 * PAGE)


def test_frozen_executable_memory_is_left_for_later(proc: Proc) -> None:
    """CRIU executes its own code in it while it dumps."""
    proc.process(100, "1", HEAP + CODE)
    objects = Objects(100, proc.top)
    assert [r.page for r in objects.regions([100], frozen=False)] == [1, 8]
    assert objects.executable == []
    assert [r.page for r in objects.regions([100], frozen=True)] == [1]
    assert objects.executable == [Region(1, 100, 0x8000, 0x9000, 8, False)]


def test_a_real_process(tmp_path: Path) -> None:
    with GuineaPig(64 * PAGE) as pig:
        pig.do("s = mmap.mmap(-1, 8 * PAGE); said = at(s)")
        shared = int(pig.do("said = at(s)"))
        pig.do("x = private(PAGE, prot=7)")
        code = int(pig.do("said = at(x)"))
        pids = container_pids(container(tmp_path, pig.pid, 4_000_000_000))
        objects = Objects(pig.pid)
        regions = objects.regions(pids, frozen=False)
        assert {r.pid for r in regions} == {pig.pid}

        def at(address: int, regions: list[Region]) -> list[Region]:
            return [r for r in regions if r.start <= address < r.end]

        names = dict(objects.take_new())
        (found,) = at(pig.address, regions)
        assert (names[found.object], found.shared) == (str(pig.pid), False)
        assert found.page == found.start // PAGE
        (found,) = at(shared, regions)
        assert names[found.object].startswith("shmem-")
        assert (found.page, found.shared, found.end - found.start) == (0, True, 8 * PAGE)
        assert at(code, regions)
        assert not at(code, objects.regions(pids, frozen=True))
        assert at(code, objects.executable)
    assert objects.regions([pig.pid], frozen=False) == []
    assert len(objects.take_gone()) == len(names)


# -- pagemap --------------------------------------------------------------------------------------


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
            os.pread(file.fileno(), 8 * address_spaces.ENTRIES, at // PAGE * 8)
        reading = time.process_time() - begun
    begun = time.process_time()
    assert own.pages(pagemap.populated(own.start, own.end, shared=False)) == [0, 70_000, last]
    # A loop over its 16 million entries takes more than five times as long as to read them.
    assert time.process_time() - begun < (0.5 if pagemap._scan else 3) * reading + 0.1


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
