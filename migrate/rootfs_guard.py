"""What the destination refuses before it touches a file, and what the kernel's refusals mean."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from migrate.errors import AgentFailed, NoSpace, Unsupported
from migrate.rootfs_items import MAX_DEPTH, MAX_PATH, MAX_XATTR, Meta, carried
from migrate.rootfs_walk import below, shown
from transport.errors import StreamCorrupt

_NO_ID: Final = 0xFFFFFFFF  # chown(2) reads -1 as "leave it"

# The stream contradicts the tree that it made itself, or has what no kernel gives out.
_CONTRADICTION: Final = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ELOOP,
        errno.EEXIST,
        errno.EXDEV,
        errno.EINVAL,
    }
)
# This file system cannot hold what the other could.
_UNFIT: Final = frozenset(
    {errno.EOPNOTSUPP, errno.EFBIG, errno.ENAMETOOLONG, errno.E2BIG, errno.EMLINK, errno.EROFS}
)


def check(good: bool, path: bytes, what: str) -> None:
    """Raise StreamCorrupt with a sentence that begins with the path, unless `good`."""
    if not good:
        raise StreamCorrupt(f"the stream of files is refused: {shown(path)} {what}")


def check_path(path: bytes, keep: frozenset[bytes]) -> None:
    """Refuse a path that could mean anything but one file below the root, outside of `keep`."""
    if not path:
        return
    parts = path.split(b"/")
    plain = b"" not in parts and b"." not in parts and b".." not in parts and b"\0" not in path
    check(plain and len(path) <= MAX_PATH and len(parts) <= MAX_DEPTH + 1, path, "is no plain path")
    check(not keep or not below(path, keep), path, "belongs to this host")


def check_meta(meta: Meta, path: bytes, *kinds: int) -> None:
    """Refuse metadata of a file that is none of `kinds`, or that no kernel would have given."""
    check(meta.kind in kinds, path, "is of the wrong type")
    check(meta.mode == meta.kind | stat.S_IMODE(meta.mode), path, "has an impossible mode")
    check(0 <= meta.uid < _NO_ID and 0 <= meta.gid < _NO_ID, path, "has an impossible owner")
    check(-(2**63) <= meta.mtime_ns < 2**63, path, "has an impossible time")
    for name, value in meta.xattrs:
        good = carried(name) and len(name) <= 255 and b"\0" not in name
        check(good and len(value) <= MAX_XATTR, path, "has an attribute that is not its own")


@contextmanager
def kernel_says(path: bytes) -> Iterator[None]:
    """Turn the OSErrors of what is done to `path` into failures that a person can act on."""
    try:
        yield
    except OSError as error:
        code = error.errno or 0
        reason = f"{shown(path)}: {os.strerror(code)}"
        if code in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"the destination's disk cannot take {reason}") from error
        if code in _UNFIT:
            raise Unsupported(f"the destination's file system cannot hold {reason}") from error
        if code in _CONTRADICTION:
            raise StreamCorrupt(f"the stream of files contradicts itself at {reason}") from error
        raise AgentFailed(f"the destination could not write {reason}") from error
