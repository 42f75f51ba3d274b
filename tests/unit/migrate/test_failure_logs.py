"""migrate.failure_logs: what a failed migration leaves to read."""

from __future__ import annotations

import os
from pathlib import Path

from migrate.failure_logs import KEPT, keep, sweep


def test_both_sides_logs_are_kept_for_root_only(tmp_path: Path) -> None:
    dump = tmp_path / "dump.log"
    dump.write_text("(00.1) Error: here\n")
    kept = Path(keep("s1", dump, "(00.2) Error: there", tmp_path / "logs"))
    assert (kept / "dump.log").read_text() == "(00.1) Error: here\n"
    assert (kept / "restore.log").read_text() == "(00.2) Error: there\n"
    assert kept.stat().st_mode & 0o077 == 0


def test_nothing_to_keep_makes_nothing(tmp_path: Path) -> None:
    assert keep("s1", tmp_path / "none", "", tmp_path / "logs") == ""
    assert not (tmp_path / "logs").exists()


def test_a_disk_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file in the way")
    assert keep("s1", tmp_path / "none", "words", tmp_path / "logs") == ""


def test_only_the_last_ones_stay(tmp_path: Path) -> None:
    for number in range(KEPT + 3):
        (tmp_path / f"s{number}").mkdir()
        os.utime(tmp_path / f"s{number}", (number, number))
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f"s{n}" for n in range(3, KEPT + 3)}
