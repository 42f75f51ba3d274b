"""The destination's part of moving the writable layer: carry out what the source sends.

The stream is not trusted: whatever it says, nothing outside `root` is touched, and nothing of
overlayfs' own is written. Only we write below `root`, as its container does not run yet; so what
was looked at a moment ago is still so.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Final

from migrate.rootfs_guard import check, check_meta, check_path, kernel_says
from migrate.rootfs_items import (
    MAX_CHUNK,
    MAX_PATH,
    MAX_SIZE,
    BeginFile,
    Data,
    End,
    EndFile,
    Hole,
    Item,
    MakeDir,
    MakeLink,
    MakeNode,
    MakeSymlink,
    Meta,
    Remove,
    SetMeta,
    Xattrs,
    carried,
)
from migrate.rootfs_walk import Walker, magic, open_regular, relative, remove_tree, shown
from transport.errors import StreamCorrupt

_ZEROS: Final = bytes(MAX_CHUNK)
_PUNCH: Final = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, linux/falloc.h
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NODES: Final = (stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class Applier:
    """Carries out items below `root`, the mounted rootfs of the new container.

    `keep`: paths in the container that are the runtime's own at this host, such as mount points;
    they survive any removal around them, and an item for one of them is refused (so they must be
    among the `skip` of the source).

    Every method raises StreamCorrupt for what no honest source sends, NoSpace for a full disk or
    quota, Unsupported for what this file system cannot hold, AgentFailed for any other refusal of
    the kernel. After that, throw the container away: it is half made.
    """

    def __init__(self, root: Path, *, keep: Collection[str] = ()) -> None:
        self._walker = Walker(root)
        self._keep = frozenset(map(relative, keep))
        self._items = 0  # since the last End
        self._ended = True
        self._file: BeginFile | None = None
        self._fd = -1
        self._times: dict[bytes, int] = {}  # the mtime_ns of every folder that was sent
        self._touched: set[bytes] = set()  # folders whose time has moved since the last End

    def close(self) -> None:
        """Close what is open. Call it in any case."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._walker.close()

    def apply(self, item: Item) -> None:
        """Carry out one item; they come in the order in which they were sent."""
        if isinstance(item, Data):
            self._data(item)
        elif isinstance(item, Hole):
            self._hole(item)
        elif isinstance(item, EndFile):
            self._end_file(item)
        elif self._file is not None:
            raise StreamCorrupt(f"the file {shown(self._file.path)} was not ended")
        elif isinstance(item, End):
            self._end(item)
            return
        else:
            check_path(item.path, self._keep)
            with kernel_says(item.path):
                self._change(item)
        self._items += 1
        self._ended = False

    def finish(self) -> None:
        """Check that the last pass is complete; nothing can be applied afterwards."""
        if not self._ended or self._file is not None:
            raise StreamCorrupt("the stream of files ended in the middle of a pass")
        self.close()

    def _change(
        self, item: Remove | MakeDir | MakeLink | MakeSymlink | MakeNode | BeginFile | SetMeta
    ) -> None:
        if isinstance(item, MakeDir):
            self._make_dir(item)
            return
        check(item.path != b"", item.path, "can only be a folder")
        if isinstance(item, BeginFile):
            self._begin_file(item)
        elif isinstance(item, Remove):
            self._clear(item.path)
        elif isinstance(item, MakeLink):
            self._link(item)
        elif isinstance(item, MakeSymlink):
            check_meta(item.meta, item.path, stat.S_IFLNK)
            good = 0 < len(item.target) < MAX_PATH and b"\0" not in item.target
            check(good, item.path, "is a symbolic link to nowhere")
            folder, name = self._clear(item.path)
            os.symlink(item.target, name, dir_fd=folder)
            set_meta(folder, name, item.meta, item.path)
        elif isinstance(item, MakeNode):
            check_meta(item.meta, item.path, *_NODES)
            # A character device 0/0 would be a whiteout, if the kernel let it pass.
            good = 0 <= item.rdev < 2**64 and (item.rdev > 0 or item.meta.kind != stat.S_IFCHR)
            check(good, item.path, "is an impossible device")
            folder, name = self._clear(item.path)
            os.mknod(name, item.meta.kind | 0o600, item.rdev, dir_fd=folder)
            set_meta(folder, name, item.meta, item.path)
        else:
            check_meta(item.meta, item.path, stat.S_IFREG, stat.S_IFLNK, *_NODES)
            set_meta(*self._walker.parent(item.path), item.meta, item.path)

    def _clear(self, path: bytes) -> tuple[int, bytes]:
        """Make the place free for something new: gives its folder and name."""
        folder, name = self._walker.parent(path)
        self._touched.add(path.rpartition(b"/")[0])
        remove_tree(folder, name, path, self._keep)
        return folder, name

    def _make_dir(self, item: MakeDir) -> None:
        path = item.path
        check_meta(item.meta, path, stat.S_IFDIR)
        if path:
            folder, name = self._walker.parent(path)
            if item.replace or not _is_dir(folder, name):
                folder, name = self._clear(path)
            if not _is_dir(folder, name):  # it may be, with something to keep in it
                os.mkdir(name, 0o700, dir_fd=folder)
                self._touched.add(path.rpartition(b"/")[0])
        else:
            check(not item.replace, path, "cannot be replaced")
            folder, name = self._walker.folder(b""), b"."
        set_meta(folder, name, item.meta, path)
        self._times[path] = item.meta.mtime_ns
        self._touched.add(path)

    def _link(self, item: MakeLink) -> None:
        check_path(item.target, self._keep)
        check(bool(item.target) and item.target != item.path, item.path, "cannot be linked so")
        inside = item.target.startswith(item.path + b"/")
        check(not inside, item.path, "cannot be a link to what is inside it")
        source, old = self._walker.parent(item.target)
        check(not _is_dir(source, old), item.path, "cannot be a link to a folder")
        # The walker has one path open at a time.
        source = os.dup(source)
        try:
            folder, name = self._clear(item.path)
            os.link(old, name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
        finally:
            os.close(source)

    def _begin_file(self, item: BeginFile) -> None:
        check(0 <= item.size <= MAX_SIZE, item.path, "has an impossible size")
        if item.fresh:
            folder, name = self._clear(item.path)
            self._fd = os.open(name, _CREATE, 0o600, dir_fd=folder)
        else:
            self._fd = open_regular(*self._walker.parent(item.path), os.O_WRONLY)
        self._file = item
        os.ftruncate(self._fd, item.size)

    def _inside(self, offset: int, length: int) -> BeginFile:
        """The file that is open, if these bytes are inside it."""
        if self._file is None:
            raise StreamCorrupt("content came without a file that it belongs to")
        inside = offset >= 0 and length > 0 and offset + length <= self._file.size
        check(inside, self._file.path, "has content outside its size")
        return self._file

    def _data(self, item: Data) -> None:
        file = self._inside(item.offset, len(item.content))
        check(len(item.content) <= MAX_CHUNK, file.path, "has too long a piece of content")
        with kernel_says(file.path):
            _write(self._fd, item.content, item.offset)

    def _hole(self, item: Hole) -> None:
        file = self._inside(item.offset, item.length)
        with kernel_says(file.path):
            if _libc.fallocate(self._fd, _PUNCH, item.offset, item.length) == 0:
                return
            if ctypes.get_errno() not in (errno.EOPNOTSUPP, errno.ENOSYS):
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))
            for offset in range(item.offset, item.offset + item.length, MAX_CHUNK):
                length = min(MAX_CHUNK, item.offset + item.length - offset)
                _write(self._fd, _ZEROS[:length], offset)

    def _end_file(self, item: EndFile) -> None:
        file = self._file
        if file is None:
            raise StreamCorrupt("a file was ended that was not begun")
        check_meta(item.meta, file.path, stat.S_IFREG)
        os.close(self._fd)
        self._fd, self._file = -1, None
        with kernel_says(file.path):
            set_meta(*self._walker.parent(file.path), item.meta, file.path)

    def _end(self, item: End) -> None:
        if item.items != self._items:
            raise StreamCorrupt(f"{item.items} operations were sent, {self._items} came")
        for path in sorted(self._touched, reverse=True):  # what is deeper comes first
            if path not in self._times:
                continue
            with kernel_says(path):
                try:
                    fd = self._walker.folder(path)
                except (FileNotFoundError, NotADirectoryError):
                    continue  # removed, or replaced by another type, later in the pass
                os.utime(fd, ns=(self._times[path], self._times[path]))
        self._touched.clear()
        self._items, self._ended = 0, True


def set_meta(folder: int, name: bytes, meta: Meta, path: bytes) -> None:
    """Give the file `name` in `folder` its metadata; of a folder all but the time.

    The order matters: chown clears the setuid bits and the file capabilities (chown(2)), an ACL
    sets the mode's group bits, and everything moves the ctime but only utime sets the mtime. The
    atime becomes the mtime. StreamCorrupt if the file is of another type than `meta` says.
    """
    st = os.stat(name, dir_fd=folder, follow_symlinks=False)
    check(stat.S_IFMT(st.st_mode) == meta.kind, path, "is of another type here")
    if (st.st_uid, st.st_gid) != (meta.uid, meta.gid):
        os.chown(name, meta.uid, meta.gid, dir_fd=folder, follow_symlinks=False)
    where = magic(folder, name)
    _set_xattrs(where, meta.xattrs)
    if meta.kind != stat.S_IFLNK:
        os.chmod(where, stat.S_IMODE(meta.mode))
    if meta.kind != stat.S_IFDIR:
        os.utime(name, ns=(meta.mtime_ns, meta.mtime_ns), dir_fd=folder, follow_symlinks=False)


def _set_xattrs(where: bytes, xattrs: Xattrs) -> None:
    """Make `xattrs` all that there is, of those that move; a folder's default ACL gives others."""
    wanted = dict(xattrs)
    try:
        have = {os.fsencode(name) for name in os.listxattr(where, follow_symlinks=False)}
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP or wanted:
            raise
        return
    for name in have:
        if carried(name) and name not in wanted:
            os.removexattr(where, name, follow_symlinks=False)
    for name, value in wanted.items():
        if name not in have or os.getxattr(where, name, follow_symlinks=False) != value:
            os.setxattr(where, name, value, follow_symlinks=False)


def _is_dir(folder: int, name: bytes) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _write(fd: int, content: bytes, offset: int) -> None:
    done = os.pwrite(fd, content, offset)
    while done < len(content):
        done += os.pwrite(fd, memoryview(content)[done:], offset + done)
