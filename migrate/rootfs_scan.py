"""What the writable layer of a container holds, and when a file of it is surely unchanged.

**When is a file unchanged?** If all that stat says is the same, *and* its ctime is older than
`Snapshot.clean_before_ns` of the scan before. That covers two ways to change without a trace:

- The kernel stamps files with the time of the last tick (current_time() in fs/inode.c; 1-10 ms), so
  a file that changes twice within a tick looks the same after the second change. The ctime cannot
  be set by programs, the mtime can: hence the ctime. (git calls this the "racy" problem.)
- Writes through a shared mapping. ext4, XFS, btrfs and f2fs stamp the file in their page_mkwrite
  (file_update_time()), that is when a clean page is written to for the first time. The page is
  then writable until writeback makes it clean again (folio_clear_dirty_for_io() write-protects it),
  and writes up to then leave no trace. So `settle` writes all back *before* a scan: pages dirtied
  by then are clean, and the next write to one of them stamps its file with a time after the
  beginning of `settle`. A file with a later ctime may have dirty mapped pages, and is read again.

  tmpfs never stamps such writes (no page_mkwrite), and of other file systems we do not know: there
  `settle` gives 0, and every pass compares all content.

A file whose ctime is a whole second may lie on a file system that knows no fractions (ext4 with
inodes of 128 bytes): it must be older by one second more.

One write() can last long, and has stamped its file when it began. The reader (rootfs_read) waits
for it, so that a write which goes on after the read has begun after `settle`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

import msgspec

from migrate.errors import DumpFailed, Unsupported
from migrate.rootfs_items import MAX_DEPTH, Meta, Xattrs, carried
from migrate.rootfs_walk import FOLDER, magic, relative, shown

MARGIN_NS: Final = 50_000_000
"""How far the stamp of a file may lag behind the clock: five ticks at 100 Hz."""
_FARTHEST: Final = 2**63 - 1
SECOND_NS: Final = 1_000_000_000

# include/uapi/linux/magic.h; those whose page_mkwrite calls file_update_time().
STAMPS_MMAP: Final = frozenset({0xEF53, 0x58465342, 0x9123683E, 0xF2F52010})

_REFUSED: Final = {
    b"redirect": "was renamed with redirect_dir",
    b"metacopy": "was copied up with metacopy",
    b"whiteout": "is a whiteout stored as an attribute",
}

_libc = ctypes.CDLL(None, use_errno=True)

ROOT: Final = b""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One file of the upper directory, of any type. `path` is relative; the root is `b""`."""

    path: bytes
    mode: int
    uid: int
    gid: int
    rdev: int
    size: int
    mtime_ns: int
    ctime_ns: int
    ino: int
    nlink: int
    xattrs: Xattrs = ()
    target: bytes = b""  # of a symbolic link
    opaque: bool = False  # a folder that hides the one of the layers below

    @property
    def kind(self) -> int:
        return stat.S_IFMT(self.mode)

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_whiteout(self) -> bool:
        """overlayfs.rst: "A whiteout is created as a character device with 0/0 device number"."""
        return self.rdev == 0 and stat.S_ISCHR(self.mode)

    @property
    def meta(self) -> Meta:
        # Times beyond the year 2262 do not fit into 64 bits of ns: they become the last that does.
        mtime_ns = max(-_FARTHEST, min(self.mtime_ns, _FARTHEST))
        return Meta(self.mode, self.uid, self.gid, mtime_ns, self.xattrs)


class Snapshot(msgspec.Struct, frozen=True):
    """The upper directory as one scan found it, and then what of it the destination has.

    `entries`: folders stand before what is in them.
    `clean_before_ns`: see the module; ns since 1970, 0 if no stamp proves anything.
    `unknown`: paths at which the destination holds we cannot say what, because sending them failed.
    """

    entries: Mapping[bytes, Entry]
    clean_before_ns: int = 0
    unknown: frozenset[bytes] = frozenset()


def is_settled(ctime_ns: int, clean_before_ns: int) -> bool:
    """Whether a file with this ctime that looks the same in two scans is the same.

    `clean_before_ns` is that of the earlier scan.
    """
    if ctime_ns % SECOND_NS == 0:
        ctime_ns += SECOND_NS
    return ctime_ns < clean_before_ns


def settle(upper: Path) -> int:
    """Write the dirty pages of `upper`'s file system back; gives the `settled_ns` for `scan`.

    It can take seconds on a busy disk: call it while the container runs, never in the freeze (the
    scan after which nothing more is compared needs none). 0 where stamps cannot be trusted.
    OSError as of syncfs(2), which reports lost writes.
    """
    before = time.time_ns()
    fd = os.open(upper, FOLDER)
    try:
        # struct statfs begins with f_type, a long (int on s390x, big endian: not supported here).
        buffer = (ctypes.c_long * 64)()
        if _libc.fstatfs(fd, buffer) != 0 or buffer[0] not in STAMPS_MMAP:
            return 0
        if _libc.syncfs(fd) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), str(upper))
    finally:
        os.close(fd)
    return before


def scan(
    upper: Path,
    *,
    skip: Collection[str] = (),
    previous: Snapshot | None = None,
    settled_ns: int = 0,
    frozen: bool = False,
    userxattr: bool = False,
) -> Snapshot:
    """Walk the upper directory once.

    `skip`: paths in the container that are left out, with all below: where volumes and Docker's
    own files are mounted, because the destination's runtime makes these mount points itself.
    `previous`: the scan before; what is unchanged since is taken from it, as the same object.
    `settled_ns`: what `settle` gave before this scan; 0 if it was not called.
    `frozen`: nothing may vanish while we look. Otherwise what vanishes is left out.
    `userxattr`: the mount has this option, so overlayfs keeps its marks in `user.overlay.*`.

    Raises Unsupported for a layer that cannot be told from the upper directory alone (metacopy,
    redirect_dir, nested overlays, more than `MAX_DEPTH` folders deep), DumpFailed if `frozen` does
    not hold, OSError if the disk fails.
    """
    walk = _Scan(frozenset(map(relative, skip)), previous, frozen, userxattr)
    fd = os.open(upper, FOLDER)
    try:
        walk.folder(fd, ROOT, 0)
    finally:
        os.close(fd)
    return Snapshot(walk.entries, max(settled_ns - MARGIN_NS, 0))


class _Scan:
    def __init__(
        self, skip: frozenset[bytes], previous: Snapshot | None, frozen: bool, userxattr: bool
    ) -> None:
        self.entries: dict[bytes, Entry] = {}
        self._skip = skip
        self._before: Mapping[bytes, Entry] = previous.entries if previous else {}
        self._clean_before = previous.clean_before_ns if previous else 0
        self._frozen = frozen
        self._private = b"user.overlay." if userxattr else b"trusted.overlay."

    def folder(self, fd: int, path: bytes, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise Unsupported(f"{shown(path)} is nested more than {MAX_DEPTH} folders deep")
        self._see(os.fstat(fd), path, fd)
        prefix = path + b"/" if path else b""
        skip = self._skip
        with os.scandir(fd) as found:
            for item in found:
                name = os.fsencode(item.name)
                below = prefix + name
                if below in skip:
                    continue
                try:
                    # Not scandir on a path, not stat for folders: see rootfs_walk on symbolic links
                    # that appear while we look; and what is said of a folder is of the one read.
                    if item.is_dir(follow_symlinks=False):
                        child = os.open(name, FOLDER, dir_fd=fd)
                        try:
                            self.folder(child, below, depth + 1)
                        finally:
                            os.close(child)
                    else:
                        self._see(item.stat(follow_symlinks=False), below, fd, name)
                except (FileNotFoundError, NotADirectoryError, _Swapped) as gone:
                    if self._frozen:
                        raise changed(below) from gone

    def _see(self, st: os.stat_result, path: bytes, fd: int, name: bytes | None = None) -> None:
        """Record one file: `name` in the folder `fd`, or the folder `fd` itself."""
        ctime = st.st_ctime_ns
        old = self._before.get(path)
        if (
            old is not None
            and old.ctime_ns == ctime
            and old.ino == st.st_ino
            and old.mtime_ns == st.st_mtime_ns
            and old.size == st.st_size
            and old.mode == st.st_mode
            and old.nlink == st.st_nlink
            and old.uid == st.st_uid
            and old.gid == st.st_gid
            and old.rdev == st.st_rdev
            and is_settled(ctime, self._clean_before)
        ):
            self.entries[path] = old
            return
        mode = st.st_mode
        target = b""
        opaque = False
        xattrs: Xattrs = ()
        if not (stat.S_ISCHR(mode) and st.st_rdev == 0):
            if name is None:
                xattrs, opaque = self._xattrs(fd, path)
            else:
                xattrs, opaque = self._xattrs(magic(fd, name), path)
                if stat.S_ISLNK(mode):
                    target = _readlink(name, fd)
        self.entries[path] = Entry(
            path,
            mode,
            st.st_uid,
            st.st_gid,
            st.st_rdev,
            st.st_size,
            st.st_mtime_ns,
            ctime,
            st.st_ino,
            st.st_nlink,
            xattrs,
            target,
            opaque,
        )

    def _xattrs(self, where: int | bytes, path: bytes) -> tuple[Xattrs, bool]:
        """The attributes that move with a file, and whether it is an opaque folder."""
        follow = isinstance(where, int)
        opaque = False
        kept: list[tuple[bytes, bytes]] = []
        try:
            names = os.listxattr(where, follow_symlinks=follow)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:  # this file system has none at all
                return (), False
            raise
        for text in names:
            name = os.fsencode(text)
            private = name.startswith(self._private)
            if not private and not carried(name):
                continue
            try:
                value = os.getxattr(where, name, follow_symlinks=follow)
            except OSError as error:
                # The attribute went since it was listed, which moved the ctime: it is seen next
                # time. The file itself is still there: to drop it would remove it over there.
                if error.errno != errno.ENODATA or self._frozen:
                    raise
                continue
            if private:
                opaque |= self._is_opaque(name, value, path)
            else:
                kept.append((name, value))
        return tuple(sorted(kept)), opaque

    def _is_opaque(self, name: bytes, value: bytes, path: bytes) -> bool:
        """Read one of overlayfs' own marks; gives whether it makes the folder opaque."""
        mark = name.removeprefix(self._private)
        if mark == b"opaque":
            # "x" only says that whiteouts stored as attributes may be inside: these are refused.
            return value == b"y"
        why = _REFUSED.get(mark)
        if mark.startswith(b"overlay."):  # how a nested overlay's marks are escaped
            why = "belongs to an overlay inside the overlay"
        if why:
            raise Unsupported(
                f"{shown(path)} {why}, so the upper directory does not tell its content"
            )
        return False  # origin, impure, nlink, upper, uuid, protattr: of no use to another kernel


def _readlink(name: bytes, fd: int) -> bytes:
    try:
        return os.readlink(name, dir_fd=fd)
    except OSError as error:
        if error.errno == errno.EINVAL:  # no symbolic link any more
            raise _Swapped from error
        raise


def changed(path: bytes) -> DumpFailed:
    """The failure for a file that is not what it was, though its container is frozen."""
    return DumpFailed(f"{shown(path)} changed while the container was frozen")


class _Swapped(Exception):
    """What is there now is not what was listed a moment ago."""
