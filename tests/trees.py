"""Comparing whole file trees: content, metadata, and which names share an inode."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from migrate.rootfs_items import carried


def tree_facts(root: Path) -> dict[bytes, tuple[object, ...]]:
    """All that must be the same in two equal trees, by relative path."""
    top = os.fsencode(root)
    facts: dict[bytes, tuple[object, ...]] = {}
    first: dict[tuple[int, int], bytes] = {}
    paths = [top]
    for folder, folders, files in os.walk(top):
        paths += [os.path.join(folder, name) for name in folders + files]
    for path in sorted(paths):
        st = os.lstat(path)
        name = path[len(top) + 1 :]
        content = b""
        if stat.S_ISREG(st.st_mode):
            with open(path, "rb") as file:
                content = hashlib.file_digest(file, "blake2b").digest()
        elif stat.S_ISLNK(st.st_mode):
            content = os.readlink(path)
        xattrs = sorted(
            (key, os.getxattr(path, key, follow_symlinks=False))
            for key in os.listxattr(path, follow_symlinks=False)
            if carried(os.fsencode(key))
        )
        is_dir = stat.S_ISDIR(st.st_mode)
        facts[name] = (
            oct(st.st_mode),
            st.st_uid,
            st.st_gid,
            st.st_rdev,
            None if is_dir else st.st_size,
            st.st_mtime_ns,
            content,
            xattrs,
            None if is_dir else first.setdefault((st.st_dev, st.st_ino), name),
        )
    return facts


def tree_digest(root: Path) -> str:
    """One digest of `tree_facts`."""
    return hashlib.blake2b(repr(sorted(tree_facts(root).items())).encode()).hexdigest()


def assert_same_tree(one: Path, other: Path) -> None:
    """Fail with the first differences between two trees."""
    left, right = tree_facts(one), tree_facts(other)
    wrong = [
        f"{path!r}: {left.get(path)} != {right.get(path)}"
        for path in sorted(left.keys() | right.keys())
        if left.get(path) != right.get(path)
    ]
    assert not wrong, "\n".join([f"{len(wrong)} differences", *wrong[:10]])
    assert tree_digest(one) == tree_digest(other)
