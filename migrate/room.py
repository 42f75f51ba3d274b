"""Which file system it is, when something has failed for want of space. Looks only."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from migrate.errors import NoSpace, full_disk
from migrate.journal import DIRECTORY

# Where a migration writes; Docker's own folder comes to it. Each session has a tmpfs of its own.
JOURNAL, RUN, SESSIONS = DIRECTORY, Path("/run"), Path("/run/migrate/sessions")
DOCKER = "/var/lib/docker"


def no_space(problem: BaseException, where: str, docker: str = DOCKER) -> NoSpace | None:
    """`errors.full_disk` with the file system in it: the one of the file that the kernel complains
    of, else the one with the least room of those that a migration writes to.

    `where`: whose disk; `docker`: dockerd's folder there.
    """
    if full_disk(problem, where) is None:
        return None
    named = problem.filename if isinstance(problem, OSError) else None
    places = [Path(os.fsdecode(named))] if isinstance(named, str | bytes) else []
    if not places:
        places = [Path(docker), JOURNAL, RUN, *SESSIONS.glob("*")]
    return full_disk(problem, where, tightest(places))


def tightest(places: Iterable[Path]) -> str:
    """The file system with the least room of those that these are on, and how much that is: such as
    "/var: 0 MiB free". "" when none can be asked."""
    found = []
    for place in places:
        top = mount_of(place)
        try:
            stat = os.statvfs(top)
        except OSError:
            continue
        none = bool(stat.f_files) and not stat.f_favail
        free = 0 if none else stat.f_bavail * stat.f_frsize
        what = "no inode" if none else f"{free >> 20} MiB"
        found.append((free, f"{top}: {what} free"))
    return min(found)[1] if found else ""


def mount_of(path: Path) -> Path:
    """Where the file system is mounted that holds a path, or would hold it."""
    while not path.exists() and path != path.parent:
        path = path.parent
    path = path.resolve()
    while not path.is_mount() and path != path.parent:
        path = path.parent
    return path
