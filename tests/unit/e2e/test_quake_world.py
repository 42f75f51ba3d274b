"""The check that tells the same game from another one: it must see each single difference."""

from __future__ import annotations

from dataclasses import replace

import pytest

from examples.quake.q3oob import Status
from tests.e2e.quake_world import MARK, Figures, differences, lost_outside

BEFORE = Status({"g_timestamp": "2026-01-01 10:00:00", MARK: "first"}, [])
# 20 snapshots a second with two silences; during the longer one 3 datagrams were lost.
TIMELINE = [(0.0, 1, 50), (0.05, 2, 100), (0.55, 6, 600), (0.6, 7, 650), (0.9, 8, 950)]
SEEN = Figures(
    gamestates=1, snapshots=5, first_server_time=50, last_server_time=950, lost_sequences=3,
    last_command_time=900, timeline=TIMELINE,
)  # fmt: skip


def test_the_same_game_has_no_differences() -> None:
    assert differences(BEFORE, BEFORE, SEEN) == []


@pytest.mark.parametrize(
    ("seen", "says"),
    [
        (replace(SEEN, gamestates=2), "2 gamestates"),
        (replace(SEEN, gamestates=0), "0 gamestates"),
        (replace(SEEN, reconnects=1), "reconnect 1 times"),
        (replace(SEEN, dropped_reason="timed out"), "dropped: timed out"),
        (replace(SEEN, server_time_steps_back=1), "went back"),
        (replace(SEEN, last_command_time=-1000), "moves of the last 1950 ms"),
        (replace(SEEN, timeline=[(0.0, 1, 0), (0.05, 3, 50), (0.6, 4, 600)]), "1 datagrams"),
    ],
)
def test_what_the_player_noticed(seen: Figures, says: str) -> None:
    (only,) = differences(BEFORE, BEFORE, seen)
    assert says in only


@pytest.mark.parametrize(
    ("cvars", "says"),
    [
        ({"g_timestamp": "2026-01-01 10:00:09", MARK: "first"}, "begun at 2026-01-01 10:00:09"),
        ({"g_timestamp": "2026-01-01 10:00:00"}, f"`{MARK}` is None, not first"),
    ],
)
def test_what_the_server_says(cvars: dict[str, str], says: str) -> None:
    (only,) = differences(BEFORE, Status(cvars, []), SEEN)
    assert says in only


def test_a_mark_that_was_never_made_proves_nothing() -> None:
    without = Status({"g_timestamp": "2026-01-01 10:00:00"}, [])
    assert differences(without, without, SEEN)


def test_losses_count_outside_of_the_longest_silences_only() -> None:
    assert lost_outside(TIMELINE, 0) == 3
    assert lost_outside(TIMELINE, 1) == 0
    assert lost_outside([(0.0, 1, 0), (0.05, 4, 0), (0.5, 5, 0)], 1) == 2
