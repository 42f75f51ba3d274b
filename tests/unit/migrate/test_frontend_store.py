"""migrate.frontend_store: what was written comes back, for root alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from migrate import frontend_store
from migrate.errors import ConfigBroken
from migrate.frontend_record import Frontend

GAME = Frontend("game", "udp", 27960, ("10.0.0.1", 27999), (("10.0.0.2", 27999),))
WEB = Frontend("web", "tcp", 80, ("10.0.0.1", 8080))


def test_they_come_back_by_name_and_are_for_root_alone(tmp_path: Path) -> None:
    top = tmp_path / "frontends"
    assert frontend_store.read(top) == []
    frontend_store.write([WEB, GAME], top)
    frontend_store.write([WEB, GAME], top)
    assert frontend_store.read(top) == [GAME, WEB]
    assert stat.S_IMODE(top.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in top.iterdir()] == [0o600]
    frontend_store.write([], top)
    assert frontend_store.read(top) == []


def test_the_file_appears_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[Frontend]] = []
    fsync = os.fsync

    def slow(fd: int) -> None:
        seen.append(frontend_store.read(tmp_path))  # another process, without the lock
        fsync(fd)

    monkeypatch.setattr(os, "fsync", slow)
    frontend_store.write([GAME], tmp_path)
    assert seen == [[], [GAME]]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1]", '[{"name": "a"}]', "\udcff",
     '[{"name":"a","protocol":"udp","port":1,"backend":["127.0.0.1",1]}]'],
)  # fmt: skip
def test_a_broken_file_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / frontend_store.FILE).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigBroken, match="cannot be read"):
        frontend_store.read(tmp_path)


def test_only_one_changes_them(tmp_path: Path) -> None:
    import fcntl
    import os

    with frontend_store.locked(tmp_path):
        fd = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)
