"""`migrate evacuate`: plan, run and record the way of many containers from this host to others."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from migrate import inventory
from migrate.candidates import Wish, choose, look_at, unmatched
from migrate.docker_host import DockerHost
from migrate.errors import OtherRun
from migrate.evacuated import Record, Records
from migrate.host_facts import HostFacts, facts
from migrate.host_setup import known_host_id, make_state_dirs
from migrate.journal import read_all
from migrate.pairing import Candidate, Host, published
from migrate.plan import LeftOut, Move, Plan, Planner, with_left_out
from migrate.progress_many import Quiet
from migrate.run_report import RunReport, of_jobs, of_plan
from migrate.runner import Runner
from migrate.schedule import FAILED, GONE, LEFT, MOVED, Job, Schedule
from transport.bucket import RateLimit
from transport.errors import Failure
from transport.target import same_host

RUN = Path("/run/migrate")
MOST = 4  # migrations at once, unless told otherwise: more only wait for each other
PER_MIGRATION = 4 << 20  # bytes per second that each should have of a limit


@dataclass(frozen=True)
class Settings:
    """Of a run. `parallel`: 0 for what suits; `words`: options of each `migrate move`."""

    parallel: int = 0
    bwlimit: RateLimit | None = None
    split: bool = False
    tcp: str = "established"
    words: tuple[str, ...] = ()


@contextlib.contextmanager
def only_run(directory: Path = RUN) -> Iterator[int]:
    """Hold the lock of `evacuate` and `return`; gives its descriptor, which heirs hold, too.

    Raises OtherRun.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(directory / "evacuate.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OtherRun("another `migrate evacuate` or `migrate return` runs here") from None
        yield fd
    finally:
        os.close(fd)


class Evacuation:
    """What leaves this host, and where it can go. `plan` looks and plans, `run` moves.

    `before`: the records of earlier runs; `dry`: nothing at all is changed, not even our folders
    are made.
    """

    def __init__(
        self, wish: Wish, settings: Settings, before: Sequence[Record] = (), *, dry: bool = False
    ) -> None:  # fmt: skip
        if not dry:
            make_state_dirs()
        self._settings = settings
        self._before = before
        self._docker = DockerHost()
        self._here: HostFacts = facts()
        listed = self._docker.containers()
        self._names = choose(listed, wish)
        self.notes = unmatched(listed, wish)
        self._planner: Planner | None = None
        self._ids: dict[str, str] = {}
        self.parallel = settings.parallel

    @property
    def nothing_to_do(self) -> bool:
        return not self._names

    def plan(self, hosts: Sequence[str]) -> Plan:
        """Look at the containers and at the hosts; place them. Raises DockerUnavailable."""
        candidates, immovable = look_at(self._docker, self._here, self._names, self._settings.tcp)
        if not self.parallel:
            self.parallel = fitting_parallel(
                candidates, self._here.free_memory, self._settings.bwlimit
            )
        self._ids = {one.name: one.spec.source_id for one in candidates}
        there: list[Host] = []
        left_out: list[LeftOut] = []
        if candidates:
            there, left_out = inventory.ask(
                hosts, self._here, known_host_id(), self.parallel,
                (port for one in candidates for port in published(one.spec)),
            )  # fmt: skip
        self._planner = Planner(
            self._here, there, candidates, immovable, split=self._settings.split,
            before=went_to(self._before, [host.name for host in there]),
        )  # fmt: skip
        return with_left_out(self._planner.plan(), left_out)

    def run(self, plan: Plan, lock: int, shown: Quiet, records: Records) -> RunReport:
        """Move what is planned. Returns when all of it has ended, also after a signal."""
        assert self._planner
        planner = self._planner
        began = time.monotonic()
        limit = RUN / "evacuate.limit"
        limit.unlink(missing_ok=True)  # what an earlier run has left unpaid is forgotten

        def place(
            names: Sequence[str], among: Collection[str] | None, without: Collection[str]
        ) -> list[Move]:
            return planner.place(names, among=among, without=without)[0]

        earlier = {record.name: record for record in self._before if record.sure}
        schedule = Schedule(
            plan.moves, self.parallel, place, planner.take_back, split=self._settings.split
        )
        runner = Runner(
            schedule, lambda job: move_words(job, self._settings, limit), shown,
            lambda job: records.write(record_of(job)), lambda job: note(records, job, earlier),
            lock,
        )  # fmt: skip
        runner.run()
        tried = [job for job in schedule.jobs.values() if job.attempts and job.state != MOVED]
        here = surely_here(self._docker) if any(job.doubt for job in tried) else set()
        for job in tried:  # a failed try may have waited for the next one, too
            if self._ids.get(job.name) in here:
                job.doubt = ""
            note(records, job, earlier)
        seconds = time.monotonic() - began
        return of_jobs("evacuate", plan, [*schedule.jobs.values()], seconds, runner.interrupted)


def surely_here(docker: DockerHost) -> set[str]:
    """The ids of the containers that run on this host as before, whatever a `migrate` of them has
    said: with no session left that may have frozen them, or may end them yet."""
    left = {one.container for one in read_all() if one.role == "source"}  # first: they come to ends
    try:
        listed = docker.containers()
    except Failure:
        return set()
    return {str(item["Id"]) for item in listed if item.get("State") == "running"} - left


def went_to(records: Sequence[Record], hosts: Sequence[str]) -> dict[str, set[str]]:
    """For each compose project, to which of these hosts containers of it went, by the records."""
    found: dict[str, set[str]] = {}
    for record in records:
        if record.project:
            names = {host for host in hosts if same_host(host, record.host)}
            found.setdefault(record.project, set()).update(names)
    return found


def fitting_parallel(
    candidates: Sequence[Candidate], free_memory: int | None, limit: RateLimit | None
) -> int:
    """How many at once: so that the checkpoints of all take up half of what is free here at most,
    and that each has a fair share of the limit."""
    most = MOST
    if limit:
        most = min(most, int(limit.rate // PER_MIGRATION))
    largest = sorted((one.usage.images for one in candidates), reverse=True)
    if free_memory is not None:
        while most > 1 and sum(largest[:most]) > free_memory // 2:
            most -= 1
    return max(1, min(most, len(candidates)))


def move_words(job: Job, settings: Settings, limit: Path) -> list[str]:
    """The call of `migrate` for a job; all share one limit through its file: the one that was given
    with it, which others outside this run may share, or else `limit`."""
    words = ["move", job.name, job.move.host, "--tcp", settings.tcp, *settings.words]
    if settings.bwlimit:
        file = settings.bwlimit.file or str(limit)
        words += ["--bwlimit", str(RateLimit(settings.bwlimit.rate, file))]
    return words


def record_of(job: Job, *, sure: bool = False) -> Record:
    new_id = str(job.result.summary.get("new_id") or "") if job.result and sure else ""
    return Record(
        job.name, job.move.host, time.time(), sure=sure, new_id=new_id, project=job.move.project,
        after=job.move.after, size=job.move.size,
    )  # fmt: skip


def note(records: Records, job: Job, earlier: Mapping[str, Record]) -> None:
    """A try has ended: the record of the container is made true. It stays as it is when nobody
    knows whether the container has left; `earlier`: of those of its name that had left before."""
    with contextlib.suppress(Failure):  # a full disk: what was written before it left must do
        if job.state == MOVED:
            records.write(record_of(job, sure=True))
        elif job.state in (FAILED, GONE, LEFT) and not job.doubt:
            if job.name in earlier:
                records.write(earlier[job.name])
            else:
                records.drop(job.name)


def dry_run(plan: Plan) -> RunReport:
    """The plan, as a report."""
    return of_plan("evacuate", plan)
