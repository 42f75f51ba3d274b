"""migrate.progress_many and migrate.progress_json: from the one's lines to the other's bars."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from migrate.plan import Move
from migrate.progress_json import JsonProgress
from migrate.progress_many import Bars, Lines, Quiet, display, last_words
from migrate.schedule import Job, Result
from tests.unit.migrate.test_progress import Gone, Terminal


def job(name: str = "web", **more: Any) -> Job:
    return Job(Move(name, "b", ""), **more)


def events(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_progress_as_json() -> None:
    out = io.StringIO()
    progress = JsonProgress(out=out)
    with progress.phase("image", 100) as within:
        within.advance(30)
        within.advance(30)  # too soon for another line
    progress.warn("the clock is behind")
    progress.note("only with -v")
    assert events(out) == [
        {"phase": "image", "total": 100}, {"bytes": 30}, {"warning": "the clock is behind"},
    ]  # fmt: skip
    JsonProgress(verbose=True, out=out).note("now")
    assert events(out)[-1] == {"note": "now"}


def test_a_reader_that_is_gone_is_no_reason_to_stop() -> None:
    gone = Gone(terminal=False)
    progress = JsonProgress(out=gone)
    with progress.phase("image"):
        progress.advance(1)
    assert gone.tried
    for shown in (Lines("to", gone), Bars("to", Gone(terminal=True))):
        shown.begin(job())
        shown.event(job(), {"phase": "freeze", "total": None})
        shown.event(job(), {"bytes": 5})
        shown.end(job(state="failed"))
        shown.close()


def test_lines() -> None:
    out = io.StringIO()
    lines = Lines("from", out)
    one = job(tries=2)
    lines.begin(one)
    lines.event(one, {"phase": "freeze", "total": None})
    lines.event(one, {"bytes": 5})
    lines.event(one, {"warning": "slow"})
    one.state = "moved"
    one.result = Result(0, summary={"downtime": 0.3, "total": 2.0, "sent": 1 << 20})
    lines.end(one)
    said = [line.partition(" ")[2] for line in out.getvalue().splitlines()]
    assert said == [
        "web: from b, try 2", "web: freeze", "web: warning: slow",
        "web: moved in 2.0 s, stood still for 300 ms, 1.0 MiB sent",
    ]  # fmt: skip


def test_bars_of_several_each_at_a_place_of_its_own() -> None:
    out = Terminal()
    bars = Bars("to", out)
    jobs = [job(name) for name in ("one", "two", "three")]
    for one in jobs:
        bars.begin(one)
    positions = {abs(bar.pos) for bar in bars._bars.values()}
    assert positions == {0, 1, 2}
    bars.event(jobs[1], {"phase": "image", "total": 10})
    bars.event(jobs[1], {"bytes": 7})
    assert bars._bars["two"].n == 7
    bars.event(jobs[1], {"phase": "freeze", "total": None})
    assert bars._bars["two"].n == 0
    jobs[0].state, jobs[0].note = "failed", "it broke"
    bars.end(jobs[0])
    assert "one: failed: it broke" in out.getvalue()
    bars.event(jobs[0], {"bytes": 9})  # late words of one that has ended
    bars.begin(job("four"))
    bars.close()
    assert bars._bars == {}


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (job(state="waiting", result=Result(51, "it broke")), "failed: it broke; next try: b"),
        (job(state="left", note="interrupted by SIGINT"), "left: interrupted by SIGINT"),
        (job(state="unsure", result=Result(60, "who knows")), "unsure: who knows"),
    ],
)
def test_last_words(one: Job, words: str) -> None:
    assert last_words(one) == words


def test_what_suits() -> None:
    assert type(display("to", verbose=False, out=Terminal())) is Quiet
    assert isinstance(display("to", verbose=True, out=Terminal()), Bars)
    assert isinstance(display("to", verbose=True, out=io.StringIO()), Lines)
