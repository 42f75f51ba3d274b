"""migrate.restore_undo: the reason of a failure. (What is left: test_restore_supervisor.py.)"""

from __future__ import annotations

from pathlib import Path

from migrate.restore_undo import runc_reason


def test_the_last_error_of_runc_is_its_reason(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        '{"level": "error", "msg": "first"}\nnonsense\n[1]\n{"level": "error", "msg": "last"}\n'
        '{"level": "info", "msg": "later"}\n'
    )
    assert runc_reason(str(log)) == "last"
    assert runc_reason(str(tmp_path / "none")) == ""
    assert runc_reason(None) == ""
