"""Where the rounds of memory come from: one interface, two sources (docs/memory.md)."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Final

from migrate.address_spaces import Objects, Region, container_pids
from migrate.criu import DumpTarget, pre_dump
from migrate.images_memory import object_of
from migrate.page_batch import DIGEST
from migrate.page_compare import Tally
from migrate.protocol import PAGES, DropObjects, MemoryObject, MemoryRound, send
from migrate.scanner import Cached, Forget, Images, Scan
from migrate.scanners import Scanners
from transport.channel import Channel

CACHED_AT_ONCE: Final = (1 << 20) // DIGEST * DIGEST  # bytes of digests that one command passes on


class MemorySource(ABC):
    """Sends memory, round by round; the last round while the container is frozen."""

    name: str

    def __init__(
        self, target: DumpTarget, channel: Channel, seed: int, cached: bytes = b""
    ) -> None:
        """`seed`: of the session's digests, as the destination was told; `cached`: digests of the
        pages in the destination's cache, 16 bytes each."""
        assert target.freezer
        self._target = target
        self._freezer = target.freezer
        self._channel = channel
        self._objects = Objects(target.pid)
        # What /proc/PID/cgroup shows of the freezer's directory: its last part, the container's id.
        cgroup = Path(target.freezer).name
        self._scanners = Scanners(seed, cgroup, self._send_batch)
        for at in range(0, len(cached), CACHED_AT_ONCE):
            self._scanners.command(Cached(cached[at : at + CACHED_AT_ONCE]))

    def _send_batch(self, payload: bytes) -> None:
        self._channel.send(PAGES, payload, compress=False)

    def _announce(self) -> None:
        for number, name in self._objects.take_new():
            send(self._channel, MemoryObject(number=number, name=name))

    def _regions(self, *, frozen: bool) -> list[Region]:
        return self._objects.regions(container_pids(self._freezer), frozen=frozen)

    def _forget_gone(self) -> None:
        gone = self._objects.take_gone()
        if gone:
            self._scanners.command(Forget(gone))
            send(self._channel, DropObjects(numbers=gone))

    def _images(self, directory: Path, *, begin: bool, tracked: bool) -> None:
        names = [object_of(path) for path in directory.glob("pagemap-*.img")]
        numbers = {name: self._objects.number(name) for name in names}
        self._announce()
        pids = {name: self._objects.pids.get(name, 0) for name in names}
        # Untracked, what CRIU lists tells more: what of it was not read in this round.
        later = self._objects.later if tracked else []
        self._scanners.command(Images(str(directory), numbers, pids, later, begin, tracked))

    def round(self) -> Tally:
        """Send what has changed since the last round. The container runs on.

        The destination answers `Done` when all of it is stored.
        """
        self._round()
        tally = self._scanners.report()
        send(self._channel, MemoryRound())
        return tally

    @abstractmethod
    def _round(self) -> None: ...

    @abstractmethod
    def frozen(self) -> None:
        """The tasks stand still from now on: begin the last round."""

    @abstractmethod
    def dumped(self, images: Path) -> None:
        """The final dump is written: send what it has, and what it lists, and is not sent yet."""

    def finish(self) -> Tally:
        """Wait until all of the last round is given to the channel."""
        return self._scanners.report()

    def close(self) -> None:
        self._scanners.close()


class MemoryScan(MemorySource):
    """Reads all memory every round, through /proc: for kernels without dirty tracking."""

    name = "scan"

    def _round(self) -> None:
        regions = self._regions(frozen=False)
        self._forget_gone()
        self._announce()
        self._scanners.command(Scan(regions))

    def frozen(self) -> None:
        regions = self._regions(frozen=True)
        self._announce()
        self._scanners.command(Scan(regions))

    def dumped(self, images: Path) -> None:
        self._images(images, begin=False, tracked=False)


class CriuPreDump(MemorySource):
    """CRIU's pre-dumps, of what the kernel's soft-dirty bits show to have been written to."""

    name = "predump"

    def __init__(
        self, target: DumpTarget, channel: Channel, seed: int, base: Path, cached: bytes = b""
    ) -> None:
        """`base`: a private tmpfs for the pre-dumps, with a directory `work` in it."""
        super().__init__(target, channel, seed, cached)
        self._base = base
        self._count = 0

    @property
    def _directory(self) -> str:
        return f"pre-{self._count}"

    def _round(self) -> None:
        parent = f"../{self._directory}" if self._count else ""
        self._count += 1
        directory = self._base / self._directory
        directory.mkdir(mode=0o700)
        pre_dump(self._target, directory, self._base / "work", parent)
        self._images(directory, begin=True, tracked=False)

    def round(self) -> Tally:
        tally = super().round()
        # The next pre-dump only looks at which pages this one has: the memory is needed no more.
        for pages in (self._base / self._directory).glob("pages-*.img"):
            os.truncate(pages, 0)
        return tally

    def frozen(self) -> None:
        """The final dump is a skeleton here, too: what was written to since the last pre-dump is
        read by the scanners, so that the destination may restore all of it lazily. (In an
        incremental dump CRIU calls only those pages lazy that it has written.)"""
        regions = self._regions(frozen=True)
        self._announce()
        self._scanners.command(Scan(regions, tracked=bool(self._count)))

    def dumped(self, images: Path) -> None:
        self._images(images, begin=False, tracked=bool(self._count))
