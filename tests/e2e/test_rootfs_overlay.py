"""The writable layer of one real overlay, moved to another over the same lower layer."""

from __future__ import annotations

import contextlib
import mmap
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from migrate.errors import NoSpace
from migrate.rootfs_apply import Applier
from migrate.rootfs_items import (
    BeginFile,
    Data,
    End,
    EndFile,
    Item,
    MakeDir,
    MakeLink,
    MakeNode,
    MakeSymlink,
    Remove,
    SetMeta,
)
from migrate.rootfs_scan import settle
from migrate.rootfs_send import PassReport, Sender
from tests.mutate import Mutator
from tests.trees import assert_same_tree, tree_digest
from transport.errors import StreamCorrupt

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


class Pair:
    """Two overlays, `a` and `b`, over one lower folder."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.lower, self.a, self.b = base / "lower", base / "a", base / "b"
        self.upper = base / "upper-a"

    def mount(self, stack: contextlib.ExitStack) -> None:
        for name in "ab":
            upper, work, merged = (self.base / f"{kind}-{name}" for kind in ("upper", "work", "m"))
            merged = self.base / name
            for folder in (upper, work, merged):
                folder.mkdir()
            # As Docker does; redirect_dir and metacopy are off by default.
            options = f"lowerdir={self.lower},upperdir={upper},workdir={work},index=off"
            options += ",redirect_dir=off,metacopy=off"
            _run("mount", "-t", "overlay", "overlay", "-o", options, str(merged))
            stack.callback(_run, "umount", "-l", str(merged))


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, timeout=30)


@pytest.fixture(params=["tmpfs", "disk"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    """tmpfs never stamps writes through mappings, a disk does: both rules are tested."""
    with contextlib.ExitStack() as stack:
        if request.param == "tmpfs":
            _run("mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", str(tmp_path))
            stack.callback(_run, "umount", "-l", str(tmp_path))
        elif settle(tmp_path) == 0:
            pytest.skip("the folder for temporary files is on no disk that overlayfs can use")
        pair = Pair(tmp_path)
        pair.lower.mkdir()
        for name in ("keep", "tree/inner/deep", "other"):
            (pair.lower / name).mkdir(parents=True)
            (pair.lower / name / "file").write_text(name * 1000)
        fill = Mutator(pair.lower, 4711, privileged=True)
        fill.fill(60)
        pair.mount(stack)
        yield pair


class Link:
    """A sender and an applier, with the wire format in between."""

    def __init__(self, pair: Pair, settle: Callable[[Path], int] = settle) -> None:
        self.sender = Sender(pair.upper, settle=settle)
        self.applier = Applier(pair.b)
        self.encoder = msgspec.msgpack.Encoder()
        self.decoder: msgspec.msgpack.Decoder[Item] = msgspec.msgpack.Decoder(Item)

    def carry(self, item: Item) -> None:
        self.applier.apply(self.decoder.decode(self.encoder.encode(item)))

    def send(self, *, final: bool = False) -> PassReport:
        report = self.sender.send_pass(self.carry, final=final)
        if final:
            self.applier.finish()
        return report


@pytest.mark.parametrize("seed", range(12))
def test_random_changes_between_passes(pair: Pair, seed: int) -> None:
    link = Link(pair)
    mutator = Mutator(pair.a, seed, privileged=True)
    try:
        for count in (30, 20, 0, 20, 8):
            mutator.run(count)
            link.send()
        mutator.run(10)
        link.send(final=True)
        assert_same_tree(pair.a, pair.b)
    finally:
        mutator.close()


@pytest.mark.parametrize("seed", range(4))
def test_random_changes_during_passes(pair: Pair, seed: int) -> None:
    link = Link(pair)
    mutator = Mutator(pair.a, seed, privileged=True)
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            mutator.run(1)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(5):
            link.send()
            time.sleep(0.01)
        stop.set()
        thread.join()
        link.send(final=True)
        assert_same_tree(pair.a, pair.b)
    finally:
        stop.set()
        thread.join()
        mutator.close()


def _send_without(kind: type[Item], link: Link) -> None:
    """The final pass without its first item of a kind, on a wire that hides the loss.

    Folders come, but not empty: a folder that does not come at all is hard to overlook.
    """
    lost = 0
    hidden = 0

    def carry(item: Item) -> None:
        nonlocal lost, hidden
        if not lost and isinstance(item, MakeDir) and kind is MakeDir and item.replace:
            lost = 1
            link.carry(MakeDir(item.path, item.meta, replace=False))
        elif not lost and kind is not MakeDir and isinstance(item, kind):
            lost = hidden = 1
        else:
            link.carry(End(item.items - hidden) if isinstance(item, End) else item)

    link.sender.send_pass(carry, final=True)
    assert lost, f"no {kind.__name__} in this pass"


@pytest.mark.parametrize(
    "kind", [None, Remove, MakeDir, MakeLink, MakeSymlink, MakeNode, Data, EndFile, SetMeta]
)
def test_a_lost_operation_is_seen(pair: Pair, kind: type[Item] | None) -> None:
    """The control of this file's comparisons: they fail if one operation gets lost."""
    link = Link(pair)
    (pair.a / "old").write_text("old")
    os.mkfifo(pair.a / "pipe")
    link.send()
    (pair.a / "old").unlink()
    (pair.a / "other/file").unlink()
    os.chmod(pair.a / "pipe", 0o606)
    _run("rm", "-r", str(pair.a / "tree"))
    (pair.a / "tree").mkdir()
    (pair.a / "one").write_text("one")
    os.link(pair.a / "one", pair.a / "two")
    os.symlink("one", pair.a / "three")
    os.mkfifo(pair.a / "four")
    if kind is None:
        link.send(final=True)
        assert_same_tree(pair.a, pair.b)
        return
    if kind is EndFile:
        with pytest.raises(StreamCorrupt, match="not ended"):
            _send_without(kind, link)
        return
    _send_without(kind, link)
    assert tree_digest(pair.a) != tree_digest(pair.b)


def _second_write_arrives(pair: Pair, name: str, settle: Callable[[Path], int]) -> bool:
    """Of two writes through a mapping, with a pass between."""
    path = pair.a / name
    path.write_bytes(bytes(65536))
    os.sync()
    link = Link(pair, settle)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[0] = 1
        time.sleep(0.1)
        link.send()
        time.sleep(0.1)
        mapping[0] = 2
        link.send(final=True)
        return (pair.b / name).read_bytes()[0] == 2


def test_writes_to_pages_that_are_dirty_already(pair: Pair) -> None:
    """Only `settle` makes a second write through a mapping visible; tmpfs needs none."""
    assert _second_write_arrives(pair, "mapped", settle)


def test_without_settling_they_are_missed(pair: Pair) -> None:
    """The control. The kernel may write the page back by itself: not each time."""
    if settle(pair.upper) == 0:
        pytest.skip("all is compared on this file system")
    arrives = (
        _second_write_arrives(pair, f"mapped{number}", lambda _: time.time_ns())
        for number in range(5)
    )
    assert not all(arrives)


def test_rewrites_within_a_tick(pair: Pair) -> None:
    """Same size, same mtime, and for kernels without fine stamps the same ctime."""
    path = pair.a / "state"
    path.write_bytes(b"....")
    stamp = path.stat().st_mtime_ns
    link = Link(pair)
    for number in range(200):
        path.write_bytes(b"%04d" % number)
        os.utime(path, ns=(stamp, stamp))
        link.send()
    path.write_bytes(b"last")
    os.utime(path, ns=(stamp, stamp))
    link.send(final=True)
    assert (pair.b / "state").read_bytes() == b"last"


def test_a_patch_sends_blocks_and_holes_stay(pair: Pair) -> None:
    path = pair.a / "disk.img"
    with open(path, "wb") as file:
        file.write(os.urandom(4_000_000))
        file.truncate(100_000_000)
    link = Link(pair)
    assert link.send().bytes <= 4_100_000
    with open(path, "r+b") as file:
        file.seek(2_000_000)
        file.write(b"patch")
        file.seek(90_000_000)
        file.write(b"far")
    report = link.send(final=True)
    assert report.bytes == 2 * 131072
    assert (pair.b / "disk.img").stat().st_blocks * 512 < 10_000_000
    assert_same_tree(pair.a, pair.b)


def test_a_volume_in_a_folder_that_the_container_made(pair: Pair) -> None:
    """Docker made /data/volume at both hosts: the folder around it is replaced, it is not."""
    for merged in (pair.a, pair.b):
        (merged / "data/volume").mkdir(parents=True)
    (pair.upper / "data/volume/hidden").write_text("under the volume: no part of the container")
    (pair.a / "data/own").write_text("own")
    sender = Sender(pair.upper, skip=["/data/volume"])
    applier = Applier(pair.b, keep=["/data/volume"])
    sender.send_pass(applier.apply, final=True)
    applier.finish()
    assert (pair.b / "data/own").read_text() == "own"
    assert list((pair.b / "data/volume").iterdir()) == []


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        _run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path))
        stack.callback(_run, "umount", "-l", str(tmp_path))
        applier = Applier(tmp_path)
        stack.callback(applier.close)
        applier.apply(BeginFile(b"big", 2 << 20, True))
        applier.apply(Data(0, b"x" * 900_000))
        with pytest.raises(NoSpace, match="/big: No space left"):
            applier.apply(Data(1 << 20, b"x" * 900_000))
