"""migrate.netlock: the words to nft, with a fake one; a real namespace is tests/e2e's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from migrate import netlock
from migrate.errors import CommandFailed

NSENTER = """#!/bin/sh
echo "$@" >>"{seen}"
case "$*" in
*"list tables inet") cat "{tables}" || exit 1 ;;
*) cat >>"{rules}"; exit "${{FAKE_EXIT:-0}}" ;;
esac
"""


class Nft:
    def __init__(self, top: Path) -> None:
        self.seen, self.tables, self.rules = top / "seen", top / "tables", top / "rules"
        script = top / "nsenter"
        script.write_text(NSENTER.format(seen=self.seen, tables=self.tables, rules=self.rules))
        script.chmod(0o755)
        self.tables.write_text("")

    def heard(self) -> str:
        return self.rules.read_text() if self.rules.exists() else ""


@pytest.fixture
def nft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nft:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return Nft(tmp_path)


ME = os.getpid()


def test_a_lock_is_made_in_that_namespace(nft: Nft) -> None:
    prepared = netlock.Prepared(ME)
    assert nft.heard() == ""
    prepared.lock()
    assert nft.heard() == netlock.RULES
    assert nft.seen.read_text().splitlines()[-1] == f"--net=/proc/{ME}/ns/net -- nft -f -"
    prepared.close()


def test_a_lock_that_was_left_goes_before_the_freeze(nft: Nft) -> None:
    nft.tables.write_text("table inet migrate_lock\n")
    prepared = netlock.Prepared(ME)
    assert nft.heard() == "delete table inet migrate_lock\n"
    prepared.close()


def test_it_drops_in_both_directions_before_connection_tracking() -> None:
    for hook, side in (("prerouting", "iifname"), ("output", "oifname")):
        rule = next(line for line in netlock.RULES.splitlines() if f"hook {hook}" in line)
        assert f'{side} != "lo" drop' in rule
        assert int(rule.partition("priority ")[2].partition(";")[0]) < -200


def test_a_lock_that_fails_is_a_failure(nft: Nft, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_EXIT", "1")
    prepared = netlock.Prepared(ME)
    with pytest.raises(CommandFailed):
        prepared.lock()


def test_a_lock_that_was_not_needed_leaves_nothing(nft: Nft) -> None:
    prepared = netlock.Prepared(ME)
    assert prepared._program
    process = prepared._program._process
    prepared.close()
    assert process.returncode is not None
    assert nft.heard() == ""
    prepared.close()


def test_unlocking_takes_our_table_and_what_a_killed_criu_left(nft: Nft) -> None:
    nft.tables.write_text("table inet app\ntable inet migrate_lock\ntable inet CRIU-1234\n")
    netlock.unlock(ME)
    assert nft.heard() == "delete table inet migrate_lock\ndelete table inet CRIU-1234\n"


@pytest.mark.parametrize("tables", ["", "table inet app\n"])
def test_what_is_not_locked_is_left_alone(nft: Nft, tables: str) -> None:
    nft.tables.write_text(tables)
    netlock.unlock(ME)
    assert nft.heard() == ""
    assert len(nft.seen.read_text().splitlines()) == 1


def test_an_unlock_that_fails_is_a_failure(nft: Nft, monkeypatch: pytest.MonkeyPatch) -> None:
    nft.tables.write_text("table inet migrate_lock\n")
    monkeypatch.setenv("FAKE_EXIT", "1")
    with pytest.raises(CommandFailed):
        netlock.unlock(ME)
    nft.tables.unlink()
    with pytest.raises(CommandFailed, match="cannot be unlocked"):
        netlock.unlock(ME)


def test_a_namespace_that_is_gone_is_no_failure(nft: Nft) -> None:
    nft.tables.unlink()
    netlock.unlock(2**22 + 1)  # over the largest pid there is


def test_a_deaf_namespace_may_speak_and_hears_again_at_a_word(nft: Nft) -> None:
    opening = netlock.Opening(ME)
    netlock.deafen(ME)
    assert nft.heard() == netlock.DEAF
    assert "hook prerouting" in netlock.DEAF
    assert "hook output" not in netlock.DEAF
    opening.do()
    opening.do()
    assert nft.heard() == f"{netlock.DEAF}delete table inet {netlock.TABLE}\n"
