"""migrate.outgoing: which source of memory, and what is ended when it cannot begin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from migrate import outgoing
from migrate.criu import DumpTarget
from migrate.errors import CriuUnfit, Unsupported
from migrate.outgoing import SOURCES, Outgoing, choose_source, coarse_tracking
from migrate.std_streams import Streams
from tests.unit.migrate.memory_channel import pair


@pytest.mark.parametrize(
    ("wanted", "tracked", "rounds", "chosen"),
    [
        ("auto", True, 30, "predump"),
        ("auto", True, 0, "scan"),
        ("auto", False, 30, "scan"),
        ("scan", True, 30, "scan"),
        ("scan", False, 0, "scan"),
        ("predump", True, 30, "predump"),
        ("predump", True, 0, "predump"),
    ],
)
def test_the_source(
    wanted: str, tracked: bool, rounds: int, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert wanted in SOURCES
    monkeypatch.setattr(outgoing, "tracks_writes", lambda: tracked)
    assert choose_source(wanted, rounds) == chosen


def test_pre_dumps_need_a_kernel_that_tracks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "tracks_writes", lambda: False)
    with pytest.raises(Unsupported, match="CONFIG_MEM_SOFT_DIRTY") as caught:
        choose_source("predump", 30)
    assert "scan" in caught.value.remedy


def test_huge_pages_are_mentioned_where_they_are_on() -> None:
    assert "2 MiB" in coarse_tracking("[always] madvise never")
    for setting in ("always [madvise] never", "always madvise [never]", ""):
        assert not coarse_tracking(setting)


class World:
    """`log`: what was made and ended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[Any] = []
        self.fail: Exception | None = None
        world = self

        class Part:
            def __init__(self, *_: Any, **__: Any) -> None:
                world.log.append(type(self).__name__)

            def close(self) -> None:
                world.log.append(f"{type(self).__name__} closed")

        class Dumper(Part):
            def start(self) -> None:
                world.log.append("started")
                if world.fail:
                    raise world.fail

        class MemoryScan(Part):
            pass

        class CriuPreDump(Part):
            pass

        monkeypatch.setattr(outgoing, "run", self.log.append)
        for part in (Dumper, MemoryScan, CriuPreDump):
            monkeypatch.setattr(outgoing, part.__name__, part)

    def make(self, base: Path, source: str) -> Outgoing:
        return Outgoing(
            base, DumpTarget(1, {}, "/f"), pair()[0], tcp="established",
            streams=Streams([], frozenset()), memory=1 << 20, source=source, seed=1, cached=b"",
        )  # fmt: skip


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


@pytest.mark.parametrize(("source", "made"), [("scan", "MemoryScan"), ("predump", "CriuPreDump")])
def test_criu_waits_on_a_private_tmpfs(
    world: World, tmp_path: Path, source: str, made: str
) -> None:
    base = tmp_path / "a" / "base"
    checkpoint = world.make(base, source)
    mount, *rest = world.log
    assert mount[:3] == ["mount", "-t", "tmpfs"]
    assert mount[-1] == str(base)
    assert "mode=0700" in mount[4]
    assert rest == ["Dumper", made, "started"]
    assert base.stat().st_mode & 0o777 == 0o700
    assert checkpoint.images.is_dir()
    assert checkpoint.work.is_dir()
    checkpoint.close()
    assert world.log[-2:] == ["Dumper closed", f"{made} closed"]


def test_one_that_cannot_begin_leaves_nothing_running(world: World, tmp_path: Path) -> None:
    world.fail = CriuUnfit("criu is not installed")
    with pytest.raises(CriuUnfit):
        world.make(tmp_path / "base", "scan")
    assert world.log[-2:] == ["Dumper closed", "MemoryScan closed"]
