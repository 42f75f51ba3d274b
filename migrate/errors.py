"""The failures of a migration. One class per cause, one exit code per class.

The codes are an interface (README, "Exit codes"): scripts depend on them; do not renumber.
"""

from __future__ import annotations

import errno

from transport.errors import Failure

BUG = 70  # sysexits.h: EX_SOFTWARE; of whatever is no Failure


class Interrupted(Failure):
    """Ctrl-C or SIGTERM before commit; everything was rolled back."""

    exit_code = 130


# -- the container, as it is on this host ---------------------------------------------------------


class ContainerNotFound(Failure):
    exit_code = 10
    default_remedy = "see `docker ps -a` for the names on this host"


class ContainerNotRunning(Failure):
    exit_code = 11
    default_remedy = "only a running container has something to move; start it first"


class Unsupported(Failure):
    """The container uses something that cannot be moved (yet)."""

    exit_code = 12


class Busy(Failure):
    """Another migration of this container is under way, or left something unfinished."""

    exit_code = 13
    default_remedy = "wait for it to end; if none is running, `migrate recover` cleans up after it"


# -- the hosts ------------------------------------------------------------------------------------


class ToolMissing(Failure):
    """`migrate` is not installed at the other host."""

    exit_code = 23
    default_remedy = "install it there as the README says"


class ProtocolMismatch(Failure):
    exit_code = 24
    default_remedy = "install the same version of migrate on both hosts"


class FrontendUnreachable(Failure):
    """The front end cannot be asked (no way there, no `migrate` of this version); nothing was
    moved."""

    exit_code = 25
    default_remedy = "`migrate check HOST` says whether it can be reached"


class FrontendUnfit(Failure):
    """A front end is not there, leads elsewhere than it should, or its port or name is taken."""

    exit_code = 26
    default_remedy = "see `migrate frontend list` there"


class HostUnfit(Failure):
    """A package, a kernel option or a service that is needed is missing."""

    exit_code = 30


class RuntimeMissing(Failure):
    """dockerd does not know the OCI runtime `migrate`."""

    exit_code = 31
    default_remedy = "run `migrate setup HOST`"


class CriuUnfit(Failure):
    """CRIU is missing, too old, or fails the probe."""

    exit_code = 32


class DockerUnavailable(Failure):
    exit_code = 33
    default_remedy = "check that dockerd runs and that you may use it"


class ConfigBroken(Failure):
    """A configuration file that we would have to change is not readable as what it should be."""

    exit_code = 34


# -- the destination, for this container ----------------------------------------------------------


class NameTaken(Failure):
    exit_code = 40


class NoSpace(Failure):
    """Too little memory or disk at the destination."""

    exit_code = 41


def full_disk(problem: BaseException | str, where: str, tight: str = "") -> NoSpace | None:
    """What has failed, as NoSpace, if it has failed for want of disk space: None if not.

    `problem`: it, or what a program says of it; `where`: whose disk, such as "the destination";
    `tight`: which file system (migrate/room.py). The reason is looked for in the kernel's error
    number, and in what programs like dockerd and CRIU say of theirs.
    """
    if isinstance(problem, NoSpace):
        return None
    number = problem.errno if isinstance(problem, OSError) else None
    text = problem.message if isinstance(problem, Failure) else str(problem)
    if number not in (errno.ENOSPC, errno.EDQUOT) and "no space left on device" not in text.lower():
        return None
    which = f" ({tight})" if tight else ""
    return NoSpace(f"{where} has no disk space left{which}: {text}", "free disk space there: df -h")


class PlacementFailed(Failure):
    """The destination's Docker refused the container: address or port taken, network, image."""

    exit_code = 42


# -- the migration itself -------------------------------------------------------------------------


class DumpFailed(Failure):
    exit_code = 50
    default_remedy = "the container runs on as before; see the log for CRIU's reason"


class AgentFailed(Failure):
    """The other side failed in a way that it did not foresee."""

    exit_code = 53
    default_remedy = "the container runs on as before; see the log of the other host"


class RestoreFailed(Failure):
    exit_code = 54
    default_remedy = "the container runs on as before; see the log for CRIU's reason"


class FreezeTooLong(Failure):
    """The container stood still for longer than it may, and nothing was committed yet."""

    exit_code = 55
    default_remedy = "it runs on as before; try a faster link, or allow more with --max-freeze"


class MemoryLost(Failure):
    """It ran at the destination, and was ended there: the rest of its memory could not come."""

    exit_code = 56
    default_remedy = (
        "what was in its memory is lost: start it anew at the destination (docker start); "
        "--restore eager needs nothing after the commit"
    )


class HookFailed(Failure):
    """A program that the user gave with --hook failed before commit."""

    exit_code = 57
    default_remedy = "the container runs on as before; see what the hook says"


class OutcomeUnknown(Failure):
    """The link died after commit: one of the hosts owns the container, we cannot say which."""

    exit_code = 60
    default_remedy = "run `migrate recover` when the other host can be reached again"


class ReportFailed(Failure):
    """The file for `migrate report` is not what `move --json` prints, or the picture cannot be
    written."""

    exit_code = 3
    default_remedy = "give it the output of `migrate move --json`"


# -- many migrations at once ----------------------------------------------------------------------


class NotAllMoved(Failure):
    """`evacuate` or `return`: some containers stay where they are."""

    exit_code = 80


class NothingToDo(Failure):
    """No container is to be moved: for a script as good as success, but told apart from it."""

    exit_code = 81


class BadPlan(Failure):
    """No container can go anywhere, or a list of hosts cannot be read; nothing was moved."""

    exit_code = 82


class OtherRun(Failure):
    """Another `evacuate` or `return` is under way on this host."""

    exit_code = 83
    default_remedy = "wait for it to end"


class CommandFailed(Failure):
    """A program that we called failed, and no more precise failure fits."""

    exit_code = 1
