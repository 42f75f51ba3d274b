"""The frozen part of a migration, on the source: every millisecond in here needs a reason.

Order: freeze the tasks (cgroup freezer, 1 ms) - silence the network - skeleton dump, last round
over the memory and last pass over the files, side by side, streamed while they are made - `Restore`
- wait for `Ready` - `Commit` - wait for `Running`. The freezer is written directly: `docker pause`
does nothing else, but takes 40-80 ms for it, and refuses a cgroup that is frozen already, so Docker
cannot be told afterwards.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from migrate import netlock
from migrate.criu_images import needs_network
from migrate.docker_files import written
from migrate.errors import DumpFailed, FreezeTooLong, Unsupported
from migrate.image_stream import ImageSender
from migrate.journal import COMMIT_SENT, Journal
from migrate.messages import Commit, Ready, Restore, Running
from migrate.outgoing import Outgoing
from migrate.page_compare import Tally
from migrate.protocol import expect, send
from migrate.rootfs_send import PassReport
from migrate.source_view import SourceView
from migrate.undo import EndDump, Thaw, UnlockNetwork, freeze, is_frozen, start_time
from transport.channel import Channel

MAX_FREEZE = 120.0
READY_TIMEOUT = 600.0
RUNNING_TIMEOUT = 120.0


class Aside:
    """A call in a thread of its own; `join` gives its value, or raises what it raised.

    `check` is asked while it is waited for: when that raises, the call is left to itself.
    """

    def __init__(self, call: Callable[[], Any], name: str) -> None:
        self._value: Any = None
        self._failure: BaseException | None = None

        def body() -> None:
            try:
                self._value = call()
            except BaseException as failure:  # noqa: BLE001 - raised in the thread that joins
                self._failure = failure

        self._thread = threading.Thread(target=body, name=name, daemon=True)
        self._thread.start()

    def join(self, check: Callable[[], object] = lambda: None) -> Any:
        while self._thread.is_alive():
            self._thread.join(0.1)
            check()
        if self._failure:
            raise self._failure
        return self._value


class Limit:
    """The frozen part must be over in time: else what it waits for is ended, fails, and is undone.
    CRIU is only not waited for any more: killed in a dump it would leave the tasks in pieces."""

    def __init__(self, seconds: float, *ends: Callable[[], object]) -> None:
        """`ends` are called, in a thread, when `seconds` are over and nobody has asked `kept`."""
        self.seconds = seconds
        self.expired = False
        self._ends = ends
        self._lock = threading.Lock()
        self._kept = False
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.daemon = True
        self._timer.start()

    def _expire(self) -> None:
        with self._lock:
            self.expired = not self._kept
        if self.expired:
            for end in self._ends:
                end()

    def kept(self) -> bool:
        """Whether all was done in time; if so, it is too late from now on to expire."""
        with self._lock:
            self._kept = not self.expired
        self._timer.cancel()
        return self._kept

    def check(self) -> None:
        """Raise FreezeTooLong when it is over."""
        if self.expired:
            raise FreezeTooLong(
                f"the container stood still for {self.seconds:.0f} s without being restored"
            )


class FrozenPart:
    """Runs the frozen part; then `marks` holds the moments (time.monotonic) that it passed."""

    def __init__(
        self,
        view: SourceView,
        journal: Journal,
        channel: Channel,
        outgoing: Outgoing,
        sender: ImageSender,
        final_pass: Callable[[], PassReport],
        max_freeze: float = MAX_FREEZE,
        cut: Callable[[], object] = lambda: None,
    ) -> None:
        """`max_freeze`: seconds until commit; `cut` closes the link when they are over."""
        self.max_freeze = max_freeze
        self.cut = cut
        self.view = view
        self.journal = journal
        self.channel = channel
        self.outgoing = outgoing
        self.memory = Tally()
        self.sender = sender
        self.final_pass = final_pass
        # What comes in is held from the freeze on; after a failure nothing must wait any longer.
        self.hold: Callable[[], None] = lambda: None
        self.let_go: Callable[[], None] = lambda: None
        self.interrupted: Callable[[], None] = lambda: None  # raises when a person ends it
        self.switch: Callable[[], None] = lambda: None  # of the network, when all is restored there
        self.marks: dict[str, float] = {}
        self.ready: Ready | None = None
        self.running: Running | None = None

    def mark(self, name: str) -> None:
        self.marks[name] = time.monotonic()

    def run(self, before_commit: Callable[[], None]) -> None:
        """Freeze, dump, send, have it restored, commit.

        `before_commit` is called when there is no way back from here on. Raises whatever fails; the
        journal knows how to undo it.
        """
        pid, freezer = self.view.target.pid, self.view.target.freezer
        if not freezer:
            raise DumpFailed("the container has no freezer cgroup of its own")
        if is_frozen(freezer):  # before the step that would thaw it
            raise Unsupported(
                "the container was paused meanwhile", "unpause it first: docker unpause"
            )
        self.journal.push(Thaw(freezer))
        self.journal.push(UnlockNetwork(pid, self.view.started))
        dumper, memory = self.outgoing.dumper, self.outgoing.memory
        self.journal.push(EndDump(dumper.pid, start_time(dumper.pid) or 0))
        self.journal.phase("freeze")
        silence = netlock.Prepared(pid)
        limit: Limit | None = None
        try:
            self.mark("freeze")
            limit = Limit(self.max_freeze, self.cut, dumper.abandon)
            self.hold()
            if not freeze(freezer):
                raise DumpFailed("the container does not come to a standstill")
            silence.lock()
            self.mark("frozen")
            files = Aside(self.final_pass, "final-pass")
            memory.frozen()
            dumper.dump()
            self.mark("dumped")
            memory.dumped(self.outgoing.images)
            count = self.sender.send()
            self.memory = memory.finish()
            files.join(lambda: self._check(limit))
            network = needs_network(self.sender.images)
            send(self.channel, Restore(count, network, written(self.view.inspect)))
            self.mark("sent")
            # While the destination restores: from here on only it can tell who owns the container.
            # Noted early, since writing it down takes longer than anything else in here.
            self.journal.phase(COMMIT_SENT)
            dumper.finish()
            self.ready = expect(self.channel, Ready, READY_TIMEOUT)
            self.mark("restored")
            # CRIU has thawed them to hold them itself, and must have frozen them again.
            if not freeze(freezer):
                raise DumpFailed("the container does not stand still any more")
            self.switch()
            if not limit.kept():
                limit.check()
        except BaseException as failure:
            dumper.close()  # no undoing while CRIU still holds the tasks
            if limit and not limit.kept() and not isinstance(failure, FreezeTooLong):
                try:
                    limit.check()
                except FreezeTooLong as late:
                    raise late from failure
            raise
        finally:
            silence.close()
        before_commit()
        self.mark("commit")
        send(self.channel, Commit())
        self.running = expect(self.channel, Running, RUNNING_TIMEOUT)
        self.mark("running")

    def _check(self, limit: Limit) -> None:
        """While something here, and nothing on the link, is waited for."""
        limit.check()
        self.interrupted()

    def parts(self) -> dict[str, float]:
        """Where the downtime went, in seconds; the parts follow each other."""
        names = {
            "frozen": "freeze", "dumped": "dump", "sent": "transfer", "restored": "restore",
            "running": "resume",
        }  # fmt: skip
        before = self.marks["freeze"]
        found = {}
        for mark, name in names.items():
            found[name] = self.marks[mark] - before
            before = self.marks[mark]
        if self.running and "resumed" in self.running.timing:
            # The destination says how long before its answer the tasks had begun to execute.
            found["resume"] -= self.running.timing["running"] - self.running.timing["resumed"]
        return found
