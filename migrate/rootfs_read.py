"""Reading what has changed in a regular file, as blocks that are compared by digest."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from typing import Final

import msgspec
import xxhash

from migrate.rootfs_items import BLOCK, MAX_CHUNK, Data, Hole

_digest = xxhash.xxh3_64_intdigest
_ZEROS: Final = bytes(BLOCK)


class Blocks(msgspec.Struct):
    """What the destination has of a file: its size, and the digests of its blocks that are not
    all zero, by number. A block at the end that is not full has the digest of what there is.
    """

    size: int = 0
    digests: dict[int, int] = msgspec.field(default_factory=dict)


def read_changes(
    fd: int, size: int, known: Blocks, emit: Callable[[Data | Hole], None]
) -> tuple[Blocks, int]:
    """Read `size` bytes of the file `fd` and emit what differs from `known`.

    Gives what the destination has afterwards and how many bytes were read. The file may be written
    to meanwhile; what lies beyond its end by then counts as zero. Holes are not read, and blocks
    that are all zero become holes. OSError if the disk fails.
    """
    blocks = Blocks(size)
    count = 0
    for start, end in _extents(fd, size):
        for offset in range(start, end, MAX_CHUNK):
            chunk = os.pread(fd, min(MAX_CHUNK, end - offset), offset)
            count += len(chunk)
            _compare(chunk, offset, known.digests, blocks.digests, emit)
    for first, last in _runs(known.digests.keys() - blocks.digests.keys()):
        if first * BLOCK < size:
            emit(Hole(first * BLOCK, min(last * BLOCK, size) - first * BLOCK))
    return blocks, count


def _compare(
    chunk: bytes,
    offset: int,
    known: dict[int, int],
    new: dict[int, int],
    emit: Callable[[Data | Hole], None],
) -> None:
    """Enter the digests of a chunk that begins with a block, and emit the changed runs of it."""
    view = memoryview(chunk)
    run = -1  # where the changed blocks before this one begin
    for at in range(0, len(chunk), BLOCK):
        block = view[at : at + BLOCK]
        number = (offset + at) // BLOCK
        digest = _digest(block)
        same = known.get(number) == digest
        zero = not same and _is_zero(block, digest)
        if not zero:
            new[number] = digest
        if same or zero:
            if run >= 0:
                emit(Data(offset + run, bytes(view[run:at])))
                run = -1
        elif run < 0:
            run = at
    if run >= 0:
        emit(Data(offset + run, chunk if run == 0 else bytes(view[run:])))


def _is_zero(block: memoryview, digest: int) -> bool:
    if block[0] or block[-1]:
        return False
    zeros = _ZEROS[: len(block)]
    return digest == _digest(zeros) and bytes(block) == zeros


def _extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """The parts of a file that hold data, widened to whole blocks, without overlap, up to `size`.

    SEEK_HOLE has an effect of its own here: a write() that is under way has stamped the file when
    it began, and may have begun before the `settle` of this pass. ext4 and btrfs take the inode's
    lock for SEEK_HOLE and so wait for its end (ext4_llseek(), btrfs_file_llseek()); XFS takes it
    for every read (xfs_file_buffered_read()). A write after that has a stamp that the next scan
    recognises. So it is called for files without holes too.
    """
    done = 0
    while done < size:
        try:
            data = os.lseek(fd, done, os.SEEK_DATA)
            hole = os.lseek(fd, data, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            raise
        start = max(data - data % BLOCK, done)
        end = min(hole + -hole % BLOCK, size)
        if start < end:
            yield start, end
        done = end


def _runs(numbers: set[int]) -> Iterator[tuple[int, int]]:
    """Half-open runs of consecutive numbers, in order."""
    first = last = -1
    for number in sorted(numbers):
        if number != last:
            if last >= 0:
                yield first, last
            first = number
        last = number + 1
    if last >= 0:
        yield first, last
