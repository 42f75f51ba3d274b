"""migrate.run_report: exit codes, and a table that a person can read."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.errors import BadPlan, Interrupted, NotAllMoved, NothingToDo
from migrate.plan import LeftOut, Move, Plan, Stay
from migrate.run_report import Line, Verdict, of_jobs, of_plan, table, verdict
from migrate.schedule import Job, Result

MOVE = Move("web", "b", "much is left", project="p", warnings=("slower",), refused={"c": "full"})
SUMMARY = {"downtime": 0.25, "total": 3.0, "sent": 2048, "warnings": ["late"], "phases": {"x": 1}}


@pytest.mark.parametrize(
    ("outcomes", "interrupted", "expected"),
    [
        ({}, "", NothingToDo), ({"moved": 3}, "", None), ({"moved": 3, "gone": 1}, "", None),
        ({"planned": 2}, "", None), ({"planned": 2, "stays": 1}, "", NotAllMoved),
        ({"stays": 2}, "", BadPlan), ({"moved": 1, "stays": 2}, "", NotAllMoved),
        ({"failed": 2}, "", NotAllMoved), ({"unsure": 1, "moved": 5}, "", NotAllMoved),
        ({"left": 1, "moved": 5}, "SIGINT", Interrupted), ({"moved": 5}, "SIGINT", None),
    ],
)  # fmt: skip
def test_exit_codes(
    outcomes: dict[str, int], interrupted: str, expected: Verdict | None
) -> None:  # fmt: skip
    assert verdict(Counter(outcomes), interrupted) is expected


@given(
    st.dictionaries(
        st.sampled_from(["moved", "failed", "unsure", "gone", "left", "stays"]),
        st.integers(1, 9),
    ),
    st.sampled_from(["", "SIGTERM"]),
)
def test_success_means_that_nobody_was_left_behind(
    outcomes: dict[str, int], interrupted: str
) -> None:
    success = verdict(Counter(outcomes), interrupted) is None
    assert success == (bool(outcomes) and not set(outcomes) - {"moved", "gone"})


def test_what_has_become_of_it() -> None:
    moved = Job(MOVE, "moved", attempts=2, result=Result(0, summary=SUMMARY))
    other = Move("db", "c", "")
    failed = Job(other, "failed", attempts=4, note="it broke", result=Result(54, "x", "do", "R"))
    plan = Plan((MOVE, other), (Stay("big", "too large", "NoSpace"),), (LeftOut("d", "dead"),))
    report = of_jobs("evacuate", plan, [moved, failed], 12.0)
    assert (report.exit_code, report.error) == (80, "NotAllMoved")
    first, second, third = report.containers
    assert first == Line(
        "web", "moved", "b", "p", "much is left", attempts=2, downtime=0.25, total=3.0, sent=2048,
        phases={"x": 1.0}, warnings=["late"], refused={"c": "full"},
    )  # fmt: skip
    assert (second.why, second.error, second.remedy) == ("it broke", "R", "do")
    assert (third.outcome, third.error) == ("stays", "NoSpace")
    shown = json.loads(report.to_json())
    assert [one["container"] for one in shown["containers"]] == ["web", "db", "big"]
    text = report.text()
    assert "1 of 3 moved in 12.0 s, 2.0 KiB sent; none stood still for longer than 250 ms" in text
    assert "left out: d: dead" in text


def test_a_plan() -> None:
    report = of_plan("evacuate", Plan((MOVE,), ()))
    assert report.exit_code == 0
    (line,) = report.containers
    assert (line.outcome, line.host, line.why, line.warnings) == (
        "planned", "b", "much is left", ["slower"],
    )  # fmt: skip


@given(
    st.lists(
        st.builds(
            Line, st.text("abc", min_size=1, max_size=20), st.sampled_from(["moved", "stays"]),
            st.text("h", max_size=9), why=st.text("w ", max_size=9), attempts=st.integers(0, 3),
        )
    )
)  # fmt: skip
def test_columns_stand_below_each_other(lines: list[Line]) -> None:
    head, *rows = table(lines)
    assert len(rows) == len(lines)
    start = head.index("OUTCOME")
    for row, line in zip(rows, lines, strict=True):
        assert row.startswith(line.container)
        assert row[start:].startswith(line.outcome)
        assert row == row.rstrip()
