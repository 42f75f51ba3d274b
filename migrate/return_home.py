"""`migrate return`: what was evacuated from this host comes back, by one `migrate fetch` each."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from migrate.candidates import name_of
from migrate.docker_host import DockerHost
from migrate.errors import ContainerNotFound, ContainerNotRunning, NameTaken, NotAllMoved
from migrate.evacuate import MOST, PER_MIGRATION, Settings
from migrate.evacuated import Record, Records
from migrate.fetch import PHASE, settle
from migrate.host_facts import facts
from migrate.host_findings import findings
from migrate.inventory import ask_all, containers_at
from migrate.plan import LeftOut, Move, Plan, Stay, in_order, without_circles
from migrate.progress_many import Quiet
from migrate.run_report import RunReport, of_jobs
from migrate.runner import Runner
from migrate.schedule import FAILED, GONE, LEFT, MOVED, Job, Result, Schedule, Verdict
from transport.bucket import LEAST, RateLimit
from transport.errors import Failure
from transport.target import parse_target, same_host

ACTION = "return"


def wanted(records: Sequence[Record], names: Sequence[str], host: str) -> list[Record]:
    """The records that are meant: all, or those of these names and that host, with whatever user.

    Raises BadTarget when `host` is none.
    """
    if host:
        parse_target(host)
    return [
        record for record in records
        if (not names or record.name in names) and (not host or same_host(record.host, host))
    ]  # fmt: skip


def unmatched(records: Sequence[Record], names: Sequence[str], host: str) -> list[str]:
    """A sentence about each name, and about a host, that `wanted` finds no record for."""
    known = {record.name for record in records}
    said = [
        f"`{name}` was not evacuated from here, or has come back" for name in names
        if name not in known
    ]  # fmt: skip
    if host and not wanted(records, (), host):
        said.append(f"nothing that was evacuated from here is at {host}")
    elif host and names and not said and not wanted(records, names, host):
        said.append(f"none of these containers is at {host}")
    return said


def running_here(docker: DockerHost) -> set[str]:
    """The names of the containers that run on this host. Raises DockerUnavailable."""
    return {
        name_of(item) for item in docker.containers()
        if item.get("State") in ("running", "paused", "restarting")
    }  # fmt: skip


def not_there(result: Result | None) -> bool:
    """Whether the other host was reached, and does not have the container."""
    return (
        result is not None and result.exit_code == ContainerNotFound.exit_code
        and result.phase == PHASE
    )  # fmt: skip


class Homecoming(Schedule):
    """They come here or nowhere. `here`: the names of those that run here already.

    That a name is taken here says nothing: only the other host knows whether the container is
    there, and when it is, its record is kept.
    """

    _no_other = ""

    def __init__(self, moves: Sequence[Move], parallel: int, here: Collection[str] = ()) -> None:
        super().__init__(moves, parallel, lambda *_: [], lambda *_: None, split=True)
        self._here = here

    def ended(self, name: str, result: Result, now: float) -> Verdict:
        """As in Schedule. What was asked for by its id is called by its name."""
        if ident := self.jobs[name].move.ident:
            said = result.message.replace(ident, name), result.remedy.replace(ident, name)
            result = replace(result, message=said[0], remedy=said[1])
        return super().ended(name, result, now)

    def _end(self, job: Job, state: str, note: str) -> None:
        """What depends on one that does not come stays where it is, too: it would run without."""
        super()._end(job, state, note)
        if state == GONE:  # it runs here
            return
        for one in self.jobs.values():
            if one.state == "waiting" and job.name in one.move.after:
                why = stays_with(one.name, one.move.host, job.name)
                self._end(one, LEFT if state == LEFT else FAILED, why)

    def _gone(self, job: Job, result: Result) -> tuple[str, str]:
        host = job.move.host
        if not not_there(result):
            return FAILED, f"at {host}: {result.message}"
        if job.name in self._here:
            return GONE, f"it runs here, and {host} has it no more: its record is dropped"
        remedy = "see `docker ps -a` where it may have moved on to"
        if job.move.ident:
            remedy += f"; if {host} has another of that name: migrate fetch {job.name} {host}"
        job.result = replace(result, remedy=remedy)
        return FAILED, (
            f"{host} has no such container any more: it has moved on, or was removed or made anew "
            "there; its record here is dropped"
        )


def refuse_unfit() -> None:
    """Raise the first reason why this host cannot take a container in."""
    for finding in findings(facts()):
        if not finding.ok:
            raise finding.failure()


def stays_with(name: str, host: str, needed: str) -> str:
    """Why a container stays at its host when one that it depends on does not come."""
    return (
        f"stays at {host}: `{needed}`, on which it depends, does not come "
        f"(`migrate return {name}` brings it alone)"
    )


def plan(records: Sequence[Record]) -> Plan:
    """All of them come here, the smallest first; settles first what broken links have left."""
    hosts = sorted({record.host for record in records})
    failures = dict(zip(hosts, ask_all(hosts, _settled), strict=True))
    return _plan(records, {host: failure for host, failure in failures.items() if failure}, [])


def foresee(records: Sequence[Record], here: Collection[str]) -> Plan:
    """The same plan, but only looked at: nothing is settled, here or anywhere. What a host does not
    have, or does not run, stays. `here`: the names of those that run here."""
    hosts = sorted({record.host for record in records})
    found = dict(zip(hosts, ask_all(hosts, _seen), strict=True))
    there = {host: seen for host, seen in found.items() if not isinstance(seen, Failure)}
    lost = {host: seen for host, seen in found.items() if isinstance(seen, Failure)}
    stays = [
        stay for record in records if record.host in there
        if (stay := hindrance(record, there[record.host], here))
    ]  # fmt: skip
    return _plan(records, lost, stays)


def hindrance(
    record: Record, there: Mapping[str, bool], here: Collection[str]
) -> Stay | None:  # fmt: skip
    """Why that container will not come. `there`: its host's, as in `inventory.containers_at`."""
    name, host = record.name, record.host
    asked = record.new_id or name
    if asked not in there:
        if name in here:
            return Stay(name, f"it runs here, and {host} has it no more", "", gone=True)
        another = ", but another of that name" if name in there else ""
        why = f"{host} has no such container any more{another}"
        return Stay(name, why, ContainerNotFound.__name__)
    if not there[asked]:
        return Stay(name, f"it does not run at {host}", ContainerNotRunning.__name__)
    if name in here:
        return Stay(name, f"it runs at {host}, and one of its name here", NameTaken.__name__)
    return None


def _plan(records: Sequence[Record], lost: Mapping[str, Failure], hindered: Sequence[Stay]) -> Plan:
    """Who comes of those records, without the hosts that are lost and those that are hindered."""
    out_of = {stay.name for stay in hindered}
    names = {record.name for record in records}
    moves = [
        Move(
            record.name, record.host, "it came from here",
            after=tuple(name for name in record.after if name in names),
            project=record.project, size=record.size, ident=record.new_id,
        )
        for record in records if record.host not in lost and record.name not in out_of
    ]  # fmt: skip
    stays = [*hindered] + [
        Stay(
            record.name, f"{record.host}: {failure.message}", failure.code, failure.remedy
        )
        for record in records if (failure := lost.get(record.host))
    ]  # fmt: skip
    left_out = [LeftOut(host, failure.message, failure.remedy) for host, failure in lost.items()]
    straight, circular = without_circles(in_order(moves))
    missing = {stay.name for stay in stays if not stay.gone}
    coming = []
    for move in straight:  # each after what it depends on
        if needed := next((name for name in move.after if name in missing), None):
            why = stays_with(move.name, move.host, needed)
            stays.append(Stay(move.name, why, NotAllMoved.__name__))
            missing.add(move.name)
        else:
            coming.append(move)
    notes = [
        f"the record of `{name}` says that it depends on what depends on it: that is not heeded"
        for name in circular
    ]
    return Plan(tuple(coming), tuple(stays), tuple(left_out), tuple(notes))


def _seen(host: str) -> dict[str, bool] | Failure:
    try:
        return containers_at(host)
    except Failure as failure:
        return failure


def _settled(host: str) -> Failure | None:
    try:
        settle(host)
    except Failure as failure:
        return failure
    return None


def run(
    planned: Plan, settings: Settings, lock: int, shown: Quiet, records: Records,
    here: Collection[str],
) -> RunReport:  # fmt: skip
    """Bring back what is planned. Returns when all of it has ended, also after a signal.

    `here`: the names of those that run here already.
    """
    began = time.monotonic()
    parallel = settings.parallel or fitting_parallel(len(planned.moves), settings.bwlimit)
    schedule = Homecoming(planned.moves, parallel, here)
    runner = Runner(
        schedule, lambda job: fetch_words(job, settings, parallel), shown, lambda job: None,
        lambda job: note(records, job), lock,
    )  # fmt: skip
    runner.run()
    seconds = time.monotonic() - began
    return of_jobs(ACTION, planned, [*schedule.jobs.values()], seconds, runner.interrupted)


def fitting_parallel(containers: int, limit: RateLimit | None) -> int:
    """How many at once."""
    most = MOST if limit is None else min(MOST, int(limit.rate // PER_MIGRATION))
    return max(1, min(most, containers))


def fetch_words(job: Job, settings: Settings, parallel: int) -> list[str]:
    """The call of `migrate` for a job: by the id on record, since another may have got its
    name meanwhile; by the name where none is on record, as nobody has said that it arrived.

    They are sent from several hosts, which can share no file: so each has its part of the limit.
    """
    words = [
        "fetch",
        job.move.ident or job.name,
        job.move.host,
        "--tcp",
        settings.tcp,
        *settings.words,
    ]
    if settings.bwlimit:
        share = replace(settings.bwlimit, rate=max(LEAST, settings.bwlimit.rate / parallel))
        words += ["--bwlimit", str(share)]
    return words


def note(records: Records, job: Job) -> None:
    """A try has ended. What is not there any more will not come back; what only stopped may."""
    if job.state == MOVED or (job.state in (FAILED, GONE) and not_there(job.result)):
        with suppress(Failure):  # a disk that is read-only now: the others come, and it is seen
            records.drop(job.name)  # the next time that this one is here
