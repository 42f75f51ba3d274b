"""The logs of failed migrations: CRIU's of both sides, kept on the source's disk (no memory)."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

LOGS = Path("/var/lib/migrate/logs")
KEPT = 20


def keep(session: str, dump_log: Path, remote_log: str, directory: Path | None = None) -> str:
    """Save what there is of a failed session, before its tmpfs goes. Gives the folder, or ''.

    `dump_log`: CRIU's own here, it need not exist; `remote_log`: lines of the destination's. A disk
    that is full is no failure here: the undoing that follows is more important.
    """
    if not remote_log and not dump_log.exists():
        return ""
    kept = (directory or LOGS) / session
    with suppress(OSError):
        kept.mkdir(parents=True, exist_ok=True, mode=0o700)
        if dump_log.exists():
            shutil.copy(dump_log, kept / "dump.log")
        if remote_log:
            (kept / "restore.log").write_text(remote_log + "\n")
        return str(kept)
    return ""


def sweep(directory: Path | None = None) -> None:
    """Forget the logs of all but the last failed migrations."""
    with suppress(OSError):  # another migration sweeps at the same time
        kept = sorted((directory or LOGS).glob("*"), key=lambda path: path.stat().st_mtime)
        for old in kept[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
