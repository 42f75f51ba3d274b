"""Scanning, reading and sending, on plain folders: no overlay is needed to read an upper one."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from migrate.errors import DumpFailed, Unsupported
from migrate.rootfs_apply import Applier
from migrate.rootfs_items import (
    BLOCK,
    MAX_DEPTH,
    BeginFile,
    Data,
    End,
    EndFile,
    Hole,
    Item,
    MakeDir,
    MakeLink,
    Remove,
    carried,
)
from migrate.rootfs_scan import Snapshot, scan
from migrate.rootfs_send import Sender
from tests.mutate import Mutator
from tests.trees import assert_same_tree


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    upper = tmp_path / "upper"
    upper.mkdir()
    return upper


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    return root


def late(_: Path) -> int:
    """As if all had been written back, long after the last change."""
    return time.time_ns() + 60_000_000_000


def collect(sender: Sender, *, final: bool = False) -> list[Item]:
    items: list[Item] = []
    sender.send_pass(items.append, final=final)
    return items[:-1]


@pytest.mark.parametrize("seed", range(10))
def test_random_changes(upper: Path, root: Path, seed: int) -> None:
    """Without layers below, an upper directory is just a folder (and has no whiteouts)."""
    sender, applier = Sender(upper), Applier(root)
    mutator = Mutator(upper, seed, privileged=os.geteuid() == 0)
    try:
        for count in (40, 20, 0, 20):
            mutator.run(count)
            sender.send_pass(applier.apply, final=count == 20)
        mutator.run(10)
        sender.send_pass(applier.apply, final=True)
        applier.finish()
        assert_same_tree(upper, root)
    finally:
        mutator.close()
        applier.close()


def test_what_is_unchanged_is_not_read(upper: Path) -> None:
    (upper / "d").mkdir()
    (upper / "d/f").write_text("content")
    sender = Sender(upper, settle=late)
    assert len(collect(sender)) == 5
    before = sender._sent
    report = sender.send_pass(lambda _: None, final=True)
    assert (report.files, report.items, report.dirty_bytes, report.entries) == (0, 0, 0, 3)
    assert before is not None
    assert sender._sent is not None
    assert sender._sent.entries[b"d/f"] is before.entries[b"d/f"]


def test_what_may_have_changed_is_read_but_not_sent(upper: Path) -> None:
    (upper / "f").write_text("content")
    sender = Sender(upper, settle=lambda _: 0)
    collect(sender)
    report = sender.send_pass(lambda _: None)
    assert (report.files, report.items, report.dirty_bytes) == (1, 0, 7)


def test_only_blocks_that_changed_are_sent(upper: Path) -> None:
    path = upper / "f"
    path.write_bytes(os.urandom(5 * BLOCK + 10))
    sender = Sender(upper)
    collect(sender)
    with open(path, "r+b") as file:
        file.seek(2 * BLOCK - 1)
        file.write(b"across")
        file.truncate(4 * BLOCK + 5)
    begin, one, other, end = collect(sender)
    content = path.read_bytes()
    assert begin == BeginFile(b"f", 4 * BLOCK + 5, False)
    assert one == Data(BLOCK, content[BLOCK : 3 * BLOCK])
    assert other == Data(4 * BLOCK, content[4 * BLOCK :])
    assert isinstance(end, EndFile)


@pytest.mark.parametrize("seed", range(5))
def test_sparse_files(upper: Path, root: Path, seed: int) -> None:
    """Data in pages of 4 KiB here and there, and shorter and longer files."""
    sender, applier = Sender(upper), Applier(root)
    chance = random.Random(seed)
    size = 12 * BLOCK
    for _ in range(12):
        with open(upper / "f", "ab") as file:
            if chance.random() < 0.3:
                file.truncate(0)  # all that was data becomes a hole, or is written again
            file.truncate(size)
            for _ in range(chance.choice([0, 1, 5])):
                page = chance.choice([b"", b"data" * 1024, bytes(4096)])
                with open(upper / "f", "r+b") as patch:
                    patch.seek(chance.randrange(size))
                    patch.write(page)
            size = chance.choice([size, chance.randrange(20 * BLOCK)]) or BLOCK
        sender.send_pass(applier.apply)
        content = (upper / "f").read_bytes()
        assert (root / "f").read_bytes() == content
        used = sum(any(content[at : at + BLOCK]) for at in range(0, len(content), BLOCK))
        assert (root / "f").stat().st_blocks * 512 <= used * BLOCK + 8192
    applier.close()


def test_blocks_that_became_zero_are_holes(upper: Path) -> None:
    (upper / "f").write_bytes(b"x" * (3 * BLOCK))
    sender = Sender(upper)
    collect(sender)
    (upper / "f").write_bytes(b"x" * BLOCK + bytes(BLOCK + 9))
    begin, hole, _ = collect(sender)
    assert begin == BeginFile(b"f", 2 * BLOCK + 9, False)
    assert hole == Hole(BLOCK, BLOCK + 9)


def test_a_file_that_only_grew_by_a_hole(upper: Path) -> None:
    (upper / "f").write_bytes(b"x" * BLOCK)
    sender = Sender(upper)
    collect(sender)
    os.truncate(upper / "f", 2 * BLOCK)
    begin, end = collect(sender)
    assert begin == BeginFile(b"f", 2 * BLOCK, False)
    assert isinstance(end, EndFile)


def test_links_to_a_file_that_was_not_sent(upper: Path) -> None:
    (upper / "a").write_text("x")
    os.link(upper / "a", upper / "b")
    items: list[Item] = []

    def remove_all(item: Item) -> None:
        items.append(item)
        for path in upper.iterdir():
            path.unlink()

    assert Sender(upper).send_pass(remove_all).failed == 2
    assert [type(item) for item in items] == [MakeDir, End]


def test_stamps_prove_only_what_is_older_than_a_few_ticks(upper: Path) -> None:
    assert scan(upper, settled_ns=10**9).clean_before_ns == 950_000_000
    assert scan(upper).clean_before_ns == 0


def vanish(path: Path) -> None:
    path.unlink()


def become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def become_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def become_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def become_another(path: Path) -> None:
    path.with_name("tmp").write_text("another")
    path.with_name("tmp").rename(path)


CHANGES = [vanish, become_folder, become_link, become_fifo, become_another]


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_is_gone_when_it_is_read(
    upper: Path, root: Path, change: Callable[[Path], None]
) -> None:
    """It is left to the next pass, with its links; frozen, that cannot be."""
    for name in ("a", "b"):
        (upper / name).write_text("old")
    os.link(upper / "b", upper / "c")
    sender, applier = Sender(upper), Applier(root)

    def swap_once(item: Item) -> None:
        applier.apply(item)
        if isinstance(item, EndFile) and (upper / "b").is_file():
            for name in ("a", "b"):
                if not item_is(name, root):
                    change(upper / name)

    report = sender.send_pass(swap_once)
    assert report.failed >= 1
    sender.send_pass(applier.apply, final=True)
    applier.finish()
    assert_same_tree(upper, root)


def item_is(name: str, root: Path) -> bool:
    return (root / name).exists()


@pytest.mark.parametrize("change", CHANGES)
def test_a_frozen_file_that_is_gone(upper: Path, change: Callable[[Path], None]) -> None:
    (upper / "d").mkdir()
    (upper / "d/f").write_text("old")

    def swap(item: Item) -> None:
        if isinstance(item, MakeDir) and item.path == b"d":
            change(upper / "d/f")

    with pytest.raises(DumpFailed, match="/d/f changed while the container was frozen"):
        Sender(upper).send_pass(swap, final=True)


def test_a_frozen_file_that_is_written_to(upper: Path) -> None:
    (upper / "f").write_text("old")
    sender = Sender(upper)

    def write(item: Item) -> None:
        if isinstance(item, MakeDir):
            (upper / "f").write_text("longer")

    with pytest.raises(DumpFailed):
        sender.send_pass(write, final=True)


def test_a_folder_that_becomes_a_link_to_the_host(upper: Path, tmp_path: Path) -> None:
    """A container must not make us read files of the host by a well-timed rename."""
    (tmp_path / "host").mkdir()
    (tmp_path / "host/f").write_text("secret of the host")
    (upper / "d").mkdir()
    (upper / "d/f").write_text("harmless")
    items: list[Item] = []

    def swap(item: Item) -> None:
        items.append(item)
        if isinstance(item, MakeDir) and item.path == b"d":
            (upper / "d").rename(upper / "old")
            (upper / "d").symlink_to(tmp_path / "host")

    report = Sender(upper).send_pass(swap)
    assert report.failed == 1
    assert not [item for item in items if isinstance(item, Data)]


def test_skipped_paths(upper: Path) -> None:
    (upper / "etc").mkdir()
    for name in ("etc/hosts", "etc/hostname", "own"):
        (upper / name).write_text("x")
    (upper / "data").mkdir()
    (upper / "data/inside").write_text("x")
    found = scan(upper, skip=["/etc/hosts", "/etc/hostname", "/data/"])
    assert set(found.entries) == {b"", b"etc", b"own"}


def test_marks_of_overlayfs_in_user_attributes(upper: Path) -> None:
    (upper / "d").mkdir()
    os.setxattr(upper / "d", "user.overlay.opaque", b"y")
    os.setxattr(upper / "d", "user.overlay.origin", b"?")
    os.setxattr(upper / "d", "user.own", b"1")
    entry = scan(upper, userxattr=True).entries[b"d"]
    assert (entry.opaque, entry.xattrs) == (True, ((b"user.own", b"1"),))
    plain = scan(upper).entries[b"d"]
    assert not plain.opaque
    assert len(plain.xattrs) == 3


@pytest.mark.parametrize("mark", ["redirect", "metacopy", "whiteout", "overlay.opaque"])
def test_layers_that_cannot_be_read_from_the_upper(upper: Path, mark: str) -> None:
    (upper / "some").write_text("")
    os.setxattr(upper / "some", f"user.overlay.{mark}", b"y")
    with pytest.raises(Unsupported, match="/some "):
        scan(upper, userxattr=True)


def test_folders_too_deep(upper: Path) -> None:
    path = upper
    for _ in range(MAX_DEPTH):
        path /= "d"
        path.mkdir()
    assert len(scan(upper).entries) == MAX_DEPTH + 1
    (path / "d").mkdir()
    with pytest.raises(Unsupported, match="folders deep"):
        scan(upper)


def test_times_out_of_range(upper: Path) -> None:
    """The wire has 64 bits of nanoseconds."""
    os.utime(upper, ns=(0, 10**19))
    (item,) = collect(Sender(upper))
    assert isinstance(item, MakeDir)
    assert item.meta.mtime_ns < 2**63


def test_a_link_set_is_sent_once(upper: Path) -> None:
    (upper / "a").write_bytes(random.Random(1).randbytes(1000))
    os.link(upper / "a", upper / "b")
    items = collect(Sender(upper))
    assert len([item for item in items if isinstance(item, Data)]) == 1
    (link,) = [item for item in items if isinstance(item, MakeLink)]
    assert {link.path, link.target} == {b"a", b"b"}


def test_vanished_files_are_removed(upper: Path) -> None:
    (upper / "d").mkdir()
    (upper / "d/f").write_text("x")
    sender = Sender(upper)
    collect(sender)
    (upper / "d/f").unlink()
    (upper / "d").rmdir()
    assert Remove(b"d") in collect(sender)
    assert Remove(b"d/f") not in collect(sender)


def test_a_scan_of_nothing(upper: Path) -> None:
    assert isinstance(scan(upper), Snapshot)
    assert set(scan(upper).entries) == {b""}


@pytest.mark.parametrize(
    ("name", "moves"),
    [
        (b"user.x", True),
        (b"security.capability", True),
        (b"system.posix_acl_default", True),
        (b"trusted.x", True),
        (b"trusted.overlay.opaque", False),
        (b"security.selinux", False),
        (b"security.capability2", False),
        (b"system.other", False),
    ],
)
def test_attributes_that_move(name: bytes, moves: bool) -> None:
    assert carried(name) is moves
