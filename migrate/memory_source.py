"""Where the rounds of memory come from: one interface, two sources (docs/memory.md)."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from pathlib import Path

from migrate.address_spaces import Objects, container_pids
from migrate.criu import DumpTarget
from migrate.images_memory import object_of
from migrate.page_batch import DIGEST
from migrate.page_compare import Tally
from migrate.protocol import PAGES, DropObjects, MemoryObject, send
from migrate.scanner import Cached, Forget, Images, Scan
from migrate.scanners import Scanners
from transport.channel import Channel

CACHED_AT_ONCE = 1 << 20  # bytes of digests that one command passes on


class MemorySource(ABC):
    """Sends memory, round by round; the last round while the container is frozen.

    `seed`: of the session's digests, as the destination was told.
    """

    name: str

    def __init__(self, target: DumpTarget, channel: Channel, seed: int, cached: bytes = b"") -> None:
        assert target.freezer
        self._target = target
        self._freezer = target.freezer
        self._channel = channel
        self._objects = Objects(target.pid)
        self._scanners = Scanners(seed, _cgroup_path(target.freezer), self._send_batch)
        for at in range(0, len(cached), CACHED_AT_ONCE // DIGEST * DIGEST):
            self._scanners.command(Cached(cached[at : at + CACHED_AT_ONCE // DIGEST * DIGEST]))

    def _send_batch(self, payload: bytes) -> None:
        self._channel.send(PAGES, payload, compress=False)

    def _announce(self) -> None:
        for number, name in self._objects.take_new():
            send(self._channel, MemoryObject(number=number, name=name))

    def _scan(self, *, forget: bool) -> None:
        regions = self._objects.regions(container_pids(self._freezer))
        gone = self._objects.take_gone() if forget else []
        if gone:
            self._scanners.command(Forget(gone))
            send(self._channel, DropObjects(numbers=gone))
        self._announce()
        self._scanners.command(Scan(regions))

    def _images(self, directory: Path, *, begin: bool) -> None:
        names = [object_of(path) for path in directory.glob("pagemap-*.img")]
        numbers = {name: self._objects.number(name) for name in names}
        self._announce()
        pids = {name: self._objects.pids.get(name, 0) for name in names}
        self._scanners.command(Images(str(directory), numbers, pids, begin))

    @abstractmethod
    def round(self) -> Tally:
        """Send what has changed since the last round. The container runs on."""

    @abstractmethod
    def frozen(self) -> None:
        """The tasks stand still from now on: begin the last round."""

    def dumped(self, images: Path) -> None:
        """The final dump is written: send what it has, and what it lists, and is not sent yet."""
        self._images(images, begin=not self._begun)

    def finish(self) -> Tally:
        """Wait until all of the last round is sent."""
        return self._scanners.report()

    def close(self) -> None:
        self._scanners.close()


class MemoryScan(MemorySource):
    """Reads all memory every round, through /proc: for kernels without dirty tracking."""

    name = "scan"
    _begun = True

    def round(self) -> Tally:
        self._scan(forget=True)
        return self._scanners.report()

    def frozen(self) -> None:
        self._scan(forget=False)


def _cgroup_path(freezer: str) -> str:
    """What /proc/PID/cgroup shows of a freezer directory: its last part, the container's id."""
    return Path(freezer).name
