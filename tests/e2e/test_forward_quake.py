"""A player who comes by the port published on host a stays in the game, wherever it runs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.e2e.quake_world import Player, QuakeWorld, differences, quake_lab
from tests.e2e.world import PAIRS, skip_pair

LOSS = 0.5  # percent, on the link of host b
PLAYERS = 10
OUTSIDE = 27999  # the port on host a: another one than the server's, so that it is translated


@pytest.fixture(scope="module", params=["mixed", "docker26", "docker28"])
def quake(request: pytest.FixtureRequest) -> Iterator[QuakeWorld]:
    skip_pair(request, only_asked_for=("docker26", "docker28"))  # test_forward.py has it
    with quake_lab("e2efq", flavours=PAIRS[request.param], outside=OUTSIDE) as made:
        yield made


@pytest.fixture
def game(quake: QuakeWorld) -> Iterator[QuakeWorld]:
    quake.start_server(quake.a)
    quake.mark("first")
    yield quake
    quake.remove_server()


def test_one_gamestate_there_back_and_there_again(game: QuakeWorld) -> None:
    player = game.player()
    before = game.status()
    here, there, modes = game.a, game.b, []
    for _ in range(3):
        time.sleep(1.5)
        modes.append(json.loads(game.move(here, there))["network"])
        here, there = there, here
    time.sleep(2)
    after = game.status()
    seen = player.stop()
    assert modes == ["forward", "home", "forward"]
    assert differences(before, after, seen, moves=3) == []
    assert (seen.gamestates, seen.reconnects) == (1, 0)
    # Who joins now comes in by host a, too, and is known by the address that is really his.
    late = game.player("--name", "late")
    time.sleep(1)
    seen = late.stop()
    assert (seen.gamestates, seen.reconnects, seen.dropped_reason) == (1, 0, None)


def test_ten_players_and_a_link_that_loses(game: QuakeWorld) -> None:
    game.lab.switch.loss(game.b.netns, LOSS)
    try:
        players = [
            Player(game.player_host, game.server, "--name", f"p{n}", number=n)
            for n in range(PLAYERS)
        ]
        time.sleep(2)  # the server answers one address only so often (SVC_RateLimitAddress)
        before = game.status()
        game.move(game.a, game.b)
        time.sleep(1)
        game.move(game.b, game.a)
        time.sleep(2)
        after = game.status()
        all_seen = [player.stop() for player in players]
    finally:
        game.lab.switch.loss(game.b.netns, None)
    for seen in all_seen:
        # Some datagrams are lost in this one, and that is all that may be.
        found = [d for d in differences(before, after, seen, 2) if "datagrams were lost" not in d]
        assert found == []
