"""What the source of a migration holds, and how all of it is undone when it fails."""

from __future__ import annotations

import secrets
import socket
from contextlib import suppress
from pathlib import Path

from migrate import failure_logs, hooks
from migrate.agent_link import CALLER, AgentLink
from migrate.criu import LOG
from migrate.criu_log import interesting_lines
from migrate.errors import (
    AgentFailed,
    ContainerNotRunning,
    FreezeTooLong,
    Interrupted,
    OutcomeUnknown,
)
from migrate.freeze import FrozenPart
from migrate.guard import Guard
from migrate.journal import CONFIRMED, Journal
from migrate.messages import Abandon, Done
from migrate.move_options import Options
from migrate.proc_text import PROC, stat_fields
from migrate.progress import Progress
from migrate.protocol import call
from migrate.room import no_space
from migrate.source_end import run_hooks
from migrate.summary import Summary
from transport.errors import ConnectionLost, Failure

RUN = Path("/run/migrate")
_EXITING = 0x4  # PF_EXITING (include/linux/sched.h)
ANSWER = 120.0  # seconds for an answer that takes the other side little work


def has_ended(pid: int, started: int, proc: Path = PROC) -> bool:
    """Whether a process that began at `started` (clock ticks since boot) has ended, or is at it.

    One that ends has lost its memory long before it is gone: an init waits for all of its namespace
    (kernel/pid_namespace.c), then as a zombie for its parent. (proc_pid_stat(5): state, flags.)
    """
    fields = stat_fields(pid, proc)
    if fields is None:
        return True
    return int(fields[19]) != started or fields[0] in "ZX" or bool(int(fields[6]) & _EXITING)


class Undoing:
    """`journal`, `guard`, `link` and `frozen` are there once there is something to undo."""

    def __init__(self, options: Options, progress: Progress) -> None:
        self.options = options
        self.progress = progress
        self.session = secrets.token_hex(8)
        self.summary = Summary(
            options.container, source=socket.gethostname(),
            destination=options.host.removeprefix(CALLER),
        )  # fmt: skip
        self.summary.session = self.session
        self.journal: Journal | None = None
        self.guard: Guard | None = None
        self.frozen: FrozenPart | None = None
        self.link: AgentLink | None = None
        self._announced = False  # whether the destination knows of the session
        self._init: tuple[int, int] | None = None  # the container's: pid and start time
        self._base = RUN / "sessions" / f"{self.session}-source"

    def _warn(self, *sentences: str) -> None:
        for sentence in sentences:
            self.summary.warnings.append(sentence)
            self.progress.warn(sentence)

    def _cause(self, failure: BaseException) -> BaseException:
        """What has really happened, where `failure` is only what came of it: the container has
        ended, or the disk of this host is full. Never raises: the container may be frozen."""
        with suppress(Exception):
            return self._real_cause(failure)
        return failure

    def _real_cause(self, failure: BaseException) -> BaseException:
        committed = self.frozen is not None and "commit" in self.frozen.marks
        known = isinstance(failure, ConnectionLost | Interrupted)
        if committed or known or not isinstance(failure, Exception):
            return failure
        if isinstance(failure, Failure) and failure.reported:
            return failure
        if self._init and has_ended(*self._init):
            return ContainerNotRunning(
                f"the container `{self.summary.container}` has ended on its way",
                "nothing was moved; see `docker ps -a` and `docker logs` for why it ended",
            )
        return no_space(failure, "this host") or failure

    def _roll_back(self, failure: BaseException) -> None:
        """Undo everything on both sides, or, when nobody knows who owns it, leave it frozen."""
        marks = self.frozen.marks if self.frozen else {}
        if "commit" in marks:
            # Only the destination's own word that it has undone everything is good enough now.
            undone = isinstance(failure, Failure) and failure.reported and "running" not in marks
            if not undone:
                self._unsure(failure)
                return
        logs = ""
        with suppress(OSError):  # to undo is more important
            logs = self._keep_logs(failure)
        # First here: the destination cannot run it without our `Commit`, and may take long.
        failed = self.journal.rollback() if self.journal else []
        if self.frozen:
            self.frozen.let_go()
        if self.journal and hooks.mark(hooks.PREPARE) in self.journal.phases:
            self._warn(*run_hooks(self.journal, hooks.ROLLBACK))
        self._close(finished=not failed)
        if self.link and not isinstance(failure, ConnectionLost | FreezeTooLong):
            self._abandon(failure)
        if failed:
            raise AgentFailed(
                "the migration failed, and not everything could be undone: " + "; ".join(failed),
                "`migrate recover` tries it again",
            ) from failure
        if logs and isinstance(failure, Failure):
            failure.logs = logs

    def _unsure(self, failure: BaseException) -> None:
        """It failed after `Commit`: between that and its answer, or while we ended our copy."""
        known = self.journal is None or CONFIRMED in self.journal.phases
        self._keep_journal()  # the guard goes on with it, or `migrate recover`
        if not known:
            what = failure.message if isinstance(failure, Failure) else repr(failure)
            raise OutcomeUnknown(
                f"it failed at the moment of commit: {what}; the container here stays "
                "frozen until it is known who owns it"
            ) from failure

    def _keep_journal(self) -> None:
        self._close(finished=False)

    def _abandon(self, failure: BaseException) -> None:
        """Tell the destination to undo; one that failed itself has done so already."""
        assert self.link
        if not self._announced or (isinstance(failure, Failure) and failure.reported):
            return
        try:
            call(self.link.channel, Abandon(), Done, ANSWER)
        except Failure as other:
            self.progress.warn(
                f"the destination did not confirm that it has undone: {other.message}"
            )

    def _close(self, *, finished: bool) -> None:
        journal, self.journal = self.journal, None
        guard, self.guard = self.guard, None
        if journal:
            journal.close(finished=finished)
        if guard and finished:
            guard.dismiss()

    def _keep_logs(self, failure: BaseException) -> str:
        """Save CRIU's logs of a failed migration, before its tmpfs goes; show them with -v."""
        remote = failure.remote_log if isinstance(failure, Failure) else ""
        kept = failure_logs.keep(self.session, self._base / "work" / LOG, remote)
        for line in remote.splitlines():
            self.progress.note(f"destination: {line}")
        self._log_criu()
        return kept

    def _log_criu(self) -> None:
        log = self._base / "work" / LOG
        if self.progress.verbose and log.exists():
            for line in interesting_lines(log.read_text(errors="replace")):
                self.progress.note(f"criu: {line}")
