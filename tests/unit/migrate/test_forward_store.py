"""migrate.forward_store: records come back as they were, and no two have one slot."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec
import pytest

from migrate import forward_store
from migrate.errors import ConfigBroken
from migrate.forward_record import Forward
from tests.unit.migrate.forwards import TARGETED, TUNNELLED, forward
from transport.errors import StreamCorrupt


def test_a_record_comes_back_and_is_for_root_alone(tmp_path: Path) -> None:
    top = tmp_path / "forwards"
    for record in (TUNNELLED, msgspec.structs.replace(TARGETED, id="b" * 16)):
        forward_store.write(record, top)
        assert forward_store.find(record.id, top) == record
    assert stat.S_IMODE(top.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in top.iterdir()} == {0o600}
    assert forward_store.find("f" * 16, top) is None


def test_each_has_a_slot_of_its_own_and_a_free_one_is_taken_again(tmp_path: Path) -> None:
    slots = [forward_store.claim(forward(id=c * 16), tmp_path).slot for c in "abc"]
    assert slots == [0, 1, 2]
    forward_store.delete("b" * 16, tmp_path)
    assert forward_store.claim(forward(id="d" * 16), tmp_path).slot == 1
    # Claimed again, after a crash: it keeps its own.
    assert forward_store.claim(forward(id="d" * 16), tmp_path).slot == 1
    assert [record.slot for record in forward_store.read_all(tmp_path)] == [0, 1, 2]


def test_a_record_appears_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others read all of them meanwhile, without the lock: as long as an fsync takes, or for ever
    after a kill."""
    seen: list[list[Forward]] = []
    fsync = os.fsync

    def slow(fd: int) -> None:
        seen.append(forward_store.read_all(tmp_path))
        assert not any(path.stat().st_size == 0 for path in tmp_path.glob("*.json"))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", slow)
    record = forward_store.claim(forward(), tmp_path)
    assert seen == [[], [record]]  # the file's fsync, the folder's


def test_what_is_gone_or_empty_is_no_record(tmp_path: Path) -> None:
    record = forward_store.claim(forward(), tmp_path)
    (tmp_path / f"{'b' * 16}.json").touch()  # an earlier version was killed there
    (tmp_path / f"{'c' * 16}.json").symlink_to("gone")  # deleted once it was listed
    assert forward_store.read_all(tmp_path) == [record]
    assert forward_store.find("b" * 16, tmp_path) is None
    assert forward_store.claim(forward(id="b" * 16), tmp_path).slot == 1


def test_an_id_is_no_path(tmp_path: Path) -> None:
    for ident in ("", "../x", "/etc/passwd", "a.b", "A" * 16):
        with pytest.raises(StreamCorrupt):
            forward_store.delete(ident, tmp_path)


def test_a_broken_record_is_said(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"\xff{")
    with pytest.raises(ConfigBroken, match=r"x\.json"):
        forward_store.read_all(tmp_path)
