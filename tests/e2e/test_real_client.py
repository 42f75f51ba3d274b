"""The real client, ioquake3 under Xvfb, stays in the game while the server moves.

The game and its data are in the tree of flavour `player`, which `tests.e2e.build` makes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from examples.quake.real_client import FLAVOUR, HEIGHT, NAME, TIMEOUT, WIDTH
from examples.quake.screen import png
from examples.quake.witness import Witness, obtain
from tests.e2e.quake_world import NAME as CONTAINER
from tests.e2e.quake_world import QuakeWorld, quake_lab
from tests.e2e.world import eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the lab needs root")

LAB = "e2erc"


@pytest.fixture(scope="module")
def quake() -> Iterator[QuakeWorld]:
    if why := obtain():
        pytest.skip(f"the real client cannot be had: {why}")
    with quake_lab(LAB, player=FLAVOUR) as made:
        yield made


@pytest.fixture
def witness(quake: QuakeWorld) -> Iterator[Witness]:
    """The real client in a game on host a."""
    quake.start_server(quake.a)
    made = Witness(quake)
    yield made
    made.client.stop()
    quake.remove_server()


def heard(quake: QuakeWorld, witness: Witness, words: str) -> bool:
    """Whether the server, on host b, hears what the client says."""
    witness.client.order(f"say {words}")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if f"{NAME}: {words}" in quake.b.sh(f"docker logs {CONTAINER} 2>&1"):
            return True
        time.sleep(0.2)
    return False


def draws(witness: Witness) -> bool:
    """Whether it draws 6 new frames within a minute; half a second is usual."""
    witness.client.watch()
    deadline = time.monotonic() + 60
    while len(witness.client.watching()) < 6 and time.monotonic() < deadline:
        time.sleep(0.1)
    return len(witness.client.watched()) >= 6


def is_in_the_game(witness: Witness) -> None:
    """As it was; on a busy machine the server may not have heard of it for a moment."""
    eventually(lambda: witness.differences() == [], "another game", witness.differences)


def test_the_real_client_stays_in_the_game(quake: QuakeWorld, witness: Witness) -> None:
    assert witness.before is not None
    assert witness.client.connection().unbroken
    witness.client.watch()
    quake.timed_move(quake.a, quake.b)
    time.sleep(1)
    frames = witness.client.watched()
    is_in_the_game(witness)
    assert heard(quake, witness, "still here")
    # What it says goes on to be drawn, too: the game moves before its eyes.
    assert len(frames) > 5
    assert draws(witness)
    picture = png(frames[-1].dump)
    assert picture[16:24] == WIDTH.to_bytes(4, "big") + HEIGHT.to_bytes(4, "big")
    # Longer than the client would bear silence: it was not just about to give up.
    time.sleep(TIMEOUT + 2)
    is_in_the_game(witness)


def test_a_server_that_was_killed_is_noticed(quake: QuakeWorld, witness: Witness) -> None:
    """The control: the same looks must see the difference."""
    quake.restart_server(quake.a)
    deadline = time.monotonic() + TIMEOUT + 60
    while not witness.client.connection().broken and time.monotonic() < deadline:
        time.sleep(0.5)
    found = " / ".join(witness.differences())
    assert "gamestates: Server connection timed out." in found
    assert "place was" in found
