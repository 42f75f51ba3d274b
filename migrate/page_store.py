"""The destination's store of memory pages: one sparse file per address space (docs/memory.md).

The page at address A lies at offset A of its object's file, so that a page that comes again
replaces itself, and CRIU can read the files as they are (migrate/store_images.py).
Whatever comes in is hostile.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import xxhash

from migrate import store_images
from migrate.errors import NoSpace
from migrate.given_pages import BLOCK, EMPTY, HELD, GivenPages
from migrate.page_batch import (
    COPY,
    DIGEST,
    LITERAL,
    MAX_BATCH_PAGES,
    PAGE,
    ZERO,
    Buffer,
    PageRun,
    decode,
)
from migrate.pagemap import PE_LAZY, Entry
from transport.errors import StreamCorrupt

NAME: Final = re.compile(r"[1-9][0-9]{0,9}|shmem-(0|[1-9][0-9]{0,19})", re.ASCII)
MAX_OBJECTS: Final = 1 << 16  # at a time
MAX_NUMBER: Final = (1 << 31) - 1  # it is also CRIU's number of the pages image, 32 bits
OPEN_FILES: Final = 256  # sshd's sessions may open 1024
_PUNCH: Final = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, linux/falloc.h

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


@dataclass
class StoredObject:
    """An address space or a shared memory segment. `size`: of its file; `pages`: given;
    `held`: those that take space."""

    number: int
    name: str
    given: GivenPages = field(default_factory=GivenPages)
    size: int = 0
    pages: int = 0
    held: int = 0


def _no_cache(known: bytes) -> Buffer | None:
    return None


class PageStore:
    """Takes the page stream in.

    `directory`: a private tmpfs; the store makes `pages/` in it. `seed`: of the session's digests.
    `limit`: bytes that the pages may take. `cached`: gives a page of the cache by its digest.

    Every method raises StreamCorrupt for what no honest source sends, and NoSpace when it is too
    much. After that the store is of no use any more. `bytes`: what the pages take;
    `pages`: how many were given and are not dropped.
    """

    def __init__(
        self,
        directory: Path,
        seed: int,
        limit: int,
        cached: Callable[[bytes], Buffer | None] = _no_cache,
    ) -> None:
        if not 0 <= seed < 1 << 64:
            raise StreamCorrupt("the seed of the digests is not a number of 64 bits")
        self.bytes = 0
        self.pages = 0
        self._directory = directory
        self._path = directory / store_images.PAGES
        self._path.mkdir(mode=0o700)
        self._seed = seed
        self._limit = limit
        self._cached = cached
        self._last = 0
        self._objects: dict[int, StoredObject] = {}
        self._names: dict[str, StoredObject] = {}
        self._blocks = 0
        self._open: dict[int, int] = {}
        self._buffer = memoryview(bytearray(MAX_BATCH_PAGES * PAGE))
        self._final: dict[str, list[Entry]] = {}

    def close(self) -> None:
        """The files stay: they are CRIU's to read now."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

    # -- objects ---------------------------------------------------------------------------------

    def announce(self, number: int, name: str) -> None:
        """A new object: `27`, the address space of that pid in the container, or `shmem-9`.
        Numbers rise; so none can come twice."""
        if not self._last < number <= MAX_NUMBER:
            raise StreamCorrupt(f"memory object {number} after {self._last}")
        if not NAME.fullmatch(name) or name in self._names:
            raise StreamCorrupt(f"a memory object cannot be named {name[:40]!r}")
        if len(self._objects) >= MAX_OBJECTS:
            raise StreamCorrupt(f"more than {MAX_OBJECTS} memory objects")
        self._last = number
        with space():
            self._fd(number, os.O_CREAT | os.O_EXCL)
        self._objects[number] = self._names[name] = StoredObject(number, name)

    def drop(self, numbers: Sequence[int]) -> None:
        """These objects are gone, and their pages. Their names may come again."""
        for number in numbers:
            gone = self._object(number)
            del self._objects[number], self._names[gone.name]
            if number in self._open:
                os.close(self._open.pop(number))
            os.unlink(store_images.pages_image(self._path, number))
            self.bytes -= gone.held * PAGE
            self.pages -= gone.pages
            self._blocks -= len(gone.given)

    def _object(self, number: int) -> StoredObject:
        try:
            return self._objects[number]
        except KeyError:
            raise StreamCorrupt(f"there is no memory object {number}") from None

    def _fd(self, number: int, flags: int = 0) -> int:
        """The object's file, open; those that were opened first are closed when it gets many."""
        fd = self._open.get(number)
        if fd is None:
            if len(self._open) >= OPEN_FILES:
                os.close(self._open.pop(next(iter(self._open))))
            flags |= os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(store_images.pages_image(self._path, number), flags, 0o600)
            self._open[number] = fd
        return fd

    # -- pages -----------------------------------------------------------------------------------

    def apply(self, payload: Buffer) -> None:
        """Carry out one batch (migrate/page_batch.py)."""
        batch = decode(payload)
        literals, digests = memoryview(batch.literals), memoryview(batch.digests)
        at = known = 0
        with space():
            for run in batch.runs:
                target, size = self._object(run.object), run.count * PAGE
                if run.kind == ZERO:
                    self._zero(target, run)
                elif run.kind == LITERAL:
                    self._write(target, run.page, literals[at : at + size])
                    at += size
                else:
                    end = known + run.count * DIGEST
                    self._write(target, run.page, self._content(run, digests[known:end]))
                    known = end

    def _content(self, run: PageRun, digests: memoryview) -> Buffer:
        """What a COPY or CACHED run is to write, checked."""
        content: Buffer
        if run.kind == COPY:
            source = self._object(run.from_object)
            if not source.given.has(run.from_page, run.count):
                raise StreamCorrupt(f"pages that never came are to be copied: {run}")
            content = self._buffer[: run.count * PAGE]
            self._read(source, run.from_page, content)
        else:
            known = (bytes(digests[i : i + DIGEST]) for i in range(0, len(digests), DIGEST))
            pages = [self._cached(each) for each in known]
            content = b"".join([page for page in pages if page is not None])
            if len(content) != run.count * PAGE:
                raise StreamCorrupt("the cache does not have a page that is to come from there")
        view, seed, xxh = memoryview(content), self._seed, xxhash.xxh3_128_digest
        found = [xxh(view[i : i + PAGE], seed=seed) for i in range(0, len(view), PAGE)]
        if b"".join(found) != digests:
            raise StreamCorrupt(f"a page is not here as the source thinks: {run}")
        return content

    def _read(self, source: StoredObject, page: int, into: memoryview) -> None:
        fd, offset = self._fd(source.number), page * PAGE
        while into:
            got = os.preadv(fd, [into], offset)
            if not got:
                raise AssertionError(f"{source} is shorter than what it was given")
            into, offset = into[got:], offset + got

    def _write(self, target: StoredObject, page: int, content: Buffer) -> None:
        self._mark(target, page, len(content) // PAGE, HELD)
        view, fd, offset = memoryview(content), self._fd(target.number), page * PAGE
        while view:
            done = os.pwrite(fd, view, offset)
            view, offset = view[done:], offset + done
        target.size = max(target.size, offset)

    def _zero(self, target: StoredObject, run: PageRun) -> None:
        held = self._mark(target, run.page, run.count, EMPTY)
        fd, offset, size = self._fd(target.number), run.page * PAGE, run.count * PAGE
        if held and _libc.fallocate(fd, _PUNCH, offset, size):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        # CRIU reads pages that are listed from the file, also those at its end.
        if offset + size > target.size:
            os.ftruncate(fd, offset + size)
            target.size = offset + size

    def _mark(self, target: StoredObject, page: int, count: int, state: int) -> int:
        """Note it, if there is room; gives by how many pages more the object takes."""
        given = target.given
        before = len(given)
        # The record has to stay in bounds as well: as many blocks as pages at most. That only
        # zero pages could reach, which take no space.
        most = self._limit // PAGE
        if count > BLOCK and self._blocks + count // BLOCK > most:
            raise self._full()
        fresh, held = given.mark(page, count, state)
        target.pages += fresh
        target.held += held
        self.pages += fresh
        self.bytes += held * PAGE
        self._blocks += len(given) - before
        if self.bytes > self._limit or self._blocks > most:
            raise self._full()
        return held

    def _full(self) -> NoSpace:
        return NoSpace(
            f"the container's memory is more than there is room for ({self._limit >> 20} MiB)",
            "free memory at the destination",
        )

    # -- for CRIU --------------------------------------------------------------------------------

    def adopt(self, images: Path) -> None:
        """The final dump has come to `images`, beside `pages/`: make the store its parent.

        Checks that all pages that it lists were given; objects that it does not list are removed.
        """
        if images.parent != self._directory:
            raise ValueError(f"{images} is not beside {self._path}")
        with space():
            for name, path in store_images.pagemaps(images):
                stored = self._names.get(name)
                if stored is None:
                    raise StreamCorrupt(f"the dump has memory that never came: {name[:40]!r}")
                pages_id, entries = store_images.listed(path)
                for entry in entries:
                    if not stored.given.has(entry.page, entry.count):
                        raise StreamCorrupt(
                            f"of {entry.count} pages from {entry.page:#x} of {name} some never came"
                        )
                store_images.adopt(path, pages_id, entries, self._path, stored.number)
                self._final[name] = entries
            store_images.link_parent(images)
        self.drop([each.number for each in self._names.values() if each.name not in self._final])

    @property
    def lazy_pages(self) -> int:
        """How many pages may be filled in after the restore, after `adopt`."""
        entries = (entry for final in self._final.values() for entry in final)
        return sum(entry.count for entry in entries if entry.flags & PE_LAZY)

    def lazy_directory(self, images: Path, directory: Path) -> None:
        """Make `directory`, the images that `criu lazy-pages` is to read, after `adopt`."""
        numbers = {name: self._names[name].number for name in self._final}
        with space():
            store_images.lazy_directory(images, directory, self._path, numbers, self._final)


@contextlib.contextmanager
def space() -> Iterator[None]:
    """A full file system is NoSpace."""
    try:
        yield
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM):
            raise NoSpace(
                f"no room for the container's memory: {problem.strerror}",
                "free memory at the destination",
            ) from problem
        raise
