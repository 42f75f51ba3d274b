"""Which pages of one object the page store was given, and which of them take space there.

One byte a page, in blocks of 4 MiB of memory: 0.03 % of a dense address space. A block that is all
the same is one shared constant.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

MISSING, EMPTY, HELD = range(3)  # never given; given, all zero; given, takes space

BLOCK: Final = 1024  # pages
_WHOLE: Final = {state: bytes([state]) * BLOCK for state in (EMPTY, HELD)}


class GivenPages:
    """`len()` of it is the number of its blocks."""

    def __init__(self) -> None:
        self._blocks: dict[int, bytes | bytearray] = {}

    def __len__(self) -> int:
        return len(self._blocks)

    def mark(self, page: int, count: int, state: int) -> tuple[int, int]:
        """These pages are in that state now, EMPTY or HELD. Gives by how many pages there are more
        that were given, and more that are HELD (a negative number: fewer)."""
        given = 0
        held = count if state == HELD else 0
        blocks, fill = self._blocks, _WHOLE[state]
        for number, begin, end in _pieces(page, count):
            old = blocks.get(number)
            if old is None:
                given += end - begin
            else:
                given += old.count(MISSING, begin, end)
                held -= old.count(HELD, begin, end)
            if end - begin == BLOCK:
                blocks[number] = fill
                continue
            if not isinstance(old, bytearray):
                old = blocks[number] = bytearray(BLOCK if old is None else old)
            old[begin:end] = fill[begin:end]
        return given, held

    def has(self, page: int, count: int) -> bool:
        """Whether all of these pages were given."""
        for number, begin, end in _pieces(page, count):
            block = self._blocks.get(number)
            if block is None or block.find(MISSING, begin, end) >= 0:
                return False
        return True


def _pieces(page: int, count: int) -> Iterable[tuple[int, int, int]]:
    """The range by blocks: the block's number, and from where to where in it."""
    number, begin = divmod(page, BLOCK)
    if begin + count <= BLOCK:  # most are
        return ((number, begin, begin + count),)
    return _split(number, begin, count)


def _split(number: int, begin: int, count: int) -> Iterator[tuple[int, int, int]]:
    while count > 0:
        end = min(begin + count, BLOCK)
        yield number, begin, end
        count -= end - begin
        number, begin = number + 1, 0
