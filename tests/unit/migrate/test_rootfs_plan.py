"""The plan, against a model of overlayfs: whatever a container does, the destination follows."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from migrate.rootfs_items import MakeDir, MakeLink, MakeNode, MakeSymlink, Remove
from migrate.rootfs_plan import Plan, SendFile, diff, parent_of
from migrate.rootfs_scan import Entry, Snapshot

FILE, DIR, LNK, FIFO = stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO
LOWER = {b"": DIR, b"a": DIR, b"a/b": DIR, b"a/b/c": FILE, b"a/c": FILE, b"b": FILE, b"c": DIR}


@dataclass(eq=False)
class Node:
    """An inode of the model."""

    kind: int
    content: int = 0
    mode: int = 0o755
    ino: int = 0  # in the upper directory; 0: still only in the lower
    ctime: int = 0
    merged: bool = False  # a folder of the lower layer


@dataclass
class Source:
    """An overlay: what the container sees, from which the upper directory follows."""

    tree: dict[bytes, Node] = field(
        default_factory=lambda: {p: Node(k, merged=k == DIR) for p, k in LOWER.items()}
    )
    free: list[int] = field(default_factory=list)
    inodes: int = 100
    clock: int = 10**9 + 1

    def touch(self, node: Node) -> None:
        if not node.ino:
            if not self.free:
                self.inodes += 1
                self.free.append(self.inodes)
            node.ino = self.free.pop()  # the last freed first, as if to provoke mix-ups
        node.ctime = self.clock

    def copy_up(self, path: bytes) -> None:
        while True:
            self.touch(self.tree[path])
            if not path:
                return
            path = parent_of(path)

    def put(self, path: bytes, node: Node) -> None:
        self.copy_up(parent_of(path))
        self.touch(node)
        self.tree[path] = node

    def remove(self, path: bytes) -> None:
        self.copy_up(parent_of(path))
        for name in [p for p in self.tree if p == path or p.startswith(path + b"/")]:
            node = self.tree.pop(name)
            if node.ino and node not in self.tree.values():
                self.free.append(node.ino)

    def step(self, action: int, one: int, two: int) -> None:
        paths = sorted(p for p in self.tree if p)
        folders = sorted(p for p, node in self.tree.items() if node.kind == DIR)
        self.clock += two % 2  # sometimes two changes within a tick
        path = paths[one % len(paths)] if paths else b""
        new = (folders[one % len(folders)] + b"/" + b"abcd"[two % 4 : two % 4 + 1]).strip(b"/")
        if action < 4:
            if new not in self.tree:
                self.put(new, Node((FILE, DIR, LNK, FIFO)[action], two))
        elif not path:
            return
        elif action == 4:
            self.remove(path)
        elif action == 5:  # rm -r; mkdir, or another type
            self.remove(path)
            self.put(path, Node((DIR, FILE)[two % 2], two))
        elif action == 6:
            self.copy_up(path)
            if self.tree[path].kind == FILE:
                self.tree[path].content += 1
            else:
                self.tree[path].mode ^= 0o11
        elif action == 7 and self.tree[path].kind != DIR and new not in self.tree:
            self.copy_up(path)
            self.put(new, self.tree[path])
        elif (
            action == 8 and not self.tree[path].merged and not (new + b"/").startswith(path + b"/")
        ):
            self.rename(path, new)

    def rename(self, path: bytes, new: bytes) -> None:
        old = self.tree.get(new)
        if old is not None and (old.kind == DIR or self.tree[path].kind == DIR):
            return
        self.copy_up(path)
        inside = [p for p in self.tree if p == path or p.startswith(path + b"/")]
        moved = {new + p[len(path) :]: self.tree[p] for p in inside}
        if old is not None:
            self.remove(new)
        self.copy_up(parent_of(new))
        for p in inside:
            del self.tree[p]
        self.tree.update(moved)

    def snapshot(self) -> Snapshot:
        entries: dict[bytes, Entry] = {}
        for path in sorted(self.tree.keys() | LOWER.keys()):
            node = self.tree.get(path)
            above = self.tree.get(parent_of(path))
            if node is None:
                if above is not None and above.merged:  # a whiteout
                    entries[path] = entry(path, Node(stat.S_IFCHR, mode=0, ino=1))
            elif node.ino:
                entries[path] = entry(path, node)
        return Snapshot(entries, self.clock)


def entry(path: bytes, node: Node) -> Entry:
    opaque = node.kind == DIR and not node.merged
    target = b"%d" % node.content if node.kind == LNK else b""
    size = 10  # as if all contents had the same length
    mode, ctime = node.kind | node.mode, node.ctime
    return Entry(path, mode, 0, 0, 0, size, 0, ctime, node.ino, 1, (), target, opaque)


class Destination:
    """What the applier does, on the model. Asserts what the applier would refuse."""

    def __init__(self) -> None:
        self.tree = {p: Node(k) for p, k in LOWER.items()}

    def clear(self, path: bytes) -> None:
        assert self.tree[parent_of(path)].kind == DIR
        for name in [p for p in self.tree if p == path or p.startswith(path + b"/")]:
            del self.tree[name]

    def follow(self, plan: Plan, source: Source, fail: int = 0) -> set[bytes]:
        """Do the steps; every `fail`th file cannot be read. Gives their names."""
        failed: set[bytes] = set()
        count = 0
        for step in plan.steps:
            if isinstance(step, Remove):
                self.clear(step.path)
            elif isinstance(step, MakeDir):
                if step.replace or step.path not in self.tree or self.tree[step.path].kind != DIR:
                    self.clear(step.path)
                    self.tree[step.path] = Node(DIR)
                self.tree[step.path].mode = stat.S_IMODE(step.meta.mode)
            elif isinstance(step, MakeLink):
                if step.target not in failed:
                    self.clear(step.path)
                    self.tree[step.path] = self.tree[step.target]
            elif isinstance(step, SendFile):
                count += 1
                if fail and count % fail == 0:
                    failed.update(step.names)
                    continue
                path, real = step.entry.path, source.tree[step.entry.path]
                if step.fresh:
                    self.clear(path)
                    self.tree[path] = Node(FILE)
                assert self.tree[path].kind == FILE
                self.tree[path].content, self.tree[path].mode = real.content, real.mode
            else:
                mode = step.meta.mode
                if isinstance(step, MakeSymlink | MakeNode):
                    self.clear(step.path)
                    content = int(step.target) if isinstance(step, MakeSymlink) else 0
                    self.tree[step.path] = Node(stat.S_IFMT(mode), content)
                self.tree[step.path].mode = stat.S_IMODE(mode)
        return failed


def facts(tree: dict[bytes, Node]) -> dict[bytes, tuple[object, ...]]:
    first: dict[Node, bytes] = {}
    seen: dict[bytes, tuple[object, ...]] = {}
    for path, node in sorted(tree.items()):
        content = node.content if node.kind in (FILE, LNK) else 0
        seen[path] = (node.kind, content, node.mode, first.setdefault(node, path))
    return seen


ACTIONS = st.tuples(st.integers(0, 8), st.integers(0, 20), st.integers(0, 20))


@settings(max_examples=400, deadline=None)
@given(passes=st.lists(st.tuples(st.lists(ACTIONS, max_size=8), st.integers(0, 3)), max_size=5))
def test_the_destination_follows(
    passes: list[tuple[list[tuple[int, int, int]], int]],
) -> None:
    source, destination = Source(), Destination()
    sent: Snapshot | None = None
    for actions, fail in [*passes, ([], 0)]:
        for action in actions:
            source.step(*action)
        now = source.snapshot()
        failed = destination.follow(diff(sent, now), source, fail)
        known = {path: e for path, e in now.entries.items() if path not in failed}
        sent = Snapshot(known, now.clean_before_ns, frozenset(failed))
    assert facts(destination.tree) == facts(source.tree)


def file(path: bytes, *, ino: int = 5, ctime: int = 1_500) -> Entry:
    return Entry(path, FILE | 0o644, 0, 0, 0, size=3, mtime_ns=7, ctime_ns=ctime, ino=ino, nlink=1)


def layer(*entries: Entry, clean_before_ns: int = 9_999) -> Snapshot:
    root = Entry(b"", DIR | 0o755, 0, 0, 0, 0, 0, 0, 2, 2)
    return Snapshot({entry.path: entry for entry in (root, *entries)}, clean_before_ns)


def test_nothing_new_is_no_work() -> None:
    now = layer(file(b"f"))
    assert diff(now, now).steps == ()
    assert diff(now, layer(file(b"f"))).steps == ()


def test_a_stamp_that_is_too_young_proves_nothing() -> None:
    before = layer(file(b"f", ctime=10_000), clean_before_ns=10_000)
    (step,) = diff(before, layer(file(b"f", ctime=10_000))).steps
    assert isinstance(step, SendFile)
    assert not step.fresh


def test_a_whole_second_may_be_a_coarse_stamp() -> None:
    stamp = 5 * 10**9
    now = layer(file(b"f", ctime=stamp))
    young = layer(file(b"f", ctime=stamp), clean_before_ns=stamp + 10**9)
    old = layer(file(b"f", ctime=stamp), clean_before_ns=stamp + 10**9 + 1)
    assert len(diff(young, now).steps) == 1
    assert diff(old, now).steps == ()


def test_a_name_that_left_a_link_set_gets_an_inode_of_its_own() -> None:
    before = layer(file(b"f"), file(b"g"))
    (step,) = diff(before, layer(file(b"f"), file(b"g", ino=6))).steps
    assert isinstance(step, SendFile)
    assert (step.names, step.fresh) == ((b"g",), True)


def test_the_first_name_of_a_link_set_goes() -> None:
    """The destination keeps the inode under the other name, and a third is linked to that."""
    before = layer(file(b"f"), file(b"g"))
    now = layer(file(b"a", ctime=2_000), file(b"g", ctime=2_000))
    remove, send, link = diff(before, now).steps
    assert remove == Remove(b"f")
    assert isinstance(send, SendFile)
    assert (send.entry.path, send.fresh) == (b"g", False)
    assert link == MakeLink(b"a", b"g")


def test_what_could_not_be_sent_is_removed_when_it_vanishes() -> None:
    before = Snapshot(layer().entries, 0, frozenset({b"f"}))
    assert diff(before, layer()).steps == (Remove(b"f"),)


def test_a_folder_that_became_opaque_is_filled_again() -> None:
    """Even with what looks unchanged: the destination throws all of it away."""

    def folder(path: bytes, ino: int, opaque: bool) -> Entry:
        return Entry(path, DIR | 0o755, 0, 0, 0, 0, 0, 0, ino, 2, opaque=opaque)

    inside = (folder(b"d/e", 11, False), file(b"d/e/f", ino=12))
    before = layer(folder(b"d", 10, False), *inside)
    now = layer(folder(b"d", 10, True), *inside)
    outer, inner, send = diff(before, now).steps
    assert isinstance(outer, MakeDir)
    assert isinstance(inner, MakeDir)
    assert isinstance(send, SendFile)
    assert (outer.replace, inner.replace, send.fresh) == (True, False, True)


def test_a_symbolic_link_with_a_reused_inode_number() -> None:
    def link(target: bytes) -> Entry:
        return Entry(b"s", LNK | 0o777, 0, 0, 0, 3, 0, 5, 9, 1, (), target)

    (step,) = diff(layer(link(b"old")), layer(link(b"new"))).steps
    assert isinstance(step, MakeSymlink)
    assert step.target == b"new"
