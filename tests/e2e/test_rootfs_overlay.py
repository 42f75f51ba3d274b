"""The writable layer of one real overlay, moved to another over the same lower layer."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from migrate.rootfs_apply import Applier
from migrate.rootfs_items import (
    Item,
)
from migrate.rootfs_scan import settle
from migrate.rootfs_send import PassReport, Sender
from tests.mutate import Mutator
from tests.trees import assert_same_tree

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

    def __init__(self, pair: Pair, **options: Any) -> None:
        self.sender = Sender(pair.upper, **options)
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
