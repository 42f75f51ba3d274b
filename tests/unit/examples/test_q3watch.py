"""examples.quake.q3watch says what examples.quake.web_state understands."""

from __future__ import annotations

import json

from examples.quake.q3oob import Status, StatusPlayer
from examples.quake.q3player import PlayerStats
from examples.quake.q3watch import line
from examples.quake.web_state import Player, Seen, heard


def test_the_page_hears_what_the_player_says() -> None:
    stats = PlayerStats(gamestates=1, snapshots=40, lost_sequences=2, gaps=[(3.1, 502.0)])
    status = Status({"mapname": "oa_dm1"}, [StatusPlayer(3, 48, "^1migrant")])
    assert heard(json.dumps(line(stats, status, 0.00123))) == Seen(
        1, 40, 2, 0, None, 1.2, [502.0], "oa_dm1", [Player(3, 48, "migrant")]
    )


def test_a_server_that_does_not_answer_has_no_players() -> None:
    seen = heard(json.dumps(line(PlayerStats(dropped_reason="gone"), None, None)))
    assert seen == Seen(dropped="gone")
