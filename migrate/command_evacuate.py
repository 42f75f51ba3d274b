"""`migrate evacuate`, `migrate return` and `migrate fetch`, as commands."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from migrate import arguments, inventory, metrics, return_home
from migrate.candidates import Wish
from migrate.docker_host import DockerHost
from migrate.errors import BUG, Interrupted
from migrate.evacuate import Evacuation, Settings, dry_run, only_run
from migrate.evacuated import Record, Records
from migrate.fetch import Wanted, fetch
from migrate.host_setup import make_state_dirs
from migrate.interrupts import Stops
from migrate.plan import LeftOut, Plan, with_left_out, with_notes
from migrate.progress import Progress
from migrate.progress_json import JsonProgress
from migrate.progress_many import display
from migrate.run_report import RunReport, of_jobs, of_plan
from transport.errors import Failure


def evacuate(given: argparse.Namespace) -> int:
    """Empty this host; the exit code is that of the report."""
    return _whole(given, "evacuate", _evacuate)


def come_back(given: argparse.Namespace) -> int:
    """Bring back what was evacuated from here; the exit code is that of the report."""
    return _whole(given, return_home.ACTION, _come_back)


def _evacuate(given: argparse.Namespace) -> RunReport:
    records = Records()
    hosts, nonsense = inventory.names(given.hosts, given.inventory)
    wish = Wish(
        tuple(given.name), tuple(given.label), tuple(given.project), tuple(given.exclude)
    )  # fmt: skip
    if given.dry_run:
        evacuation = Evacuation(wish, _settings(given), records.all(), dry=True)
        return dry_run(_plan(given, evacuation, hosts, nonsense))
    with only_run() as lock:
        evacuation = Evacuation(wish, _settings(given), records.all())
        plan = _plan(given, evacuation, hosts, nonsense)
        if given.verbose and not given.json and plan.moves:
            print(dry_run(plan).text(), file=sys.stderr)
        if not plan.moves:
            return of_jobs("evacuate", plan, [], 0.0)
        shown = display("to", verbose=given.verbose)
        return evacuation.run(plan, lock, shown, records)


def _plan(
    given: argparse.Namespace, evacuation: Evacuation, hosts: list[str], nonsense: list[LeftOut]
) -> Plan:
    plan = Plan((), ()) if evacuation.nothing_to_do else evacuation.plan(hosts)
    notes = _if_attended(given, evacuation.notes)
    return with_notes(with_left_out(plan, [*nonsense, *plan.left_out]), notes)


def _if_attended(given: argparse.Namespace, notes: list[str]) -> list[str]:
    """What somebody who has just typed it wants to know. From cron it is nothing: the host may be
    empty already, and the exit code says so."""
    return notes if given.verbose or given.json or sys.stderr.isatty() else []


def _unmatched(given: argparse.Namespace, found: list[Record]) -> list[str]:
    said = return_home.unmatched(found, given.containers, given.source or "")
    return _if_attended(given, said)


def _come_back(given: argparse.Namespace) -> RunReport:
    records = Records()
    if given.dry_run:
        found, broken = records.read()
        meant = return_home.wanted(found, given.containers, given.source or "")
        plan = Plan((), ())
        if meant:
            return_home.refuse_unfit()
            plan = return_home.foresee(meant, return_home.running_here(DockerHost()))
        plan = with_notes(plan, broken + _unmatched(given, found))
        return of_plan(return_home.ACTION, plan)
    with only_run() as lock:
        found, broken = records.read()
        meant = return_home.wanted(found, given.containers, given.source or "")
        notes = broken + _unmatched(given, found)
        if not meant:
            return of_plan(return_home.ACTION, with_notes(Plan((), ()), notes))
        make_state_dirs()
        return_home.refuse_unfit()
        plan = with_notes(return_home.plan(meant), notes)
        if not plan.moves:
            return of_jobs(return_home.ACTION, plan, [], 0.0)
        shown = display("from", verbose=given.verbose)
        here = return_home.running_here(DockerHost())
        return return_home.run(plan, _settings(given), lock, shown, records, here)


def fetch_one(given: argparse.Namespace) -> int:
    """Bring one container from another host; says the summary on stdout."""
    words = ["--tcp", given.tcp, *arguments.way_words(given)]
    words += ["--keep"] * given.keep + ["--force"] * given.force
    if given.bwlimit:
        words.append(f"--bwlimit={given.bwlimit}")
    progress = Progress(quiet=given.json, verbose=given.verbose)
    if given.progress_json:
        progress = JsonProgress(verbose=given.verbose)
    summary = fetch(Wanted(given.container, given.host, tuple(words)), progress)
    print(summary.to_json() if given.json else summary.text())
    return 0


def _settings(given: argparse.Namespace) -> Settings:
    words = tuple(arguments.way_words(given))
    split = getattr(given, "split", False)
    return Settings(given.parallel, given.bwlimit, split, given.tcp, words)


def _finish(given: argparse.Namespace, report: RunReport, began: float) -> int:
    """Say what there is to say, and note it in the metrics; gives the exit code."""
    report.seconds = time.monotonic() - began
    show(given, report)
    unnoted = _note(given, report.action, run_of(report))
    return report.exit_code or unnoted


def _note(given: argparse.Namespace, action: str, run: metrics.Run) -> int:
    """Note a run in the metrics, if there are any; 0, or the exit code of why it cannot be."""
    if not given.metrics or given.dry_run:
        return 0
    try:
        metrics.note(Path(given.metrics), action, run)
    except Failure as failure:  # the containers are more important than the figures
        print(f"migrate: {failure.message}\n  {failure.remedy}", file=sys.stderr)
        return failure.exit_code
    return 0


def _whole(
    given: argparse.Namespace, action: str, run: Callable[[argparse.Namespace], RunReport]
) -> int:
    """Run it, and say what there is to say; gives the exit code. One that fails as a whole, or is
    ended while it plans, is in the metrics, too, else nobody would be alarmed."""
    began = time.monotonic()
    with Stops() as stops:
        try:
            report = run(given)
            stops.hold()  # all is done but to say so
            return _finish(given, report, began)
        except BaseException as why:
            stops.hold()
            failure = _interrupted(why) if isinstance(why, KeyboardInterrupt) else why
            code = failure.exit_code if isinstance(failure, Failure) else BUG
            _note(given, action, metrics.Run(
                outcomes={}, sent=0, downtimes=[], seconds=time.monotonic() - began,
                exit_code=code, success=False, now=time.time(),
            ))  # fmt: skip
            if failure is why:
                raise
            raise failure from why


def _interrupted(why: KeyboardInterrupt) -> Interrupted:
    return Interrupted(f"interrupted by {str(why) or 'Ctrl-C'}; no container is on its way", "")


def show(given: argparse.Namespace, report: RunReport) -> None:
    """Nothing for cron when all went well; a table for a person, or when something went wrong."""
    if given.json:
        print(report.to_json())
        return
    for note in report.notes:
        print(f"migrate: {note}", file=sys.stderr)
    if not report.containers:
        if given.verbose or sys.stdout.isatty():
            print("nothing to do")
        return
    if report.exit_code or given.verbose or given.dry_run or sys.stdout.isatty():
        print(report.text())
    for line in report.containers:
        if line.remedy:
            print(f"{line.container}: {line.remedy}", file=sys.stderr)


def run_of(report: RunReport) -> metrics.Run:
    """The figures of a run, for the metrics. Nothing to do is a success, too."""
    moved = [line for line in report.containers if line.outcome == "moved"]
    return metrics.Run(
        outcomes=report.count(), sent=sum(line.sent for line in moved),
        downtimes=[line.downtime for line in moved], seconds=report.seconds,
        exit_code=report.exit_code, success=not report.exit_code or not report.containers,
        now=time.time(),
    )  # fmt: skip
