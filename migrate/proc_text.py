"""What the kernel says of processes in /proc, as text.

Names and paths in it are bytes: the kernel cuts a process's name after 15 of them, in the middle of
a character where need be. Light to import: the runtime's supervisor needs it.
"""

from __future__ import annotations

from pathlib import Path

PROC = Path("/proc")


def text(path: str | Path) -> str:
    """A file of /proc; what is no UTF-8 is kept for the file system calls. Raises OSError."""
    return Path(path).read_text(errors="surrogateescape")


def lines(content: str) -> list[str]:
    """Its lines. The kernel escapes line feeds in names, and nothing else that `splitlines` takes
    for the end of a line."""
    return content.removesuffix("\n").split("\n") if content else []


def stat_fields(pid: int | str, proc: Path = PROC) -> list[str] | None:
    """proc_pid_stat(5) from the third field (state) on, None when the process is gone."""
    try:
        return text(proc / str(pid) / "stat").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
