"""What a person sees while several containers move: nothing, lines, or a bar for each of them."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import Any, TextIO

from tqdm import tqdm

from migrate.progress import human
from migrate.schedule import Job


class Quiet:
    """Nothing: for cron."""

    def begin(self, job: Job) -> None:
        """A migration begins."""

    def event(self, job: Job, event: dict[str, Any]) -> None:
        """It says something: migrate/progress_json.py."""

    def end(self, job: Job) -> None:
        """It has ended, and `job.state` and `job.result` say how."""

    def close(self) -> None:
        """All have ended."""


class Lines(Quiet):
    """A line for each phase of each container, with the time: for a journal."""

    def __init__(self, way: str, out: TextIO | None = None) -> None:
        self._way = way
        self._out = out or sys.stderr

    def begin(self, job: Job) -> None:
        again = f", try {job.tries}" if job.tries > 1 else ""
        self.say(f"{job.name}: {self._way} {job.move.host}{again}")

    def event(self, job: Job, event: dict[str, Any]) -> None:
        for key in ("warning", "note"):
            if key in event:
                self.say(f"{job.name}: {key}: {event[key]}")
        if "phase" in event:
            self.say(f"{job.name}: {event['phase']}")

    def end(self, job: Job) -> None:
        self.say(f"{job.name}: {last_words(job)}")

    def say(self, text: str) -> None:
        with suppress(OSError):  # the terminal is gone: no reason to stop
            print(f"{time.strftime('%H:%M:%S')} {text}", file=self._out, flush=True)


class Bars(Quiet):
    """One bar for each container under way, one below the other; what is over goes above them."""

    def __init__(self, way: str, out: TextIO | None = None) -> None:
        self._way = way
        self._out = out or sys.stderr
        self._bars: dict[str, Any] = {}

    def begin(self, job: Job) -> None:
        used = {abs(bar.pos) for bar in self._bars.values()}
        position = next(n for n in range(len(used) + 1) if n not in used)
        with suppress(OSError):
            self._bars[job.name] = tqdm(
                desc=f"{job.name} {self._way} {job.move.host}", position=position, leave=False,
                unit="B", unit_scale=True, unit_divisor=1024, file=self._out, dynamic_ncols=True,
            )  # fmt: skip

    def event(self, job: Job, event: dict[str, Any]) -> None:
        bar = self._bars.get(job.name)
        with suppress(OSError):
            if "warning" in event:
                tqdm.write(f"{job.name}: warning: {event['warning']}", file=self._out)
            if bar is not None and "phase" in event:
                bar.reset(event.get("total") or None)
                bar.set_postfix_str(str(event["phase"]))
            if bar is not None and "bytes" in event:
                bar.update(int(event["bytes"]) - bar.n)

    def end(self, job: Job) -> None:
        bar = self._bars.pop(job.name, None)
        with suppress(OSError):
            if bar is not None:
                bar.close()
            tqdm.write(f"{job.name}: {last_words(job)}", file=self._out)

    def close(self) -> None:
        for bar in self._bars.values():
            with suppress(OSError):
                bar.close()
        self._bars.clear()


def last_words(job: Job) -> str:
    """One sentence on how a try has ended."""
    result = job.result
    if job.state == "moved" and result:
        downtime = float(result.summary.get("downtime") or 0)
        sent = float(result.summary.get("sent") or 0)
        total = float(result.summary.get("total") or 0)
        return (
            f"moved in {total:.1f} s, stood still for {downtime * 1000:.0f} ms, {human(sent)} sent"
        )
    why = result.message if result else ""
    if job.state == "waiting":
        return f"failed: {why}; next try: {job.move.host}"
    return f"{job.state}: {job.note or why}"


def display(way: str, *, verbose: bool, out: TextIO | None = None) -> Quiet:
    """What suits: bars on a terminal, lines elsewhere, and both only when asked for.

    `way`: `to` or `from` the host of a job.
    """
    if not verbose:
        return Quiet()
    return Bars(way, out) if (out or sys.stderr).isatty() else Lines(way, out)
