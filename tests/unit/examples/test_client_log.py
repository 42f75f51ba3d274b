"""What the client's console and the server's list say of a connection."""

from __future__ import annotations

from examples.quake.client_log import Connection, Slot, read_log, slot_of

# As ioquake3 1.36 of Debian 13 printed them, shortened.
JOINED = """\
----- finished R_Init -----
10.77.0.11:27960 resolved to 10.77.0.11:27960
Loading vm file vm/cgame.qvm...
stitched 0 LoD cracks
CL_InitCGame:  1.19 seconds
345 msec to draw all images
Spectator^7 entered the game
Liz^7 ate Sergei^7's rocket
"""
STATUS = """\
map: oa_dm1
cl score ping name            address                                 rate 
-- ----- ---- --------------- --------------------------------------- -----
 0     0    0 Grunt           ^7bot                                     16384
 1    -2    0 Sergei          ^7bot                                     16384
 3     0   48 Spectator       ^710.77.0.13                              99999
 4     0 CON migrant         ^710.77.0.14                              99999
12     0  999 late            ^710.77.0.15                              99999
"""


def test_one_connection_and_one_game() -> None:
    assert read_log(JOINED) == Connection(1, 1, ())
    assert read_log(JOINED).unbroken


def test_before_it_is_in_the_game_it_is_not_unbroken() -> None:
    assert not read_log("----- finished R_Init -----\n").unbroken


def test_silence_that_was_too_long_is_seen() -> None:
    seen = read_log(JOINED + "\nServer connection timed out.\n")
    assert seen.broken == ("Server connection timed out.",)
    assert not seen.unbroken


def test_a_server_that_says_good_bye_is_seen() -> None:
    seen = read_log(JOINED + "Server disconnected - Server shutdown - Received signal 15\n")
    assert len(seen.broken) == 1
    assert not seen.unbroken


def test_a_second_gamestate_is_seen() -> None:
    again = read_log(JOINED + "CL_InitCGame:  0.50 seconds\n")
    assert again.gamestates == 2
    assert not again.unbroken


def test_a_second_connect_is_seen() -> None:
    again = read_log(JOINED + "10.77.0.11:27960 resolved to 10.77.0.11:27960\n")
    assert again.connects == 2
    assert not again.unbroken


def test_what_players_say_is_not_taken_for_an_end() -> None:
    said = JOINED + "migrant^7: ^2Server connection timed out.\n"
    assert read_log(said).unbroken


def test_places_in_the_servers_list() -> None:
    assert slot_of(STATUS, "Spectator") == Slot(3, 48, "10.77.0.13")
    assert slot_of(STATUS, "migrant") == Slot(4, None, "10.77.0.14")
    assert slot_of(STATUS, "late") == Slot(12, 999, "10.77.0.15")
    assert slot_of(STATUS, "Sergei") == Slot(1, 0, "bot")
    assert slot_of(STATUS, "nobody") is None
    assert slot_of(STATUS, "Spec") is None
