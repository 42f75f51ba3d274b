"""What to do at the destination so that it shows what the source's upper directory holds now.

Two rules of overlayfs carry this (Documentation/filesystems/overlayfs.rst, "whiteouts and opaque
directories"):

- What the layers below show at a path comes back never once it was deleted or replaced: it is
  behind a whiteout, an opaque folder, or a file of another type. (Only redirect_dir could bring a
  folder back, and the scan refuses that.) So a removal can never be wrong later.
- What vanishes from the upper directory *without* a whiteout was in no layer below.

And one invariant of ours: **two paths share an inode at the destination exactly if they had the
same inode number at the source when they were last sent.** So a path whose number changed gets a
new inode, and one whose number is the same is patched in place: its other names, if it has any,
still have that number too, or are themselves replaced. That holds when the kernel gives a freed
number to a new file, and when a running container shows us a file under two names during a rename.
"""

from __future__ import annotations

import stat
from collections.abc import Collection, Mapping

import msgspec

from migrate.rootfs_items import MakeDir, MakeLink, MakeNode, MakeSymlink, Remove, SetMeta
from migrate.rootfs_scan import Entry, Snapshot, is_settled


class SendFile(msgspec.Struct, frozen=True):
    """Read a regular file and send what of it the destination does not have.

    `entry`: its first name; `names`: all of them. `fresh`: the destination has no such inode yet;
    otherwise it has what was read before under this inode number.
    """

    entry: Entry
    names: tuple[bytes, ...]
    fresh: bool


Step = Remove | MakeDir | MakeLink | MakeSymlink | MakeNode | SetMeta | SendFile


class Plan(msgspec.Struct, frozen=True):
    """The steps in the order in which they must be done; the times of folders come after all."""

    steps: tuple[Step, ...]


def parent_of(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]


def diff(previous: Snapshot | None, current: Snapshot) -> Plan:
    """The steps from what the destination has (`previous`; None: a new container) to `current`."""
    before = previous or Snapshot({})
    known = before.entries
    emptied = _emptied(known, current.entries)
    steps: list[Step] = list(_removals(before, current.entries, emptied))
    links: list[MakeLink] = []  # last, when all folders are there
    by_ino = _changed_inodes(known, current.entries, everything=bool(emptied))
    for path, entry in current.entries.items():
        old = known.get(path)
        if old is entry and not emptied:
            if (names := by_ino.get(entry.ino)) and names[0] is entry:
                _inode(names, before, emptied, steps, links)
            continue
        inside = bool(path) and parent_of(path) in emptied
        if entry.is_dir:
            if path in emptied or old is None or old.meta != entry.meta:
                steps.append(MakeDir(path, entry.meta, path in emptied and not inside))
        elif entry.is_whiteout:
            if not inside and not (old is not None and old.is_whiteout):
                steps.append(Remove(path))
        elif by_ino[entry.ino][0] is entry:
            _inode(by_ino[entry.ino], before, emptied, steps, links)
    return Plan((*steps, *links))


def _changed_inodes(
    before: Mapping[bytes, Entry], now: Mapping[bytes, Entry], *, everything: bool
) -> dict[int, list[Entry]]:
    """The files that are no folders, by inode number, all names of those of which one changed."""
    changed = {
        entry.ino for path, entry in now.items() if everything or before.get(path) is not entry
    }
    by_ino: dict[int, list[Entry]] = {}
    if changed:
        for entry in now.values():
            if entry.ino in changed and not entry.is_dir and not entry.is_whiteout:
                by_ino.setdefault(entry.ino, []).append(entry)
    return by_ino


def _emptied(before: Mapping[bytes, Entry], now: Mapping[bytes, Entry]) -> Collection[bytes]:
    """Folders that begin empty: newly opaque ones, and all below them.

    A folder that was opaque before stays as it is, even if it is another one by now: what was in
    the old one is compared path by path.
    """
    emptied: set[bytes] = set()
    for path, entry in now.items():
        if not entry.is_dir or not path:
            continue
        old = before.get(path)
        if parent_of(path) in emptied or (
            entry.opaque and not (old is not None and old.is_dir and old.opaque)
        ):
            emptied.add(path)
    return emptied


def _removals(
    before: Snapshot, now: Mapping[bytes, Entry], emptied: Collection[bytes]
) -> list[Remove]:
    """What is gone without a whiteout, topmost paths only: what is below goes with them."""
    gone: list[Remove] = []
    for paths in (before.entries, before.unknown):
        for path in paths:
            if path in now:
                continue
            parent = parent_of(path)
            above = now.get(parent)
            # Without a folder above, that one was removed or replaced, and this path with it.
            if above is not None and above.is_dir and parent not in emptied:
                old = before.entries.get(path)
                if old is None or not old.is_whiteout:
                    gone.append(Remove(path))
    return gone


def _inode(
    names: list[Entry],
    before: Snapshot,
    emptied: Collection[bytes],
    steps: list[Step],
    links: list[MakeLink],
) -> None:
    """Add what is to be done for one file that is no folder, under all its names."""
    kept = [entry for entry in names if _stands(entry, before.entries, emptied)]
    first = kept[0] if kept else names[0]
    have = {entry.path for entry in kept} or {first.path}
    links += [MakeLink(entry.path, first.path) for entry in names if entry.path not in have]
    old = before.entries[first.path] if kept else None
    if first.is_file:
        if old is None or not _unchanged(old, first, before.clean_before_ns):
            steps.append(SendFile(first, tuple(entry.path for entry in names), old is None))
    elif old is None:
        if stat.S_ISLNK(first.mode):
            steps.append(MakeSymlink(first.path, first.target, first.meta))
        else:
            steps.append(MakeNode(first.path, first.rdev, first.meta))
    elif old.meta != first.meta:
        steps.append(SetMeta(first.path, first.meta))


def _stands(entry: Entry, before: Mapping[bytes, Entry], emptied: Collection[bytes]) -> bool:
    """Whether the destination has at this path the inode that only needs a patch."""
    old = before.get(entry.path)
    return (
        old is not None
        and old.ino == entry.ino
        and old.kind == entry.kind
        and old.target == entry.target
        and old.rdev == entry.rdev
        and parent_of(entry.path) not in emptied
    )


def _unchanged(old: Entry, new: Entry, clean_before_ns: int) -> bool:
    """Whether a regular file surely has the content that was sent."""
    return old is new or (old == new and is_settled(new.ctime_ns, clean_before_ns))
