"""What an `evacuate` or `return` was like: the table for a person, `--json` for a machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from migrate.errors import BadPlan, Interrupted, NotAllMoved, NothingToDo
from migrate.plan import LeftOut, Plan
from migrate.progress import human
from migrate.schedule import FAILED, GONE, LEFT, MOVED, UNSURE, Job

STAYS, PLANNED = "stays", "planned"
_GOOD = (MOVED, GONE, PLANNED)


class Line(msgspec.Struct):
    """One container. `host`: where it went, or was to go; `why`: why there, or why not.

    `attempts`: migrations that were begun; times in seconds, `sent` in bytes; `refused`: why
    other hosts could not take it.
    """

    container: str
    outcome: str
    host: str = ""
    project: str = ""
    why: str = ""
    error: str = ""
    remedy: str = ""
    attempts: int = 0
    downtime: float = 0.0
    total: float = 0.0
    sent: int = 0
    phases: dict[str, float] = {}
    warnings: list[str] = []
    refused: dict[str, str] = {}


class Out(msgspec.Struct):
    """A host that takes no part."""

    host: str
    why: str
    remedy: str = ""


class RunReport(msgspec.Struct):
    """`error`: the class of the exit code, "" for success; `notes`: sentences about all of it."""

    action: str
    containers: list[Line]
    left_out: list[Out]
    seconds: float = 0.0
    exit_code: int = 0
    error: str = ""
    notes: list[str] = []

    def to_json(self) -> str:
        return msgspec.json.encode(self).decode()

    def count(self) -> Counter[str]:
        return Counter(line.outcome for line in self.containers)

    def text(self) -> str:
        """The table, and a sentence."""
        lines = table(self.containers)
        lines += [f"left out: {out.host}: {out.why}" for out in self.left_out]
        moved = [line for line in self.containers if line.outcome == MOVED]
        total = len(self.containers)
        if moved:
            longest = max(line.downtime for line in moved)
            lines.append(
                f"{len(moved)} of {total} moved in {self.seconds:.1f} s, "
                f"{human(sum(line.sent for line in moved))} sent; none stood still for longer than "
                f"{longest * 1000:.0f} ms"
            )
        return "\n".join(lines)


def table(containers: Sequence[Line]) -> list[str]:
    """A line per container, in columns; the reason last, since it is the longest."""
    rows = [("CONTAINER", "OUTCOME", "HOST", "STILL", "TIME", "SENT", "")]
    for line in containers:
        figures = ("", "", "")
        if line.outcome == MOVED:
            still = f"{line.downtime * 1000:.0f} ms"
            figures = (still, f"{line.total:.1f} s", human(line.sent))
        again = f"at try {line.attempts}" if line.outcome == MOVED and line.attempts > 1 else ""
        why = again if line.outcome == MOVED else line.why
        rows.append((line.container, line.outcome, line.host or "-", *figures, why))
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[6]])
        .rstrip() for row in rows
    ]  # fmt: skip


def of_plan(action: str, plan: Plan) -> RunReport:
    """What is to be, before anything moves."""
    lines = [
        Line(
            move.name, PLANNED, move.host, move.project, move.why,
            warnings=list(move.warnings), refused=dict(move.refused),
        )
        for move in plan.moves
    ]  # fmt: skip
    report = RunReport(action, lines + stays(plan), out(plan.left_out), notes=[*plan.notes])
    return _finished(report)


def of_jobs(
    action: str, plan: Plan, jobs: Sequence[Job], seconds: float, interrupted: str = ""
) -> RunReport:
    """What has become of it."""
    lines = [of_job(job) for job in jobs]
    report = RunReport(
        action, lines + stays(plan), out(plan.left_out), seconds, notes=[*plan.notes]
    )
    return _finished(report, interrupted)


def of_job(job: Job) -> Line:
    summary = job.result.summary if job.result else {}
    return Line(
        job.name, job.state, job.move.host, job.move.project,
        why=job.move.why if job.state == MOVED else job.note,
        error=job.result.code if job.result and job.state != MOVED else "",
        remedy=job.result.remedy if job.result and job.state != MOVED else "",
        attempts=job.attempts,
        downtime=float(summary.get("downtime") or 0.0),
        total=float(summary.get("total") or 0.0),
        sent=int(summary.get("sent") or 0),
        phases=dict(summary.get("phases") or {}),
        warnings=[str(one) for one in summary.get("warnings") or ()],
        refused=dict(job.move.refused),
    )  # fmt: skip


def stays(plan: Plan) -> list[Line]:
    return [
        Line(stay.name, GONE if stay.gone else STAYS, why=stay.why, error=stay.code,
             remedy=stay.remedy, refused=dict(stay.refused))
        for stay in plan.stays
    ]  # fmt: skip


def out(left_out: Sequence[LeftOut]) -> list[Out]:
    return [Out(one.host, one.why, one.remedy) for one in left_out]


def _finished(report: RunReport, interrupted: str = "") -> RunReport:
    outcomes = report.count()
    failure = verdict(outcomes, interrupted)
    report.exit_code = failure.exit_code if failure else 0
    report.error = failure.__name__ if failure else ""
    return report


Verdict = type[NotAllMoved] | type[NothingToDo] | type[BadPlan] | type[Interrupted]


def verdict(outcomes: Counter[str], interrupted: str) -> Verdict | None:
    """The class of the exit code for what has become of the containers; None: success."""
    bad = sum(outcomes[name] for name in (STAYS, FAILED, UNSURE, LEFT))
    if interrupted and bad:
        return Interrupted
    if not outcomes.total():
        return NothingToDo
    if not bad:
        return None
    return BadPlan if outcomes[STAYS] == outcomes.total() else NotAllMoved
