"""migrate.address_spaces, scanner: memory that is left out of the frozen scan is read after it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from migrate import scanner
from migrate.address_spaces import Objects, Region
from migrate.page_batch import PAGE
from migrate.process_memory import Sink
from migrate.scanner import Images, Scan, Scanner, Setup

MAPS = """\
10000-12000 rw-p 00000000 00:00 0
20000-22000 rwxp 00000000 00:00 0
30000-32000 rwxs 00000000 00:01 77 /dev/zero (deleted)
"""


def test_executable_memory_comes_later_when_frozen(tmp_path: Path) -> None:
    process = tmp_path / "9"
    process.mkdir()
    (process / "status").write_text("Name:\tx\nNSpid:\t9\t1\n")
    (process / "maps").write_text(MAPS)
    objects = Objects(9, tmp_path)

    def starts(regions: list[Region]) -> list[int]:
        return [region.start for region in regions]

    assert starts(objects.regions([9], frozen=False)) == [0x10000, 0x20000, 0x30000]
    assert objects.later == []
    assert starts(objects.regions([9], frozen=True)) == [0x10000]
    assert starts(objects.later) == [0x20000]
    objects.regions([], frozen=True)
    assert objects.later == []


class FakeMemory:
    """One process; its kernel says that every page was written to."""

    content = bytearray(2 * PAGE)
    asked: ClassVar[list[bool]] = []

    def __init__(self, pid: int, cgroup: str) -> None:
        self.map = self

    def close(self) -> None:
        pass

    def populated(
        self, start: int, end: int, *, shared: bool, written: bool = False
    ) -> Iterator[tuple[int, int]]:
        self.asked.append(written)
        yield start, end

    def read(self, start: int, end: int, page: int, sink: Sink) -> None:
        sink(page, memoryview(bytes(self.content))[: end - start])


def test_what_comes_later_counts_in_the_round_that_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanner, "ProcessMemory", FakeMemory)
    monkeypatch.setattr(FakeMemory, "asked", [])
    plain = Region(1, 9, 0x10000, 0x12000, 0x10, False)
    later = Region(1, 9, 0x20000, 0x22000, 0x20, False)
    one = Scanner(Setup(7, 0, 1, "cgroup"), io.BytesIO())
    one.carry_out(Scan([plain, later]))
    assert one.comparer.end().dirty == 4
    monkeypatch.setattr(FakeMemory, "content", bytearray(PAGE) + bytearray(b"w" * PAGE))
    one.carry_out(Scan([plain], tracked=True))
    one.carry_out(Images(str(tmp_path), {}, {}, [later], tracked=True))
    tally = one.comparer.end()
    assert (tally.scanned, tally.dirty) == (4, 2)
    assert FakeMemory.asked == [False, False, True, True]
