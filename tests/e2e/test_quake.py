"""A Quake 3 server moves while it is played on: the player must not notice more than a hiccup."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator

import pytest

from tests.e2e.quake_world import MARK, NAME, QuakeWorld, differences, quake_lab

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the lab needs root")

LAB = "e2eq"


@pytest.fixture(scope="module")
def quake() -> Iterator[QuakeWorld]:
    with quake_lab(LAB) as made:
        yield made


@pytest.fixture
def game(quake: QuakeWorld) -> Iterator[QuakeWorld]:
    """A server on host a, with a mark that only its memory holds."""
    quake.start_server(quake.a)
    quake.mark("first")
    yield quake
    quake.remove_server()


def test_the_player_stays_in_the_same_game(game: QuakeWorld) -> None:
    player = game.player()
    before = game.status()
    time.sleep(2)
    summary = json.loads(game.move(game.a, game.b))
    time.sleep(2)
    after = game.status()
    seen = player.stop()
    back = json.loads(game.move(game.b, game.a))
    assert differences(before, after, seen) == []
    assert (seen.gamestates, seen.reconnects) == (1, 0)
    # What the tool says of the downtime is what the player saw, give or take two snapshots and what
    # a busy machine takes; 300 ms are usual here.
    downtime = summary["downtime"] * 1000
    assert downtime / 2 < seen.max_gap_ms < downtime + 1000
    assert downtime < 5000
    assert summary["image_sent"]  # only host a had it
    assert not back["image_sent"]  # it is still there
    assert game.b.sh(f"docker ps -aqf name={NAME}") == ""
    assert game.a.sh(f"docker inspect -f '{{{{.State.Running}}}}' {NAME}") == "true"


def test_killed_and_started_anew_is_not_the_same_game(game: QuakeWorld) -> None:
    """The control: the same check must see the difference."""
    player = game.player("--reconnect-after", "1.5")
    before = game.status()
    time.sleep(1)
    game.restart_server(game.a)
    game.wait_for_player()
    after = game.status()
    seen = player.stop()
    found = " / ".join(differences(before, after, seen))
    assert "the game was begun at" in found
    assert f"`{MARK}` is None, not first" in found
    assert "2 gamestates" in found
    assert "reconnect" in found
