"""migrate.network_move and network_arrival: who lays, switches and ends what, in which order."""

from __future__ import annotations

import pytest

from migrate import forward_store
from migrate.command_forward import describe
from migrate.errors import CommandFailed, PlacementFailed, Unsupported
from migrate.forward_record import ANCHOR, TARGET, Forward
from migrate.forward_upkeep import end_both, lay_again, tell_late, untold
from migrate.messages import (
    EndForward,
    FollowForward,
    HomeForward,
    SetForward,
    SwitchForward,
)
from migrate.network_arrival import Arrival
from migrate.network_move import Ending
from migrate.undo import EndForwardAt, LeadAway, RemoveForward
from tests.unit.migrate.forwards import IDENT, forward
from tests.unit.migrate.network_world import SESSION, World, known, world
from transport.errors import HostUnreachable, StreamCorrupt

__all__ = ["world"]


# -- the source -----------------------------------------------------------------------------------


def test_the_target_is_laid_first_and_nothing_leads_there_before_the_switch(world: World) -> None:
    departure = world.departs()
    departure.prepare("B", world.journal)  # type: ignore[arg-type]
    assert world.log == [("B", SetForward), ("lay", ANCHOR, True)]
    assert world.journal.steps == [RemoveForward(SESSION)]
    record = forward_store.find(SESSION)
    assert record
    assert (record.bridge, record.away) == ("br-1234567890ab", False)
    departure.ready()
    departure.switch()
    assert world.log[2:] == [("switch", True)]
    assert departure.committed() == []


def test_what_an_earlier_move_left_goes(world: World) -> None:
    forward_store.write(forward())
    world.departs().prepare("B", world.journal)  # type: ignore[arg-type]
    assert ("remove", IDENT) in world.log


def test_the_forward_of_another_that_had_the_address_before_stays(world: World) -> None:
    other = forward(away=True, name="other")
    forward_store.write(other)
    with pytest.raises(Unsupported, match="clients of `other`, which has moved to hostb") as said:
        world.departs()
    assert f"migrate forward remove {IDENT}" in said.value.remedy
    world.departs("none").prepare("B", world.journal)  # type: ignore[arg-type]
    assert world.log == []
    assert forward_store.read_all() == [other]
    forward_store.write(forward(away=True, address="10.99.0.11"))
    world.departs().prepare("B", world.journal)  # type: ignore[arg-type]
    assert ("remove", IDENT) not in world.log


def test_the_end_of_the_copy_is_framed(world: World) -> None:
    world.departs().prepare("B", world.journal)  # type: ignore[arg-type]
    world.log.clear()
    ending = Ending(world.journal.header)
    ending.hold()
    assert world.log == ["lead away", "hold"]
    ending.settle()
    assert world.log[2:] == [("settle", ["an entry"])]


def test_home_is_told_and_the_target_ends_before_its_container(world: World) -> None:
    known()
    departure = world.departs(there_id="ida")
    departure.prepare("A", world.journal)  # type: ignore[arg-type]
    departure.ready()
    departure.switch()
    assert departure.committed() == []
    assert world.log == [("A", HomeForward)]
    ending = Ending(world.journal.header)
    ending.hold()
    assert world.log[1:] == [("remove", IDENT)]


def test_a_third_host_is_led_to_after_commit(world: World) -> None:
    known()
    departure = world.departs()
    departure.prepare("C", world.journal)  # type: ignore[arg-type]
    assert world.log == [("C", SetForward), ("hosta", FollowForward)]
    assert world.journal.steps == [EndForwardAt("hosta", SESSION)]
    departure.switch()
    assert departure.committed() == []
    assert world.log[2:] == [("hosta", SwitchForward), ("remove", IDENT)]
    departure.close()
    assert world.log[-1] == ("hung up", "hosta")


def test_an_anchor_lost_after_commit_is_a_warning_and_asked_once_more(world: World) -> None:
    known()
    departure = world.departs()
    departure.prepare("C", world.journal)  # type: ignore[arg-type]
    world.lost = HostUnreachable("no route")
    (warning,) = departure.committed()
    assert "hosta still leads the clients of web to this host: no route" in warning
    assert f"`migrate forward remove {IDENT}` gives up" in warning
    world.lost = None
    world.log.clear()
    Ending(world.journal.header).hold()
    assert world.log == [("hosta", SwitchForward), ("hung up", "hosta"), ("remove", IDENT)]


def moved_on_untold(world: World) -> None:
    """It runs at C; the anchor could not be told, and the copy here has ended."""
    known()
    departure = world.departs()
    departure.prepare("C", world.journal)  # type: ignore[arg-type]
    world.lost = HostUnreachable("no route")
    departure.committed()
    ending = Ending(world.journal.header)
    ending.hold()
    ending.settle()
    assert world.log[-1] == "leave note"
    Ending(world.journal.header).hold()  # once more, by the guard: it is recover's business now
    world.log.clear()


def test_an_anchor_that_stays_lost_is_told_by_recover(world: World) -> None:
    moved_on_untold(world)
    said, failed = lay_again(all_of_them=False)
    assert (said, [type(one) for one in failed]) == ([], [HostUnreachable])
    assert f"`migrate forward remove {IDENT}` gives up" in failed[0].message
    world.lost, world.id_there = None, "another"
    assert "hosta is another host now" in lay_again()[1][0].message
    world.id_there = "ida"
    world.log.clear()
    said, failed = lay_again(all_of_them=False)
    assert (len(said), failed) == (1, [])
    assert world.log == [("hosta", SwitchForward), ("hung up", "hosta"), ("remove", IDENT)]
    assert lay_again() == ([], [])


def test_an_anchor_that_stays_lost_is_told_by_the_guard(world: World) -> None:
    moved_on_untold(world)
    assert untold(SESSION)
    assert not untold("e" * 16)
    with pytest.raises(HostUnreachable, match="still leads the clients of web to this host"):
        tell_late(SESSION)
    world.lost = None
    assert "hosta leads the clients" in tell_late(SESSION)
    assert tell_late(SESSION) == ""


def test_an_anchor_that_is_gone_for_good_is_given_up_by_hand(world: World) -> None:
    moved_on_untold(world)
    (record,) = forward_store.read_all()
    assert "hosta still leads its clients here" in describe(record, laid=False)
    assert "no route" in end_both(record)  # `migrate forward remove`
    assert lay_again() == ([], [])


def test_an_anchor_that_has_no_such_way_any_more_has_answered(world: World) -> None:
    """The container has moved on from C, or home: what leads here ends."""
    moved_on_untold(world)
    world.lost, world.refuses = None, {SwitchForward: PlacementFailed("no forward was laid here")}
    (said,), failed = lay_again()
    assert (said.endswith("ends"), failed) == (True, [])
    assert [entry for entry in world.log if entry[0] == "hosta"] == [
        ("hosta", SwitchForward), ("hosta", EndForward),
    ]  # fmt: skip
    assert forward_store.read_all() == []


def test_a_successor_of_a_move_that_was_undone_is_nothing_to_tell(world: World) -> None:
    known(successor="e" * 16)
    world.refuses = {SwitchForward: PlacementFailed("no forward was laid here")}
    Ending(world.journal.header).hold()
    assert world.log[-1] == ("remove", IDENT)


def test_an_anchor_that_cannot_be_told_is_said_before_anything_is_done(world: World) -> None:
    known()
    world.lost = HostUnreachable("no route")
    with pytest.raises(Unsupported, match="hosta, which cannot be told of the new way: no route"):
        world.departs()
    world.lost, world.id_there = None, "another"
    with pytest.raises(Unsupported, match="another host now"):
        world.departs()
    assert world.journal.steps == []


def test_none_ends_what_was_there(world: World) -> None:
    known()
    departure = world.departs("none")
    departure.prepare("C", world.journal)  # type: ignore[arg-type]
    assert world.log == []
    assert departure.committed() == []
    assert world.log == [("remove", IDENT), ("hosta", EndForward), ("hung up", "hosta")]


def test_an_end_that_the_other_host_does_not_hear_of_is_said(world: World) -> None:
    record = known()
    world.id_there = "another"
    assert "hosta could not be told: hosta is another host now" in end_both(record)
    world.lost = HostUnreachable("no route")
    assert "no route; `migrate forward remove` there does it" in end_both(record)
    assert forward_store.read_all() == []


# -- the destination ------------------------------------------------------------------------------


def test_a_target_begins_afresh(world: World) -> None:
    arrival = Arrival(world.docker, world.journal, "d" * 64)
    arrival.set_forward(forward(TARGET, id=SESSION))
    assert world.log == ["forget", "forget neighbour", ("lay", TARGET, False)]
    assert world.journal.steps == [RemoveForward(SESSION)]
    record = forward_store.find(SESSION)
    assert record
    assert record.container == "d" * 64
    world.log.clear()
    arrival.commit()
    arrival.settle()
    arrival.finish()
    assert world.log == []


def test_a_rule_that_is_gone_already_does_not_undo_a_container_that_runs(world: World) -> None:
    forward_store.write(forward(away=True))
    arrival = Arrival(world.docker, world.journal, "d" * 64)
    arrival.come_home(IDENT)
    world.no_rule = CommandFailed("RTNETLINK answers: No such file or directory")
    arrival.commit()
    arrival.settle()  # deletes it once more
    assert world.log[2:] == [("switch", False), "end", "load"]


@pytest.mark.parametrize("record", [forward(id=SESSION), forward(TARGET)])
def test_only_the_sessions_own_target_is_taken(world: World, record: Forward) -> None:
    with pytest.raises(StreamCorrupt):
        Arrival(world.docker, world.journal, "d" * 64).set_forward(record)


def test_home_the_connections_are_held_over_dockers_flush(world: World) -> None:
    forward_store.write(forward(away=True))
    arrival = Arrival(world.docker, world.journal, "d" * 64)
    arrival.come_home(IDENT)
    assert world.journal.steps == [LeadAway(IDENT)]
    assert world.log == ["forget neighbour", "adopt"]
    arrival.commit()
    arrival.settle()
    arrival.finish()
    assert world.log[2:] == [("switch", False), "end", "load", ("remove", IDENT)]
