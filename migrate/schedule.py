"""Which migration is begun when, and what follows when one fails. Pure: time comes from outside.

A failed one is tried once more on the same host, then on another, then reported; the others go on.
A host that cannot be reached any more gets no further container.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from migrate.plan import Move

HOSTS = 2  # on which one container is tried, not counting those that were lost
PAUSE = 2.0  # seconds before a second try: a guard may still be undoing the first

# What becomes of a container, by the word that reports use.
MOVED, FAILED, UNSURE, GONE, LEFT = "moved", "failed", "unsure", "gone", "left"

Place = Callable[[Sequence[str], Collection[str] | None, Collection[str]], list[Move]]
"""(names, the only hosts or None, hosts that do not count): their moves, or [] for nowhere."""
TakeBack = Callable[[str, str], None]
"""(name, host): that container has not come to that host."""


class Verdict(Enum):
    """What to do about a migration that has ended."""

    DONE = 1
    AGAIN = 2  # here, once
    ELSEWHERE = 3  # another host may do; this one will not
    HOST_LOST = 4  # like that, and this host is no good for any other container
    NOTHING_HELPS = 5
    GONE = 6  # it has ended, or was removed: nothing is left to be moved
    UNSURE = 7  # one of the hosts owns it, and nobody knows which: hands off
    STOPPED = 8


# migrate.errors and transport.errors by their exit codes. What is not named may be different the
# second time: ConnectionLost, DumpFailed, RestoreFailed, FreezeTooLong, ...
_ENDED = {10, 11}  # ContainerNotFound, ContainerNotRunning
_OF_THE_CONTAINER = {12, 13, 50}  # Unsupported, Busy, DumpFailed: the same on all hosts
_OF_THE_HOST = {20, 21, 22, 23, 24, 31, 33}  # not reached, not let in, not set up
_OF_THE_PAIR = {30, 32, 34, 40, 41, 42}  # HostUnfit, CriuUnfit, NameTaken, NoSpace, ...
_SURE = _OF_THE_PAIR | _OF_THE_HOST - {20, 33}  # the same a second later
_UNSURE, _INTERRUPTED = 60, 130
_MEMORY_LOST = 56  # of a container that ran there already: it comes only after commit
COMMITTED = "confirm"  # the phase that a `migrate` says to be in once the destination has it


def judge(exit_code: int, tries: int, phase: str = "") -> Verdict:
    """What to do when `migrate` ended with `exit_code` at the `tries`-th try on this host, after it
    had come to that phase."""
    if exit_code == 0:
        return Verdict.DONE
    if phase == COMMITTED or exit_code == _MEMORY_LOST:
        return Verdict.UNSURE  # it is here no more: another try would find that it has gone
    if exit_code in _ENDED:
        return Verdict.GONE
    if exit_code == _UNSURE:
        return Verdict.UNSURE
    if exit_code == _INTERRUPTED:
        return Verdict.STOPPED
    if tries < 2 and exit_code not in _SURE:
        return Verdict.AGAIN
    if exit_code in _OF_THE_HOST:
        return Verdict.HOST_LOST
    return Verdict.NOTHING_HELPS if exit_code in _OF_THE_CONTAINER else Verdict.ELSEWHERE


@dataclass(frozen=True)
class Result:
    """How one migration ended; `exit_code` below zero: by that signal.

    `summary`: its `--json` output, {} when there was none; `phase`: the last that it was in.
    """

    exit_code: int
    message: str = ""
    remedy: str = ""
    code: str = ""
    summary: dict[str, Any] = field(default_factory=dict)
    phase: str = ""


def _doubt(result: Result) -> str:
    """Why nobody should believe afterwards that the container has ended by itself; "": no reason.

    AgentFailed (53) says among other things that not everything could be undone. One that was
    killed before it came to its first phase has changed nothing.
    """
    if result.exit_code < 0 and result.phase:
        return "a `migrate` that was killed"
    return f"a `migrate` that said: {result.message}" if result.exit_code == 53 else ""


@dataclass
class Job:
    """One container on its way. `state`: `waiting`, `running`, or what has become of it."""

    move: Move
    state: str = "waiting"
    tries: int = 0  # on this host
    attempts: int = 0
    not_before: float = 0.0
    doubt: str = ""  # an end of an earlier `migrate` of it, after which it may have lost its copy
    tried: list[str] = field(default_factory=list)  # hosts that will not do
    result: Result | None = None
    note: str = ""

    @property
    def name(self) -> str:
        return self.move.name

    @property
    def over(self) -> bool:
        return self.state not in ("waiting", "running")


class Schedule:
    """Ask `ready` for what to begin, tell it by `ended` how that went, until `over`."""

    _no_other = "; no other host can take it"

    def __init__(
        self, moves: Sequence[Move], parallel: int, place: Place, take_back: TakeBack,
        *, split: bool = False,
    ) -> None:  # fmt: skip
        self.jobs = {move.name: Job(move) for move in moves}
        self.lost: dict[str, str] = {}
        self._parallel = parallel
        self._place = place
        self._take_back = take_back
        self._split = split

    @property
    def over(self) -> bool:
        return all(job.over for job in self.jobs.values())

    def ready(self, now: float) -> list[Job]:
        """Those to begin now; from here on they count as running."""
        begun: list[Job] = []
        slots = self._parallel - self._count("running")
        for job in self.jobs.values():
            if len(begun) < slots and job.state == "waiting" and self._may_begin(job, now):
                job.state = "running"
                job.tries += 1
                job.attempts += 1
                begun.append(job)
        return begun

    def _may_begin(self, job: Job, now: float) -> bool:
        before = [self.jobs[name] for name in job.move.after if name in self.jobs]
        if job.not_before > now or not all(one.over for one in before):
            return False
        # One takes the image along; those that follow find it there.
        same = [
            one.state for one in self.jobs.values()
            if job.move.image and one.move.image == job.move.image
            and one.move.host == job.move.host
        ]  # fmt: skip
        return MOVED in same or "running" not in same

    def next_time(self, now: float) -> float | None:
        """When something will be ready although nothing has ended; None: never."""
        times = [job.not_before for job in self.jobs.values() if job.state == "waiting"]
        return min((time for time in times if time > now), default=None)

    def stop(self, why: str) -> None:
        """Begin nothing more."""
        for job in self.jobs.values():
            if job.state == "waiting":
                self._end(job, LEFT, why)

    def ended(self, name: str, result: Result, now: float) -> Verdict:
        """The migration of that container has ended."""
        job = self.jobs[name]
        job.result = result
        verdict = judge(result.exit_code, job.tries, result.phase)
        if verdict is Verdict.AGAIN and job.move.host in self.lost:
            verdict = Verdict.ELSEWHERE
        match verdict:
            case Verdict.DONE:
                job.state = MOVED
            case Verdict.AGAIN:
                job.state, job.not_before = "waiting", now + PAUSE
            case Verdict.ELSEWHERE:
                self._elsewhere(job)
            case Verdict.HOST_LOST:
                self._host_lost(job.move.host, result.message)
                self._elsewhere(job)
            case Verdict.NOTHING_HELPS:
                self._take_back(name, job.move.host)
                self._fail(job, result.message)
            case Verdict.GONE if job.doubt:  # that one, or its guard, may have ended our copy
                self._end(job, UNSURE, f"{result.message}, after {job.doubt}")
            case Verdict.GONE:
                self._take_back(name, job.move.host)
                self._end(job, *self._gone(job, result))
            case Verdict.UNSURE:
                self._end(job, UNSURE, result.message)
            case Verdict.STOPPED:
                self._end(job, LEFT, result.message)
        job.doubt = job.doubt or _doubt(result)
        return verdict

    def _gone(self, job: Job, result: Result) -> tuple[str, str]:
        """What a container is that `migrate` has not found, or not running: its state, and why."""
        return GONE, result.message

    # -- when it fails -----------------------------------------------------------------------------

    def _elsewhere(self, job: Job) -> None:
        """Another host for this one, and for the rest of its project if that has not left yet."""
        host = job.move.host
        job.state = "waiting"
        job.tried.append(host)
        rest = [job, *self._waiting_with(job)]
        settled = self._hosts_of_the_others(job)
        if settled and host not in self.lost:
            rest = [job]  # the rest goes where the others are
        for one in rest:
            self._take_back(one.name, one.move.host)
        self._replace(job, rest, settled)

    def _host_lost(self, host: str, why: str) -> None:
        """That host is gone: all that is still to go there goes elsewhere."""
        self.lost.setdefault(host, why)
        for job in list(self.jobs.values()):
            if job.state == "waiting" and job.move.host == host:
                self._elsewhere(job)

    def _replace(self, job: Job, rest: list[Job], settled: set[str]) -> None:
        without = {host for one in rest for host in one.tried} | set(self.lost)
        enough = len(set(job.tried) - set(self.lost)) >= HOSTS
        names = [one.name for one in rest]
        moves = [] if enough else self._place(names, settled or None, without)
        if moves:
            for move in moves:
                one = self.jobs[move.name]
                one.move, one.tries, one.state = move, 0, "waiting"
            return
        why = job.result.message if job.result else self.lost.get(job.move.host, "")
        together = f"; the others of its project are on {', '.join(sorted(settled))}"
        nowhere = together if settled else "" if enough else self._no_other
        self._fail(job, why + nowhere)
        for one in rest[1:]:
            if one.state == "waiting":
                self._end(one, FAILED, f"stays with `{job.name}` of its project, which could not "
                          "be moved")  # fmt: skip

    def _fail(self, job: Job, why: str) -> None:
        """It stays; so does the rest of its project, unless some of that has left already."""
        self._end(job, FAILED, why)
        if not self._hosts_of_the_others(job):
            for one in self._waiting_with(job):
                self._take_back(one.name, one.move.host)
                self._end(one, FAILED, f"stays with `{job.name}` of its project, which could not "
                          "be moved")  # fmt: skip

    def _end(self, job: Job, state: str, note: str) -> None:
        job.state, job.note = state, note

    def _others(self, job: Job) -> list[Job]:
        if self._split or not job.move.project:
            return []
        return [
            one for one in self.jobs.values()
            if one is not job and one.move.project == job.move.project
        ]  # fmt: skip

    def _waiting_with(self, job: Job) -> list[Job]:
        return [one for one in self._others(job) if one.state == "waiting"]

    def _hosts_of_the_others(self, job: Job) -> set[str]:
        """Where those of its project are that have left, or are about to; not the lost hosts."""
        return {
            one.move.host for one in self._others(job)
            if one.state in (MOVED, UNSURE, "running") and one.move.host not in self.lost
        }  # fmt: skip

    def _count(self, state: str) -> int:
        return sum(job.state == state for job in self.jobs.values())
