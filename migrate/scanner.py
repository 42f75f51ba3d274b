"""A scanner process: reads memory, compares it with what was sent, writes batches to its stdout.

A process of its own, since reading and hashing would hold Python's lock against everything that
the frozen part does at the same time. Commands come in through stdin, frames go out (`FRAME`).
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from migrate.address_spaces import Region
from migrate.images_memory import image_pages, object_of
from migrate.page_batch import DIGEST, PAGE
from migrate.page_compare import BLOCK_PAGES, Comparer, Tally, mine, stripes
from migrate.pagemap import PE_LAZY, PE_PARENT, PE_PRESENT, Entry, read
from migrate.process_memory import Gone, ProcessMemory

FRAME = struct.Struct("<IB")  # length of what follows, kind
BATCH, REPORT, FAILED = 0, 1, 2


class Setup(msgspec.Struct, tag=True):
    """The first command. `cgroup`: path that every process read must be in."""

    seed: int
    worker: int
    workers: int
    cgroup: str


class Cached(msgspec.Struct, tag=True):
    """Digests of pages in the destination's cache."""

    digests: bytes


class Scan(msgspec.Struct, tag=True):
    """A new round: read these regions. `tracked`: only what the kernel says was written to since
    the last round."""

    regions: list[Region]
    tracked: bool = False


class Images(msgspec.Struct, tag=True):
    """Compare a CRIU image directory. `numbers`: of the objects in it; `pids`: the process to read
    pages from that CRIU left out (lazy), by object, in the final round. `later`: regions to read
    first, as in a Scan; `begin`: a new round. `tracked`: what was not read in this round has not
    changed since the last one."""

    directory: str
    numbers: dict[str, int]
    pids: dict[str, int]
    later: list[Region] = []
    begin: bool = False
    tracked: bool = False


class Report(msgspec.Struct, tag=True):
    """End the round: send the rest and answer with its Tally."""


class Forget(msgspec.Struct, tag=True):
    """These objects are gone."""

    objects: list[int]


Command = Setup | Cached | Scan | Images | Report | Forget


class Scanner:
    """Carries out the commands. `out`: where the frames go."""

    def __init__(self, setup: Setup, out: BinaryIO) -> None:
        self._setup = setup
        self._out = out
        self._cached: set[bytes] = set()
        self.comparer = Comparer(setup.seed, self._emit, self._cached)

    def _emit(self, payload: bytes) -> None:
        self._write(BATCH, payload)

    def _write(self, kind: int, payload: bytes) -> None:
        self._out.write(FRAME.pack(len(payload), kind))
        self._out.write(payload)
        self._out.flush()

    def carry_out(self, command: Command) -> None:
        match command:
            case Cached(digests):
                at = range(0, len(digests), DIGEST)
                self._cached.update(digests[i : i + DIGEST] for i in at)
            case Scan():
                self.comparer.begin()
                self.scan(command.regions, command.tracked)
            case Images():
                if command.begin:
                    self.comparer.begin()
                self.scan(command.later, command.tracked)
                self.images(command)
            case Report():
                self._write(REPORT, msgspec.msgpack.encode(self.comparer.end()))
            case Forget(objects):
                for number in objects:
                    self.comparer.forget(number)

    # -- processes -------------------------------------------------------------------------------

    def scan(self, regions: list[Region], tracked: bool) -> None:
        memory: ProcessMemory | None = None
        pid = 0
        for region in regions:  # those of a process follow each other
            if region.pid != pid:
                if memory:
                    memory.close()
                pid = region.pid
                try:
                    memory = ProcessMemory(pid, self._setup.cgroup)
                except Gone:
                    memory = None
            if memory:
                self._region(memory, region, tracked)
        if memory:
            memory.close()

    def _region(self, memory: ProcessMemory, region: Region, tracked: bool) -> None:
        def sink(page: int, content: memoryview) -> None:
            self.comparer.pages(region.object, page, content)

        away = region.start // PAGE - region.page
        count = (region.end - region.start) // PAGE
        for page, pages in self._stripes(region.page, count):
            start = (page + away) * PAGE
            try:
                for begin, end in memory.map.populated(
                    start, start + pages * PAGE, shared=region.shared, written=tracked
                ):
                    memory.read(begin, end, begin // PAGE - away, sink)
            except ProcessLookupError:
                return

    def _stripes(self, page: int, count: int) -> Iterator[tuple[int, int]]:
        yield from stripes(page, count, self._setup.worker, self._setup.workers)

    # -- images ----------------------------------------------------------------------------------

    def images(self, command: Images) -> None:
        """What CRIU has written, and what it has left to us."""
        directory = Path(command.directory)
        for path in sorted(directory.glob("pagemap-*.img")):
            name = object_of(path)
            pages_id, entries = read(path)
            if not entries:
                continue
            number = command.numbers[name]
            left = [e for e in entries if not e.flags & (PE_PRESENT | PE_PARENT)]
            assert all(e.flags & PE_LAZY for e in left)
            if left:
                self._left_out(number, command.pids[name], left, command.tracked)
            for parent in (e for e in entries if e.flags & PE_PARENT):
                for page, count in self.comparer.missing(number, parent.page, parent.count):
                    if mine(page // BLOCK_PAGES, self._setup.worker, self._setup.workers):
                        raise ValueError(f"{count} pages from {page:#x} of {name} were never read")
            pages = directory / f"pages-{pages_id}.img"
            for page, content in image_pages(pages, entries, self._stripes):
                self.comparer.pages(number, page, content)

    def _left_out(self, number: int, pid: int, entries: list[Entry], tracked: bool) -> None:
        """Pages that the final dump lists without their content: read what the scan did not."""
        lacking = self.comparer.missing if tracked else self.comparer.unseen
        memory: ProcessMemory | None = None

        def sink(page: int, content: memoryview) -> None:
            self.comparer.pages(number, page, content)

        for entry in entries:
            for first, count in self._stripes(entry.page, entry.count):
                for page, length in list(lacking(number, first, count)):
                    if memory is None:
                        memory = ProcessMemory(pid, self._setup.cgroup)
                    memory.read(page * PAGE, (page + length) * PAGE, page, sink)
                if any(True for _ in lacking(number, first, count)):
                    raise ValueError(f"pages of the frozen process {pid} cannot be read")
        if memory:
            memory.close()


def read_frames(source: BinaryIO) -> Iterator[bytes]:
    """Commands from a stream, until it ends."""
    while header := source.read(4):
        (length,) = struct.unpack("<I", header)
        yield source.read(length)


def main() -> None:
    """Serve until stdin ends."""
    out = sys.stdout.buffer
    decoder = msgspec.msgpack.Decoder(Command)
    frames = read_frames(sys.stdin.buffer)
    scanner: Scanner | None = None
    try:
        for frame in frames:
            command = decoder.decode(frame)
            if scanner is None:
                assert isinstance(command, Setup)
                scanner = Scanner(command, out)
            else:
                scanner.carry_out(command)
    except BrokenPipeError:
        os._exit(1)
    except Exception as problem:  # noqa: BLE001 - said to the one who waits, whatever it is
        text = f"{type(problem).__name__}: {problem}".encode()
        out.write(FRAME.pack(len(text), FAILED) + text)
        out.flush()
        os._exit(1)


def as_tally(payload: bytes) -> Tally:
    """What a REPORT frame says."""
    return msgspec.msgpack.decode(payload, type=Tally)


if __name__ == "__main__":
    main()
