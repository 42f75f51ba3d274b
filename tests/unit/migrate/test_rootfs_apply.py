"""The applier: what an honest source sends comes out right, what a hostile one sends is refused."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrate import rootfs_apply
from migrate.errors import AgentFailed, NoSpace, Unsupported
from migrate.rootfs_apply import Applier
from migrate.rootfs_guard import kernel_says
from migrate.rootfs_items import (
    MAX_CHUNK,
    MAX_DEPTH,
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
)
from transport.errors import Failure, StreamCorrupt

T = 1_700_000_000_123_456_789


def meta(kind: int, mode: int = 0o644, xattrs: Xattrs = (), uid: int | None = None) -> Meta:
    return Meta(kind | mode, os.getuid() if uid is None else uid, os.getgid(), T, xattrs)


DIR, FILE = meta(stat.S_IFDIR, 0o755), meta(stat.S_IFREG)
LNK, FIFO = meta(stat.S_IFLNK, 0o777), meta(stat.S_IFIFO)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (root / "escape").symlink_to(outside)
    (root / "folder").mkdir()
    (root / "folder/old").write_text("old")
    (root / "file").write_text("file")
    return root


@pytest.fixture
def applier(root: Path) -> Iterator[Applier]:
    applier = Applier(root, keep=["/kept/volume"])
    yield applier
    applier.close()


def send(applier: Applier, *items: Item) -> None:
    for item in items:
        applier.apply(item)
    applier.apply(End(len(items)))


def test_a_file_with_a_hole(applier: Applier, root: Path) -> None:
    before = os.umask(0o077)
    send(applier, BeginFile(b"new", 9, True), Data(6, b"end"), EndFile(meta(stat.S_IFREG, 0o4751)))
    os.umask(before)
    st = (root / "new").stat()
    assert (root / "new").read_bytes() == bytes(6) + b"end"
    assert (stat.S_IMODE(st.st_mode), st.st_mtime_ns) == (0o4751, T)


def test_a_patch_reaches_all_names(applier: Applier, root: Path) -> None:
    send(
        applier,
        BeginFile(b"folder/a", 200_000, True),
        Data(0, b"x" * 200_000),
        EndFile(FILE),
        MakeLink(b"b", b"folder/a"),
    )
    send(
        applier,
        BeginFile(b"b", 150_000, False),
        Data(1, b"y"),
        Hole(70_000, 70_000),
        EndFile(FILE),
    )
    want = b"xy" + b"x" * 69_998 + bytes(70_000) + b"x" * 10_000
    assert (root / "folder/a").read_bytes() == want
    assert (root / "folder/a").stat().st_ino == (root / "b").stat().st_ino


def test_a_hole_where_none_can_be_punched(
    applier: Applier, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Libc:
        @staticmethod
        def fallocate(*_: int) -> int:
            ctypes.set_errno(errno.EOPNOTSUPP)
            return -1

    monkeypatch.setattr(rootfs_apply, "_libc", Libc)
    size = MAX_CHUNK + 10
    begin = BeginFile(b"file", size, True)
    send(applier, begin, Data(0, b"x" * MAX_CHUNK), Data(MAX_CHUNK, b"y" * 10), EndFile(FILE))
    send(applier, BeginFile(b"file", size, False), Hole(5, size - 7), EndFile(FILE))
    assert (root / "file").read_bytes() == b"xxxxx" + bytes(size - 7) + b"yy"


def test_a_fresh_file_leaves_other_names_alone(applier: Applier, root: Path) -> None:
    os.link(root / "file", root / "other")
    send(applier, BeginFile(b"file", 1, True), Data(0, b"n"), EndFile(FILE))
    assert ((root / "file").read_text(), (root / "other").read_text()) == ("n", "file")


@pytest.mark.parametrize(
    "item",
    [
        MakeDir(b"folder", DIR, True),
        MakeDir(b"file", DIR),
        MakeSymlink(b"folder", b"anywhere/\xff", LNK),
        MakeNode(b"folder", 0, FIFO),
        MakeNode(b"escape", 0, meta(stat.S_IFSOCK)),
        MakeDir(b"escape", DIR),
    ],
)
def test_any_type_replaces_any_other(
    applier: Applier, root: Path, item: MakeDir | MakeSymlink | MakeNode
) -> None:
    send(applier, item)
    path = root / os.fsdecode(item.path)
    assert path.lstat().st_mode == item.meta.mode
    assert path.lstat().st_mtime_ns == T
    if isinstance(item, MakeDir):
        assert list(path.iterdir()) == []
    assert (root / "../outside/secret").read_text() == "secret"


def test_a_folder_that_is_there_keeps_its_files(applier: Applier, root: Path) -> None:
    send(applier, MakeDir(b"folder", DIR))
    assert (root / "folder/old").read_text() == "old"


def test_removal_does_not_follow_links(applier: Applier, root: Path) -> None:
    os.symlink(root.parent / "outside", root / "folder/link")
    send(applier, Remove(b"folder"), Remove(b"escape"), Remove(b"missing"))
    assert sorted(os.listdir(root)) == ["file"]
    assert (root.parent / "outside/secret").exists()


def test_times_of_folders_come_last_and_again(applier: Applier, root: Path) -> None:
    file = (BeginFile(b"d/e/f", 0, True), EndFile(FILE))
    send(applier, MakeDir(b"", DIR), MakeDir(b"d", DIR), MakeDir(b"d/e", DIR), *file)
    send(applier, Remove(b"d/e/f"))  # its folder is as it was, as far as the source knows
    assert [(root / name).stat().st_mtime_ns for name in (".", "d", "d/e")] == [T, T, T]


def test_times_of_folders_that_went(applier: Applier, root: Path) -> None:
    send(applier, MakeDir(b"d", DIR), MakeDir(b"d/e", DIR), MakeSymlink(b"d", b"outside", LNK))
    assert (root / "d").is_symlink()
    assert (root.parent / "outside").stat().st_mtime_ns != T


def test_attributes_are_exactly_those_sent(applier: Applier, root: Path) -> None:
    os.setxattr(root / "file", "user.old", b"1")
    os.setxattr(root / "file", "user.same", b"1")
    wanted = ((b"user.new", b"\0"), (b"user.same", b"1"))
    send(applier, SetMeta(b"file", meta(stat.S_IFREG, xattrs=wanted)))
    assert sorted(os.listxattr(root / "file")) == ["user.new", "user.same"]
    assert os.getxattr(root / "file", "user.new") == b"\0"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change owners")
def test_setuid_and_capabilities_outlive_a_new_owner(applier: Applier, root: Path) -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    (root / "file").chmod(0o4755)
    wanted = meta(stat.S_IFREG, 0o6755, ((b"security.capability", capability),), uid=7)
    send(applier, SetMeta(b"file", wanted))
    assert (root / "file").stat().st_uid == 7
    assert stat.S_IMODE((root / "file").stat().st_mode) == 0o6755
    assert os.getxattr(root / "file", "security.capability") == capability


def test_what_is_kept_survives_all_around_it(applier: Applier, root: Path) -> None:
    (root / "kept/volume").mkdir(parents=True)
    (root / "kept/volume/data").write_text("data")
    (root / "kept/other").write_text("other")
    send(applier, MakeDir(b"kept", DIR, True))
    assert os.listdir(root / "kept") == ["volume"]
    send(applier, Remove(b"kept"))
    assert (root / "kept/volume/data").read_text() == "data"


BAD_PATHS = [
    b"..", b"../outside/x", b"folder/../../outside/x", b"/etc/passwd", b"a//b", b"a/", b".",
    b"./a", b"nul\0", b"", b"kept/volume", b"kept/volume/data", b"/".join([b"d"] * (MAX_DEPTH + 2)),
    b"escape/secret", b"file/x", b"missing/x",
]  # fmt: skip


@pytest.mark.parametrize("path", BAD_PATHS)
@pytest.mark.parametrize("kind", ["rm", "file", "patch", "link", "target", "sym", "node", "meta"])
def test_paths_that_lead_elsewhere(applier: Applier, root: Path, path: bytes, kind: str) -> None:
    items: dict[str, Item] = {
        "rm": Remove(path),
        "file": BeginFile(path, 1, True),
        "patch": BeginFile(path, 1, False),
        "link": MakeLink(path, b"file"),
        "target": MakeLink(b"new", path),
        "sym": MakeSymlink(path, b"x", LNK),
        "node": MakeNode(path, 0, FIFO),
        "meta": SetMeta(path, FILE),
    }
    with pytest.raises(StreamCorrupt):
        applier.apply(items[kind])
    assert (root.parent / "outside/secret").read_text() == "secret"
    assert os.listdir(root.parent / "outside") == ["secret"]


def bad_meta() -> Iterator[Meta]:
    yield Meta(stat.S_IFDIR | 0o644, 0, 0, T)
    yield Meta(0o644, 0, 0, T)
    yield Meta(1 << 20 | stat.S_IFREG, 0, 0, T)
    yield Meta(stat.S_IFREG | 0o644, -1, 0, T)
    yield Meta(stat.S_IFREG | 0o644, 0, 2**32 - 1, T)
    yield Meta(stat.S_IFREG | 0o644, 0, 0, 2**64)
    names = [
        b"trusted.overlay.opaque",
        b"security.selinux",
        b"security.ima",
        b"system.nfs4_acl",
        b"",
    ]
    for name in [*names, b"user.\0", b"user." + b"x" * 300]:
        yield meta(stat.S_IFREG, xattrs=((name, b"y"),))
    yield meta(stat.S_IFREG, xattrs=((b"user.big", bytes(70_000)),))


@pytest.mark.parametrize("wrong", list(bad_meta()))
def test_metadata_that_no_kernel_gives(applier: Applier, root: Path, wrong: Meta) -> None:
    before = (root / "file").stat()
    with pytest.raises(StreamCorrupt):
        applier.apply(SetMeta(b"file", wrong))
    assert (root / "file").stat() == before


@pytest.mark.parametrize(
    "items",
    [
        [Data(0, b"x")],
        [Hole(0, 1)],
        [EndFile(FILE)],
        [BeginFile(b"f", 4, True), Data(-1, b"x")],
        [BeginFile(b"f", 4, True), Data(3, b"xx")],
        [BeginFile(b"f", 4, True), Data(0, b"")],
        [BeginFile(b"f", 4, True), Hole(0, 5)],
        [BeginFile(b"f", 4, True), Hole(2, -1)],
        [BeginFile(b"f", 4, True), Hole(0, 0)],
        [BeginFile(b"f", 4 << 20, True), Data(0, bytes(MAX_CHUNK + 1))],
        [BeginFile(b"f", 4, True), EndFile(DIR)],
        [BeginFile(b"f", 4, True), Remove(b"f")],
        [BeginFile(b"f", 4, True), End(1)],
        [BeginFile(b"f", -1, True)],
        [BeginFile(b"f", 2**63, True)],
        [BeginFile(b"folder", 1, False)],
        [BeginFile(b"escape", 1, False)],
        [MakeNode(b"pipe", 0, FIFO), BeginFile(b"pipe", 1, False)],
        [MakeNode(b"null", 0, meta(stat.S_IFCHR))],
        [MakeNode(b"file", 0, FILE)],
        [MakeNode(b"null", -1, meta(stat.S_IFCHR))],
        [MakeSymlink(b"s", b"", LNK)],
        [MakeSymlink(b"s", b"a\0b", LNK)],
        [MakeSymlink(b"s", b"a", FILE)],
        [MakeLink(b"a", b"folder")],
        [MakeLink(b"file", b"file")],
        [MakeLink(b"folder", b"folder/old")],
        [SetMeta(b"folder", FILE)],
        [SetMeta(b"escape", FILE)],
        [MakeDir(b"", DIR, True)],
        [MakeDir(b"d", FILE)],
        [MakeDir(b"escape/d", DIR)],
        [End(1)],
        [Remove(b"x"), End(2)],
    ],
)
def test_streams_that_contradict_themselves(
    applier: Applier, root: Path, items: list[Item]
) -> None:
    for item in items[:-1]:
        applier.apply(item)
    with pytest.raises(StreamCorrupt):
        applier.apply(items[-1])
    assert (root / "folder/old").read_text() == "old"
    assert (root / "file").read_text() == "file"


@pytest.mark.parametrize("items", [[Remove(b"x")], [BeginFile(b"f", 1, True)]])
def test_a_stream_that_stops_early(applier: Applier, items: list[Item]) -> None:
    for item in items:
        applier.apply(item)
    with pytest.raises(StreamCorrupt):
        applier.finish()


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        (errno.ENOSPC, NoSpace),
        (errno.EDQUOT, NoSpace),
        (errno.EFBIG, Unsupported),
        (errno.EXDEV, StreamCorrupt),
        (errno.EIO, AgentFailed),
    ],
)
def test_what_the_kernel_refuses(code: int, failure: type[Failure]) -> None:
    with pytest.raises(failure, match=r"/etc/\\xff"), kernel_says(b"etc/\xff"):
        raise OSError(code, "")
