"""The source's part of moving the writable layer: passes over the upper directory."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from migrate.rootfs_items import BeginFile, Data, End, EndFile, Hole, Item, MakeLink, SetMeta
from migrate.rootfs_plan import SendFile, diff
from migrate.rootfs_read import Blocks, read_changes
from migrate.rootfs_scan import Entry, Snapshot, changed, scan, settle
from migrate.rootfs_walk import Walker, open_regular

_GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO})


@dataclass(frozen=True)
class PassReport:
    """What one pass found; the next one will find less, or it is time to freeze.

    `entries`: files of all types in the upper directory.
    `files`: regular files that were read.
    `items`: operations that were sent.
    `bytes`: content that was sent.
    `dirty_bytes`: content that was read, because it might have changed.
    `failed`: files that were gone, or others, when they were to be read; the next pass has them.
    `seconds`: how long it took, of which `settle_seconds` went into writing pages back (this does
    not happen in the final pass).
    """

    entries: int
    files: int
    items: int
    bytes: int
    dirty_bytes: int
    failed: int
    seconds: float
    settle_seconds: float


class Sender:
    """Sends the upper directory of one container, each pass what has changed since the last.

    `upper`, `skip` and `userxattr` are those of `rootfs_scan.scan`. `settle` is for tests.
    """

    def __init__(
        self,
        upper: Path,
        *,
        skip: Collection[str] = (),
        userxattr: bool = False,
        settle: Callable[[Path], int] = settle,
    ) -> None:
        self._upper = upper
        self._skip = tuple(skip)
        self._userxattr = userxattr
        self._settle = settle
        self._sent: Snapshot | None = None
        self._blocks: dict[int, Blocks] = {}  # by inode number, as in rootfs_plan's invariant

    def send_pass(self, emit: Callable[[Item], None], *, final: bool = False) -> PassReport:
        """Send what has changed. `final`: the container is frozen, and this pass must be exact.

        What vanishes while it is to be read is left to the next pass; in the final one that raises
        DumpFailed. Unsupported as of `scan`; OSError if the disk fails; whatever `emit` raises.
        After any of these the destination is in no known state: begin anew with another Sender.
        """
        began = time.monotonic()
        settled = 0 if final else self._settle(self._upper)
        written = time.monotonic()
        now = scan(
            self._upper,
            skip=self._skip,
            previous=self._sent,
            settled_ns=settled,
            frozen=final,
            userxattr=self._userxattr,
        )
        sent = self._sent.entries if self._sent else {}
        work = _Pass(self._blocks, sent, emit, final)
        with Walker(self._upper) as walker:
            for step in diff(self._sent, now).steps:
                if isinstance(step, SendFile):
                    work.send(step, walker)
                elif not (isinstance(step, MakeLink) and step.target in work.failed):
                    work.emit(step)
        items = work.items
        work.emit(End(items))
        self._sent = now
        if work.failed:
            entries = {path: e for path, e in now.entries.items() if path not in work.failed}
            self._sent = Snapshot(entries, now.clean_before_ns, frozenset(work.failed))
        if not final:
            self._prune()
        return PassReport(
            entries=len(now.entries),
            files=work.files,
            items=items,
            bytes=work.bytes,
            dirty_bytes=work.read,
            failed=len(work.failed),
            seconds=time.monotonic() - began,
            settle_seconds=written - began,
        )

    def _prune(self) -> None:
        """Forget the digests of files that are gone."""
        if self._sent:
            alive = {entry.ino for entry in self._sent.entries.values()}
            self._blocks = {ino: kept for ino, kept in self._blocks.items() if ino in alive}


class _Pass:
    """One pass: what it counts, and what it could not read."""

    def __init__(
        self,
        blocks: dict[int, Blocks],
        sent: Mapping[bytes, Entry],
        emit: Callable[[Item], None],
        final: bool,
    ) -> None:
        self.files = self.items = self.bytes = self.read = 0
        self.failed: set[bytes] = set()
        self._blocks = blocks
        self._sent = sent
        self._emit = emit
        self._final = final

    def emit(self, item: Item) -> None:
        self.items += 1
        if isinstance(item, Data):
            self.bytes += len(item.content)
        self._emit(item)

    def send(self, step: SendFile, walker: Walker) -> None:
        """Read one file and send what differs, if anything."""
        entry = step.entry
        try:
            fd = open_regular(*walker.parent(entry.path), os.O_RDONLY)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            self._fail(step, error)
            return
        try:
            st = os.fstat(fd)
            if st.st_ino != entry.ino:
                self._fail(step, None)
                return
            if self._final and (st.st_ctime_ns != entry.ctime_ns or st.st_size != entry.size):
                raise changed(entry.path)
            self._compare(step, fd, st.st_size)
        finally:
            os.close(fd)

    def _compare(self, step: SendFile, fd: int, size: int) -> None:
        entry = step.entry
        known = Blocks() if step.fresh else self._blocks[entry.ino]
        changes = 0

        def forward(item: Data | Hole | None) -> None:
            nonlocal changes
            if not changes:
                self.emit(BeginFile(entry.path, size, step.fresh))
            changes += 1
            if item is not None:
                self.emit(item)

        if step.fresh or size != known.size:
            forward(None)
        self._blocks[entry.ino], count = read_changes(fd, size, known, forward)
        self.files += 1
        self.read += count
        if changes:
            self.emit(EndFile(entry.meta))
        elif self._sent[entry.path].meta != entry.meta:
            self.emit(SetMeta(entry.path, entry.meta))

    def _fail(self, step: SendFile, error: OSError | None) -> None:
        if self._final:
            raise changed(step.entry.path) from error
        self.failed.update(step.names)
