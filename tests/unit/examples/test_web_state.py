"""examples.quake.web_state: what the page shows follows from what others say, whatever they say."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.quake.web_state import (
    LOG,
    LONGEST,
    Host,
    Move,
    Player,
    Seen,
    State,
    ended,
    find,
    heard,
    longest_gap,
    plain,
    progressed,
)

MOVE = Move("a", "b")
HOSTS = [Host("a", "10.77.0.11"), Host("b", "10.77.0.12")]


@pytest.mark.parametrize(
    ("states", "before", "where"),
    [
        ({"a": "running"}, None, "a"),
        ({}, "a", None),
        ({"a": "exited"}, "a", None),
        ({"a": "running", "b": "created"}, "a", "a"),
        ({"a": "paused", "b": "created"}, "a", "a"),
        ({"a": "paused", "b": "running"}, "a", "b"),  # committed, the source's copy still there
        ({"a": "running", "b": "running"}, "b", "b"),
        ({"a": "running", "b": "running"}, None, "a"),
    ],
)
def test_where_the_server_is(states: dict[str, str], before: str | None, where: str | None) -> None:
    assert find(states, before) == where


def test_the_lines_of_the_tool_are_followed() -> None:
    move = progressed(MOVE, '{"phase": "image", "total": 5000}\n')
    assert (move.phase, move.total, move.bytes) == ("image", 5000, 0)
    move = progressed(move, '{"bytes": 1200}')
    assert (move.phase, move.bytes) == ("image", 1200)
    move = progressed(move, '{"phase": "pre-copy", "total": null}')
    assert (move.phase, move.total, move.bytes) == ("pre-copy", None, 0)
    move = progressed(move, '{"warning": "clients: none"}')
    move = progressed(move, '{"note": "round 2"}')
    assert move.log == ["clients: none", "round 2"]


def test_what_is_no_json_line_is_shown_as_it_is_and_not_without_end() -> None:
    move = MOVE
    for number in range(LOG + 5):
        move = progressed(move, f"{number} " + "x" * 1000)
    assert len(move.log) == LOG
    assert move.log[-1].startswith(f"{LOG + 4} ")
    assert len(move.log[-1]) == LONGEST


@given(st.text() | st.binary().map(lambda some: some.decode(errors="replace")))
def test_no_line_is_too_odd(text: str) -> None:
    move = progressed(MOVE, text)
    assert move.running
    assert len(move.log) <= 1
    heard(text)
    assert not ended(move, 0, text).running


def test_the_end_of_a_migration() -> None:
    done = ended(MOVE, 0, json.dumps({"downtime": 0.487, "total": 4.7, "rounds": []}))
    assert (done.running, done.error, done.downtime, done.seconds) == (False, None, 487.0, 4.7)


def test_a_failure_is_told_with_what_helps() -> None:
    said = json.dumps({"error": "Refused", "message": "b lacks it", "remedy": "give it"})
    assert ended(MOVE, 30, said).error == "b lacks it. give it"
    assert ended(MOVE, 137, "").error == "migrate ended with 137"
    assert ended(MOVE, 30, "{}").error == "exit code 30"


def test_when_it_cannot_be_moved() -> None:
    there = State(HOSTS, where="a")
    assert there.refuse("b") is None
    assert there.refuse("c") == "there is no such host"
    assert there.refuse("a") == "it is there already"
    assert State(HOSTS).refuse("b") == "the server is nowhere to be seen"
    assert State(HOSTS, where="a", move=MOVE).refuse("b") == "a migration is running"
    over = msgspec.structs.replace(MOVE, running=False)
    assert State(HOSTS, where="a", move=over).refuse("b") is None


def test_the_gap_of_a_migration_is_none_of_those_before() -> None:
    before = Seen(gaps=[900.0])
    assert longest_gap(before, Seen(gaps=[900.0, 200.0, 502.0])) == 502.0
    assert longest_gap(before, before) is None
    assert longest_gap(None, Seen(gaps=[300.0])) == 300.0


def test_names_of_players_are_without_colours_and_otherwise_theirs() -> None:
    assert plain("^1Red^7<script>alert(1)</script>\x1b") == "Red<script>alert(1)</script>"
    line = {"players": [{"score": 1, "ping": 48, "name": "^2mi^3grant"}], "gaps": [502.0]}
    seen = heard(json.dumps(line))
    assert seen is not None
    assert seen.players == [Player(1, 48, "migrant")]
    assert seen.gaps == [502.0]


def test_what_the_player_does_not_say_is_not_heard() -> None:
    assert heard("playing") is None
    assert heard('{"gaps": "many"}') is None
