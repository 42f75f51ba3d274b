"""Reaching files below a folder without ever leaving it.

Both sides need it. At the source, the container runs while we read its files as root: it may put
a symbolic link to a file of the host where a folder was a moment ago. At the destination, the
stream is not to be trusted. So every component of a path is opened on its own, relative to the
one before, and never through a symbolic link.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import Final, Self

FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Walker:
    """A cursor below `root` that keeps the folders of the last path open.

    Operations come in tree order, so nearly all of them find their folder open already. Every
    method gives OSError as the kernel did: ENOTDIR or ELOOP where a component is no folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = os.open(root, FOLDER)
        self._device = os.fstat(self._root).st_dev
        self._names: list[bytes] = []
        self._fds: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all that is open; the walker cannot be used afterwards."""
        self._cut(0)
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def folder(self, path: bytes) -> int:
        """The descriptor of the folder `path`; it stays the walker's own, good until the next call.

        OSError EXDEV for a folder of another file system. (Folders of an overlay all have its own
        st_dev, other files may not: overlayfs.rst, "Inode properties".)
        """
        names = path.split(b"/") if path else []
        same = 0
        for old, new in zip(self._names, names, strict=False):
            if old != new:
                break
            same += 1
        self._cut(same)
        for name in names[same:]:
            fd = os.open(name, FOLDER, dir_fd=self._fds[-1] if self._fds else self._root)
            if os.fstat(fd).st_dev != self._device:
                os.close(fd)
                raise OSError(errno.EXDEV, "is on another file system", os.fsdecode(path))
            self._names.append(name)
            self._fds.append(fd)
        return self._fds[-1] if self._fds else self._root

    def parent(self, path: bytes) -> tuple[int, bytes]:
        """The descriptor of the folder that holds `path`, and the last component's name."""
        head, _, name = path.rpartition(b"/")
        return self.folder(head), name

    def _cut(self, length: int) -> None:
        while len(self._fds) > length:
            os.close(self._fds.pop())
            self._names.pop()


def open_regular(parent: int, name: bytes, flags: int) -> int:
    """Open the regular file `name` in the folder `parent`, and nothing else.

    To open a device or a FIFO, if only to see what it is, has effects (a watchdog starts, a writer
    wakes). So it is looked at through O_PATH first, then opened by /proc, which cannot be swapped
    in between. OSError ELOOP if it is no regular file.
    """
    path = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        if not stat.S_ISREG(os.fstat(path).st_mode):
            raise OSError(errno.ELOOP, "is not a regular file", os.fsdecode(name))
        return os.open(f"/proc/self/fd/{path}", flags | os.O_CLOEXEC)
    finally:
        os.close(path)


def magic(parent: int, name: bytes) -> bytes:
    """A path for calls that know no dir_fd, such as setxattr: it does not leave the folder.

    Say `follow_symlinks=False` with it, or be sure that `name` is no symbolic link.
    """
    return b"/proc/self/fd/%d/%s" % (parent, name)


def relative(path: str) -> bytes:
    """A path of the container, such as `/etc/hosts`, as the rootfs modules write it."""
    return os.fsencode(os.path.normpath("/" + path)).strip(b"/")


def shown(path: bytes) -> str:
    """A path as the rootfs modules write it, for a message to a person."""
    return "/" + path.decode("utf-8", "backslashreplace")


def below(path: bytes, tops: frozenset[bytes]) -> bool:
    """Whether `path` is one of `tops` or inside one of them."""
    while True:
        if path in tops:
            return True
        path, slash, _ = path.rpartition(b"/")
        if not slash:
            return False


def remove_tree(parent: int, name: bytes, path: bytes, keep: frozenset[bytes]) -> bool:
    """Remove what is at `name` in `parent` (`path` from the root), except what is in `keep`.

    Gives whether it is gone: a folder that holds something to be kept stays, and so does a folder
    of another file system, which OSError EXDEV reports. What is missing counts as gone.
    """
    if path in keep:
        return False
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return True
    except (IsADirectoryError, PermissionError):  # POSIX has EPERM for a folder, Linux EISDIR
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            raise
    else:
        return True
    fd = os.open(name, FOLDER, dir_fd=parent)
    try:
        if os.fstat(fd).st_dev != os.fstat(parent).st_dev:
            raise OSError(errno.EXDEV, "a file system is mounted there", os.fsdecode(path))
        with os.scandir(fd) as found:
            names = [os.fsencode(entry.name) for entry in found]
        gone = [remove_tree(fd, child, path + b"/" + child, keep) for child in names]
    finally:
        os.close(fd)
    if not all(gone):
        return False
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(name, dir_fd=parent)
    return True
