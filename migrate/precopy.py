"""Pre-copy: rounds over memory and files while the container runs, until the switchover rule says
that it is time to freeze it."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import Any

from migrate.files_pass import FilesPass
from migrate.memory_source import MemorySource
from migrate.messages import Done
from migrate.page_batch import PAGE
from migrate.page_compare import Tally
from migrate.progress import Progress, human
from migrate.protocol import expect
from migrate.switchover import Costs, Decision, Limits, Round, decide, predict, shown
from migrate.throttle import Throttle, Throttler, throttled
from transport.channel import Channel

CALM = 1 << 20  # a pass that read less than this many bytes is the last before the freeze
MAX_PASSES = 3
# Seconds that the frozen part takes with next to no memory, to predict the downtime with; medians
# of tests/bench/downtime.py.
FREEZE, DUMP, RESTORE = 0.01, 0.12, 0.15
EAGER_RATE = 300e6  # bytes/s at which CRIU reads memory in when it restores (docs/criu-notes.md)
# While others are frozen: seconds between two rounds at least, and times what the last one took.
EVERY, SHARE = 1.0, 9.0
LONG_PASS = 1.0  # seconds; one that reads longer is told of: so does the last one, in the freeze
MUCH = 1.25  # times the downtime that was promised
STALE = 0.2  # seconds; after a longer wait what the rounds have shown is not true any more
ANSWER = 1800.0  # seconds until a round is stored at the other side


class PreCopy:
    """`run` does the rounds; after it `rounds`, `passes` and `decision` say what they were like."""

    def __init__(
        self, channel: Channel, memory: MemorySource, files: FilesPass, costs: Costs,
        limits: Limits, progress: Progress, began: float, throttler: Throttler | None = None,
    ) -> None:  # fmt: skip
        """`began`: of time.monotonic, when the migration did."""
        self._channel = channel
        self._memory = memory
        self._files = files
        self._costs = costs
        self._limits = limits
        self._progress = progress
        self._began = began
        self._throttler = throttler
        self._throttle = Throttle()
        self._calm = False
        self._files_standing = 0.0  # seconds that a last pass over the files would take
        self._ended = began  # the last round, or pass
        self._took = 0.0  # the last round, with the pass before it
        self._promised = limits.max_downtime
        self._predicted: list[float] = []
        self.rounds: list[Round] = []
        self.passes = 0
        self.decision = decide([], costs, limits)

    def run(self) -> Decision:
        """Go on until the rule says stop. Gives its last decision; a throttle stays."""
        while True:
            began = time.monotonic()
            if not self._complete:
                self._one_pass()
            if len(self.rounds) < self._limits.max_rounds:
                self._one_round()
            self._took = time.monotonic() - began
            self.decision = self._decide()
            if self.decision.stop and self._complete:
                break
        self._promised = max(self.decision.predicted, self._limits.max_downtime)
        if self._files_standing > LONG_PASS:
            self._progress.warn(
                f"large files are written to all the time: the last pass over them took "
                f"{self._files_standing:.1f} s, and so may the one while the container stands still"
            )
        said = f"pre-copy ends: {self.decision.sentence}"
        self._progress.note(f"{said} (predicted downtime {self.decision.predicted * 1000:.0f} ms)")
        return self.decision

    @property
    def _complete(self) -> bool:
        return self._calm or self.passes >= MAX_PASSES

    def keep_up(self, *, slowly: bool) -> bool:
        """Once more all that has changed, if that is worth it: the container runs on although the
        rule has said stop. Gives whether it was.

        `slowly`: while others are to get the processors, the link and the disk; else for the last
        time, when only what changes within a moment goes in the freeze (a moment: as long as a
        round takes), and once more when that was much. These rounds are beyond --max-rounds, but
        where no rounds are wanted there are none.
        """
        last = self.rounds[-1].seconds if self.rounds else 0.0
        due = max(EVERY, SHARE * self._took) if slowly else max(STALE, last)
        if time.monotonic() - self._ended < due:
            return False
        began = time.monotonic()
        self._one_pass()
        if self._limits.max_rounds:
            self._one_round()
            if not slowly and self._predicted[-1] > MUCH * self._promised:
                self._one_round()
            self.decision = replace(self.decision, predicted=self._predicted[-1])
        self._took = time.monotonic() - began
        return True

    def lift(self) -> None:
        """End the throttle."""
        if self._throttler:
            self._throttler.lift()

    def _one_pass(self) -> None:
        report = self._files.run(final=False)
        expect(self._channel, Done, ANSWER)
        self._ended = time.monotonic()
        self.passes += 1
        self._calm = report.dirty_bytes < CALM and not report.failed
        self._files_standing = 0.0 if self._calm else report.seconds - report.settle_seconds
        self._progress.note(
            f"pass {self.passes} over the files: {report.entries} entries, "
            f"{report.files} read, {report.bytes} bytes sent"
        )

    def _one_round(self) -> None:
        started = time.monotonic()
        tally = self._memory.round()
        expect(self._channel, Done, ANSWER)
        self._ended = time.monotonic()
        seconds = self._ended - started
        one = round_of(len(self.rounds) + 1, started - self._began, seconds, tally)
        self.rounds.append(one)
        self._progress.advance(one.sent)
        self._predicted.append(predict(self.rounds, self._costs))
        self._progress.note(describe(one, self._predicted[-1]))

    def _decide(self) -> Decision:
        decision = decide(self.rounds, self._costs, self._limits)
        if self._throttler is None:
            return decision
        before = self._throttle
        decision, self._throttle = throttled(decision, self.rounds, before)
        if self._throttle.cut != before.cut:
            problem = self._throttler.set(self._throttle.cut)
            what = problem or f"the container gets {self._throttle.cut} % less CPU"
            (self._progress.warn if problem else self._progress.note)(what)
        return decision

    def report(self) -> list[dict[str, Any]]:
        """The rounds as `--json` gives them."""
        return shown(self.rounds, self._predicted)


def expected_costs(source: str, memory: int, *, lazy: bool) -> Costs:
    """What the frozen part will cost however little is left. `source`: `scan` or `predump`;
    `memory`: bytes of the container; `lazy`: they are filled in after the restore."""
    restore = RESTORE + (0.0 if lazy else memory / EAGER_RATE)
    return Costs(FREEZE, DUMP, restore, scan_all=source == "scan", memory=memory)


def round_of(number: int, started: float, seconds: float, tally: Tally) -> Round:
    """What a round was like, from what became of its pages."""
    return Round(number=number, started=started, seconds=seconds, **asdict(tally))


def describe(one: Round, predicted: float) -> str:
    """One line for `-v`."""
    rate = one.sent / one.seconds if one.seconds else 0.0
    return (
        f"round {one.number}: {one.scanned} pages read in {one.seconds:.2f} s, "
        f"{human(one.dirty * PAGE)} dirty ({one.zero} zero, {one.duplicate} duplicate, "
        f"{one.cached} cached, {one.literal} new), {human(one.sent)} sent ({human(rate)}/s), "
        f"predicted downtime {predicted * 1000:.0f} ms"
    )
