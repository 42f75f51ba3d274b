"""Memory pages of containers that left this host, so that they come back cheaply (docs/memory.md).

One file per container: its distinct pages, one after the other, nothing else. What a page is called
is worked out anew for each session (its digest has the session's seed), and the page store checks
each page that it takes from here: a damaged file costs bytes, never correctness.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import xxhash

from migrate.locked import locked
from migrate.page_batch import PAGE, Buffer, digest

MAX_AGE: Final = 30 * 86400.0  # seconds
MAX_DEFAULT: Final = 4 << 30
DIGESTS: Final = 64 << 10  # digests at a time, of a CacheDigests message
_SUFFIX: Final = ".pages"
_NEW: Final = ".new-"
_KEY: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,179}~[0-9a-f]{16}")
_AT_ONCE: Final = 1 << 20  # bytes of one read or write
_ZERO: Final = bytes(PAGE)


@dataclass(frozen=True)
class CacheEntry:
    """`name`: the container's (its first 180 letters); `saved`: seconds since 1970."""

    key: str
    name: str
    bytes: int
    saved: float


def cache_key(name: str, image_layers: Sequence[str]) -> str:
    """The key of a container's pages: another image under the same name has others."""
    whole = hashlib.blake2b("\0".join([name, *image_layers]).encode(), digest_size=8)
    readable = re.sub(r"[^A-Za-z0-9_.-]|^[.-]", "_", name[:180]) or "_"
    return f"{readable}~{whole.hexdigest()}"


class PageCache:
    """The cache below `root`, for root only. `limit_bytes`: of all entries together; without it
    4 GiB, or a tenth of what that disk has free when this is less."""

    def __init__(self, root: Path, limit_bytes: int | None = None) -> None:
        self._root = root
        self._limit_bytes = limit_bytes

    def limit(self) -> int:
        """The bytes that all entries may take together."""
        if self._limit_bytes is not None:
            return self._limit_bytes
        try:
            disk = os.statvfs(self._root)
        except FileNotFoundError:
            disk = os.statvfs(self._root.parent)
        free = disk.f_bavail * disk.f_frsize + sum(entry.bytes for entry in self.entries())
        return min(MAX_DEFAULT, free // 10)

    # -- entries ---------------------------------------------------------------------------------

    def entries(self) -> list[CacheEntry]:
        """What is there, the newest first."""
        found = []
        for key, info in self._files():
            name = key.rpartition("~")[0]
            found.append(CacheEntry(key, name, info.st_size, info.st_mtime))
        return sorted(found, key=lambda entry: -entry.saved)

    def _files(self) -> list[tuple[str, os.stat_result]]:
        found = []
        try:
            with os.scandir(self._root) as entries:
                for entry in entries:
                    key = entry.name.removesuffix(_SUFFIX)
                    if key == entry.name or not _KEY.fullmatch(key):
                        continue
                    with contextlib.suppress(FileNotFoundError):
                        info = entry.stat(follow_symlinks=False)
                        if stat.S_ISREG(info.st_mode):
                            found.append((key, info))
        except FileNotFoundError:
            return []
        return found

    def clear(self, key: str | None = None) -> int:
        """Remove that entry, or all; gives how many there were."""
        keys = [found for found, _ in self._files() if key in (None, found)]
        for each in keys:
            self._path(each).unlink(missing_ok=True)
        return len(keys)

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError(f"no key of the cache: {key!r}")
        return self._root / f"{key}{_SUFFIX}"

    # -- reading ---------------------------------------------------------------------------------

    def open(self, key: str) -> CachedPages | None:
        """The pages saved under that key, if there are any."""
        path = self._path(key)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_size < PAGE:
            os.close(fd)
            return None
        # Used last now, saved when it was: on most hosts reading alone does not note that.
        with contextlib.suppress(OSError):
            os.utime(path, ns=(time.time_ns(), info.st_mtime_ns), follow_symlinks=False)
        return CachedPages(fd, info.st_size // PAGE)

    # -- writing ---------------------------------------------------------------------------------

    def save(self, key: str, pages: Iterable[Buffer]) -> int:
        """Keep these pages in place of what there was under that key; gives how many are kept.

        `pages`: one or several in each; zero pages and those that came before are left out. Others
        make room, the one that was used longest ago first; what is beyond the limit is left out.
        A full disk, or one that cannot be written: nothing is kept.
        """
        path = self._path(key)
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._root.chmod(0o700)
            with locked(self._root):
                self._tidy()
                return self._save(path, pages)
        except OSError as problem:
            if problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG):
                return 0
            raise

    def _tidy(self) -> None:
        """Remove what is too old, and what a save that was killed left behind: none runs now."""
        for left in self._root.glob(f"{_NEW}*"):
            left.unlink(missing_ok=True)
        oldest = time.time() - MAX_AGE
        for entry in self.entries():
            if entry.saved < oldest:
                self.clear(entry.key)

    def _save(self, path: Path, pages: Iterable[Buffer]) -> int:
        limit = self.limit()
        others = [(info.st_atime_ns, key, info.st_size) for key, info in self._files()]
        others = sorted((o for o in others if self._path(o[1]) != path), reverse=True)
        taken = sum(size for _, _, size in others)
        new = self._root / f"{_NEW}{secrets.token_hex(4)}"
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        written = 0
        try:
            for piece in _pieces(pages):
                while others and taken + written + len(piece) > limit:
                    _, key, size = others.pop()
                    self.clear(key)
                    taken -= size
                piece = piece[: max(0, (limit - taken - written) // PAGE * PAGE)]
                if not piece:
                    break
                _write(fd, piece)
                written += len(piece)
            if written:
                os.replace(new, path)
        finally:
            os.close(fd)
            new.unlink(missing_ok=True)
        return written // PAGE


class CachedPages:
    """One entry, open: it stays as it is when it is removed or replaced meanwhile.

    Read with read(2), not mapped: a disk error, or a file cut short, would kill us by SIGBUS.
    """

    def __init__(self, fd: int, count: int) -> None:
        """`count`: of its pages."""
        self._fd = fd
        self._count = count
        # 150 bytes a page: 38 MiB for 1 GiB of pages.
        self._places: dict[bytes, int] = {}

    def digests(self, seed: int) -> Iterator[bytes]:
        """The digests of all pages, joined, some thousand at a time. From then on `page` knows
        them by these. What cannot be read is left out."""
        self._places.clear()
        buffer = memoryview(bytearray(_AT_ONCE))
        found: list[bytes] = []
        for first in range(0, self._count, _AT_ONCE // PAGE):
            try:
                got = os.preadv(self._fd, [buffer], first * PAGE) // PAGE
            except OSError:
                continue
            for i in range(min(got, self._count - first)):
                known = digest(buffer[i * PAGE : (i + 1) * PAGE], seed)
                self._places[known] = first + i
                found.append(known)
            if len(found) + _AT_ONCE // PAGE > DIGESTS:
                yield b"".join(found)
                found = []
        if found:
            yield b"".join(found)

    def page(self, known: bytes) -> memoryview | None:
        """The page of that digest, or what is there now: the caller compares."""
        place = self._places.get(known)
        if place is None:
            return None
        try:
            content = os.pread(self._fd, PAGE, place * PAGE)
        except OSError:
            return None
        return memoryview(content) if len(content) == PAGE else None

    def close(self) -> None:
        os.close(self._fd)


def _pieces(pages: Iterable[Buffer]) -> Iterator[bytearray]:
    """Distinct pages that are not zero, about 1 MiB at a time."""
    # A page whose hash is another's is lost to the cache, which is allowed. 64 bits, keyed: an
    # `int` takes half of what 128 bits in `bytes` take, 70 bytes a page.
    seed = secrets.randbits(64)
    seen = {xxhash.xxh3_64_intdigest(_ZERO, seed=seed)}
    piece = bytearray()
    for some in pages:
        view = memoryview(some)
        for at in range(0, len(view) // PAGE * PAGE, PAGE):
            page = view[at : at + PAGE]
            known = xxhash.xxh3_64_intdigest(page, seed=seed)
            if known not in seen:
                seen.add(known)
                piece += page
                if len(piece) >= _AT_ONCE:
                    yield piece
                    piece = bytearray()
    if piece:
        yield piece


def _write(fd: int, content: Buffer) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
