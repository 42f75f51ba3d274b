"""`migrate return`: what was evacuated from this host comes back, by one `migrate fetch` each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from migrate.docker_host import DockerHost
from migrate.errors import ContainerNotRunning
from migrate.evacuate import MOST, PER_MIGRATION, Settings
from migrate.evacuated import Record, Records
from migrate.fetch import settle
from migrate.host_facts import facts
from migrate.host_findings import findings
from migrate.host_setup import make_state_dirs
from migrate.plan import LeftOut, Move, Plan, Stay, in_order, without_circles
from migrate.progress_many import Quiet
from migrate.run_report import RunReport, of_jobs
from migrate.runner import Runner
from migrate.schedule import FAILED, GONE, MOVED, Job, Schedule
from transport.bucket import LEAST, RateLimit
from transport.errors import Failure

ACTION = "return"


def wanted(records: Sequence[Record], names: Sequence[str], host: str) -> list[Record]:
    """The records that are meant: all, or those of these names and that host."""
    return [
        record for record in records
        if (not names or record.name in names) and (not host or record.host == host)
    ]  # fmt: skip


def forget_those_here(records: Records, docker: DockerHost) -> None:
    """A container that runs here has come back by another way, or never left: no record of it."""
    here = {
        str(name).removeprefix("/")
        for item in docker.containers() if item.get("State") == "running"
        for name in item.get("Names") or ()
    }  # fmt: skip
    for record in records.all():
        if record.name in here:
            records.drop(record.name)


def ready_here() -> None:
    """Raise the first reason why this host cannot take a container in."""
    make_state_dirs()
    for finding in findings(facts()):
        if not finding.ok:
            raise finding.failure()


def plan(records: Sequence[Record]) -> Plan:
    """All of them come here, the smallest first; settles first what broken links have left."""
    hosts = sorted({record.host for record in records})
    with ThreadPoolExecutor(max(1, len(hosts))) as pool:
        failures = dict(zip(hosts, pool.map(_settled, hosts), strict=True))
    lost = {host: failure for host, failure in failures.items() if failure}
    names = {record.name for record in records if record.host not in lost}
    moves = [
        Move(
            record.name, record.host, "it came from here",
            after=tuple(name for name in record.after if name in names),
            project=record.project, size=record.size,
        )
        for record in records if record.host not in lost
    ]  # fmt: skip
    stays = [
        Stay(
            record.name, f"{record.host}: {failure.message}", failure.code, failure.remedy
        )
        for record in records if (failure := lost.get(record.host))
    ]  # fmt: skip
    left_out = [LeftOut(host, failure.message, failure.remedy) for host, failure in lost.items()]
    straight, circular = without_circles(in_order(moves))
    notes = [
        f"the record of `{name}` says that it depends on what depends on it: that is not heeded"
        for name in circular
    ]
    return Plan(tuple(straight), tuple(stays), tuple(left_out), tuple(notes))


def _settled(host: str) -> Failure | None:
    try:
        settle(host)
    except Failure as failure:
        return failure
    return None


def run(
    planned: Plan, settings: Settings, lock: int, shown: Quiet, records: Records
) -> RunReport:  # fmt: skip
    """Bring back what is planned. Returns when all of it has ended, also after a signal."""
    began = time.monotonic()
    parallel = settings.parallel or fitting_parallel(len(planned.moves), settings.bwlimit)
    schedule = schedule_of(planned, parallel)
    runner = Runner(
        schedule, lambda job: fetch_words(job, settings, parallel), shown, lambda job: None,
        lambda job: note(records, job), lock,
    )  # fmt: skip
    runner.run()
    seconds = time.monotonic() - began
    return of_jobs(ACTION, planned, [*schedule.jobs.values()], seconds, runner.interrupted)


def schedule_of(planned: Plan, parallel: int) -> Schedule:
    """They come here or nowhere."""
    return Schedule(
        planned.moves, parallel, lambda names, among, without: [], lambda name, host: None,
        split=True,
    )  # fmt: skip


def fitting_parallel(containers: int, limit: RateLimit | None) -> int:
    """How many at once."""
    most = MOST if limit is None else min(MOST, int(limit.rate // PER_MIGRATION))
    return max(1, min(most, containers))


def fetch_words(job: Job, settings: Settings, parallel: int) -> list[str]:
    """The call of `migrate` for a job. They are sent from several hosts, which can share no file:
    so each has its part of the limit."""
    words = ["fetch", job.name, job.move.host, "--tcp", settings.tcp, *settings.words]
    if settings.bwlimit:
        share = replace(settings.bwlimit, rate=max(LEAST, settings.bwlimit.rate / parallel))
        words += ["--bwlimit", str(share)]
    return words


def note(records: Records, job: Job) -> None:
    """A try has ended. What is not there any more will not come back; what only stopped may."""
    if job.state == GONE and job.result and job.result.exit_code == ContainerNotRunning.exit_code:
        job.state = FAILED
    if job.state in (MOVED, GONE):
        records.drop(job.name)
