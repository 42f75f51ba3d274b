"""migrate.room: which file system is full."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from migrate import room
from migrate.errors import NoSpace, PlacementFailed

FREE = {"/small": (3 << 20, 10), "/large": (90 << 20, 10), "/odd": (90 << 20, 0)}


@pytest.fixture
def disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """File systems at the first name of each path; bytes and inodes as FREE has them."""

    def statvfs(top: Path) -> SimpleNamespace:
        size, inodes = FREE[str(top)]
        return SimpleNamespace(f_bavail=size >> 12, f_frsize=4096, f_files=99, f_favail=inodes)

    monkeypatch.setattr(room, "mount_of", lambda path: Path(*path.parts[:2]))
    monkeypatch.setattr(os, "statvfs", statvfs)


@pytest.mark.usefixtures("disks")
def test_the_one_with_the_least_room_is_named() -> None:
    assert room.tightest([Path("/large/a"), Path("/small/b/c")]) == "/small: 3 MiB free"
    assert room.tightest([Path("/small"), Path("/odd")]) == "/odd: no inode free"
    assert room.tightest([]) == ""


@pytest.mark.usefixtures("disks")
def test_the_file_that_the_kernel_complains_of_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "JOURNAL", Path("/large/state"))
    monkeypatch.setattr(room, "RUN", Path("/large/run"))
    monkeypatch.setattr(room, "SESSIONS", Path("/nothing/here"))
    named = OSError(errno.ENOSPC, "No space left on device", "/small/file")
    unnamed = OSError(errno.ENOSPC, "No space left on device")
    said = PlacementFailed("could not load the image: write /x: no space left on device")
    for problem, docker, which in (
        (named, "/large/docker", "/small: 3 MiB free"),
        (unnamed, "/large/docker", "/large: 90 MiB free"),
        (said, "/small/docker", "/small: 3 MiB free"),
    ):
        found = room.no_space(problem, "this host", docker)
        assert isinstance(found, NoSpace)
        assert f"({which})" in found.message
        assert found.remedy
    assert room.no_space(PlacementFailed("port in use"), "this host") is None
    assert room.no_space(OSError(errno.EIO, "bad"), "this host") is None


def test_where_a_path_is_mounted_that_is_not_there_yet(tmp_path: Path) -> None:
    top = room.mount_of(tmp_path / "not" / "there")
    assert top.is_mount()
    assert os.stat(top).st_dev == os.stat(tmp_path).st_dev
    assert room.mount_of(Path("/proc/sys/kernel/none")) in (Path("/proc"), Path("/proc/sys"))
