"""migrate.address_spaces: what there is to read, on real processes and made-up ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.address_spaces import (
    Mapping,
    Objects,
    Region,
    container_pids,
    inner_pid,
    parse_maps,
    pid_level,
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
