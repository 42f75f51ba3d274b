"""What crosses the wire when a writable layer moves: semantic operations on the merged tree.

Nothing of overlayfs itself is sent (whiteouts, opaque marks, `trusted.overlay.*`): these are
private to the kernel that wrote them ("Changes to the underlying filesystems",
Documentation/filesystems/overlayfs.rst). The destination's kernel makes its own when the
operations are carried out through the mounted rootfs of the new container.

Paths are bytes, relative, without a leading slash; `b""` is the root itself. Linux file names are
bytes: nothing says that they are UTF-8.
"""

from __future__ import annotations

import stat
from typing import Final

import msgspec

BLOCK: Final = 128 * 1024
"""Bytes of a file that are compared, and sent again, as one."""
MAX_CHUNK: Final = 1024 * 1024
"""The most content that one `Data` may carry, in bytes."""
MAX_PATH: Final = 64 * 1024
"""The longest path, in bytes. More than PATH_MAX: relative calls reach deeper than that."""
MAX_DEPTH: Final = 256
"""The deepest path, in components. One open folder each on both sides: fds are limited to 1024."""
MAX_XATTR: Final = 65536
"""XATTR_SIZE_MAX of include/uapi/linux/limits.h, in bytes."""
MAX_SIZE: Final = 2**63 - 1
"""The largest file: loff_t is a signed 64-bit number."""

Xattrs = tuple[tuple[bytes, bytes], ...]


class Meta(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a file is apart from its content. `mode` is the full st_mode, with the type bits."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: Xattrs = ()

    @property
    def kind(self) -> int:
        """The type bits of the mode, such as `stat.S_IFREG`."""
        return stat.S_IFMT(self.mode)


class Remove(msgspec.Struct, frozen=True, array_like=True, tag="rm"):
    """Nothing is at `path` any more: a folder goes with all in it. It may be gone already."""

    path: bytes


class MakeDir(msgspec.Struct, frozen=True, array_like=True, tag="dir"):
    """A folder is at `path`. With `replace`, an empty one: what was there, or shone through, goes.

    Its time is set when the pass ends, because every change inside moves it again.
    """

    path: bytes
    meta: Meta
    replace: bool = False


class MakeLink(msgspec.Struct, frozen=True, array_like=True, tag="ln"):
    """`path` becomes another name of the file that is at `target` (never a folder)."""

    path: bytes
    target: bytes


class MakeSymlink(msgspec.Struct, frozen=True, array_like=True, tag="sym"):
    path: bytes
    target: bytes
    meta: Meta


class MakeNode(msgspec.Struct, frozen=True, array_like=True, tag="node"):
    """A FIFO, a socket's file, or a device with the number `rdev` (as in st_rdev)."""

    path: bytes
    rdev: int
    meta: Meta


class BeginFile(msgspec.Struct, frozen=True, array_like=True, tag="open"):
    """A regular file of `size` bytes is at `path`; the `Data` and `Hole`s that follow are its own.

    `fresh`: a new inode, empty (all hole) so far, whatever was there before. Otherwise the file
    that an earlier pass put there is patched in place, so that its other names see the patch too.
    """

    path: bytes
    size: int
    fresh: bool


class Data(msgspec.Struct, frozen=True, array_like=True, tag="d"):
    offset: int
    content: bytes


class Hole(msgspec.Struct, frozen=True, array_like=True, tag="h"):
    """`length` bytes from `offset` on are zero, and need no space."""

    offset: int
    length: int


class EndFile(msgspec.Struct, frozen=True, array_like=True, tag="close"):
    meta: Meta


class SetMeta(msgspec.Struct, frozen=True, array_like=True, tag="meta"):
    """Only the metadata of what an earlier pass put at `path` has changed (never a folder's)."""

    path: bytes
    meta: Meta


class End(msgspec.Struct, frozen=True, array_like=True, tag="end"):
    """A pass is over, after `items` items, this one not counted."""

    items: int


Item = (
    Remove
    | MakeDir
    | MakeLink
    | MakeSymlink
    | MakeNode
    | BeginFile
    | Data
    | Hole
    | EndFile
    | SetMeta
    | End
)


def carried(name: bytes) -> bool:
    """Whether the extended attribute `name` moves with a file.

    `user.*`, ACLs and file capabilities belong to the file. `trusted.*` too (only a privileged
    container can set them), but not `trusted.overlay.*`, which belongs to a kernel's overlayfs.
    Any other `security.*` belongs to the host: an SELinux label names the categories of one
    container on one host, IMA and EVM sign with the host's keys.
    """
    if name.startswith((b"user.", b"system.posix_acl_")) or name == b"security.capability":
        return True
    return name.startswith(b"trusted.") and not name.startswith(b"trusted.overlay.")
