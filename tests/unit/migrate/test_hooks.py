"""migrate.hooks: they run once, in order, and know what they are for."""

from __future__ import annotations

from pathlib import Path

import pytest

from migrate import hooks as hooks_module
from migrate.cli import parser
from migrate.errors import HookFailed
from migrate.hooks import COMMIT, CONFIRM, PREPARE, Hook, mark, run_hooks, run_phase
from migrate.journal import Header, Journal


def journal(top: Path, *hooks: Hook) -> Journal:
    told = {"container": "web", "destination": "hostb"}
    header = Header("a" * 16, "source", "c" * 64, "web", "hostb", 0.0, hooks=hooks, told=told)
    return Journal.create(header, top / "journal")


def test_only_those_of_the_phase_in_order_and_told(tmp_path: Path) -> None:
    out = tmp_path / "out"
    say = f'echo "$MIGRATE_PHASE $MIGRATE_CONTAINER $MIGRATE_DESTINATION {{}}" >>{out}'
    made = journal(
        tmp_path, Hook(COMMIT, say.format(1)), Hook(PREPARE, say.format(2)),
        Hook(COMMIT, say.format(3)),
    )  # fmt: skip
    run_phase(made, COMMIT)
    assert out.read_text() == "commit web hostb 1\ncommit web hostb 3\n"


def test_once_even_by_another_process(tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = journal(tmp_path, Hook(COMMIT, f"echo x >>{out}"))
    run_phase(made, COMMIT)
    made.close(finished=False)
    again = Journal.reopen(made.path)
    assert mark(COMMIT) in again.phases
    run_phase(again, COMMIT)
    assert out.read_text() == "x\n"


def test_no_hook_no_line_in_the_journal(tmp_path: Path) -> None:
    made = journal(tmp_path, Hook(COMMIT, "true"))
    run_phase(made, CONFIRM)
    assert made.phases == []


def test_a_failure_is_said_in_the_hooks_words(tmp_path: Path) -> None:
    after = tmp_path / "after"
    failing = [Hook(PREPARE, "echo no way >&2; exit 3"), Hook(PREPARE, f"touch {after}")]
    with pytest.raises(HookFailed, match=r"`prepare` .* ended with 3: no way"):
        run_hooks(failing, {}, PREPARE)
    assert not after.exists()


def test_a_hook_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks_module, "TIMEOUT", 0.1)
    with pytest.raises(HookFailed, match="did not end"):
        run_hooks([Hook(PREPARE, "sleep 60; true")], {}, PREPARE)


@pytest.mark.parametrize("text", ["commit", "commit=", "freeze=true", "=true", ""])
def test_what_is_no_hook_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(["move", "web", "hostb", "--hook", text])
    assert ended.value.code == 2
    assert "invalid hook value" in capsys.readouterr().err


def test_the_command_may_hold_anything() -> None:
    words = ["move", "web", "hostb", "--hook", "commit=a=b c", "--hook", "prepare=x"]
    assert parser().parse_args(words).hook == [("commit", "a=b c"), ("prepare", "x")]
