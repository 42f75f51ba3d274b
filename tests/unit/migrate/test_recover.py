"""migrate.recover, recover_remote: a dead session is undone, finished, or asked for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from migrate import frontend, recover, recover_remote, undo
from migrate import journal as journal_module
from migrate.errors import AgentFailed, Busy, OutcomeUnknown
from migrate.journal import COMMIT_SENT, CONFIRMED, OWNED, RUNNING, Header, Journal, find
from migrate.messages import AskOutcome, Done, Finish, Outcome
from migrate.protocol import decode_request, send
from migrate.recover import forget, outcome, recover_local
from migrate.runtime import RAN
from migrate.undo import EndPending, RemoveContainer, RenameBack, Step, Thaw, Unmount
from tests.unit.migrate.memory_channel import MemoryChannel, pair
from transport.errors import ConnectionLost, StreamCorrupt

SESSION = "a" * 16


class World:
    """What recovery does to the host, noted."""

    def __init__(self, directory: Path, work: Path) -> None:
        self.directory = directory
        self.base = work
        self.undone: list[Step] = []
        self.refused: type | None = None
        self.ended: list[str] = []
        self.calls: list[tuple[Any, ...]] = []

    def undo(self, step: Step) -> None:
        if self.refused and isinstance(step, self.refused):
            raise RuntimeError("no")
        self.undone.append(step)

    def end(self, journal: Journal) -> None:
        self.ended.append(journal.header.container)

    def dead(
        self, role: str, *phases: str, policy: dict[str, Any] | None = None, peer_id: str = ""
    ) -> None:
        """A session whose process has died after these phases."""
        journal = Journal.create(
            Header(
                SESSION, role, "c" * 64, "app", "hostb", 0.0, policy=policy or {}, peer_id=peer_id
            ),
            self.directory,
        )
        for step in self.steps(role):
            journal.push(step)
        for phase in phases:
            journal.phase(phase)
        journal.close(finished=False)

    def steps(self, role: str) -> list[Step]:
        if role == "source":
            return [Unmount(str(self.base)), Thaw("/f")]
        return [
            Unmount(str(self.base)), RenameBack("old", "app"), RemoveContainer("new"),
            EndPending("/p"),
        ]  # fmt: skip

    def left(self, role: str) -> bool:
        return find(SESSION, role, self.directory).exists()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    (tmp_path / "base/work").mkdir(parents=True)
    world = World(tmp_path / "journal", tmp_path / "base")
    monkeypatch.setattr(journal_module, "undo", world.undo)
    monkeypatch.setattr(recover, "end_source_copy", world.end)
    monkeypatch.setattr(recover_remote, "end_source_copy", world.end)
    for module in (recover, undo):
        monkeypatch.setattr(
            module,
            "DockerHost",
            lambda: SimpleNamespace(
                set_restart_policy=lambda *a: world.calls.append(("policy", *a)),
                remove=lambda *a: world.calls.append(("remove", *a)),
            ),
        )
    monkeypatch.setattr(recover, "SUPERVISOR_PATIENCE", 0.0)
    return world


# -- one host -------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["source", "destination"])
@pytest.mark.parametrize("phases", [(), ("prepare",), ("freeze",), ("restored",)])
def test_before_commit_everything_is_undone(
    world: World, role: str, phases: tuple[str, ...]
) -> None:
    world.dead(role, *phases)
    assert "everything undone" in recover_local(SESSION, role, world.directory)
    assert world.undone == list(reversed(world.steps(role)))
    assert not world.left(role)
    assert world.ended == []
    with pytest.raises(FileNotFoundError):
        recover_local(SESSION, role, world.directory)


def test_an_unsure_source_stays_as_it_is(world: World) -> None:
    world.dead("source", "freeze", COMMIT_SENT)
    assert "stays frozen" in recover_local(SESSION, "source", world.directory)
    assert (world.undone, world.ended) == ([], [])
    assert world.left("source")


def test_a_confirmed_source_ends_its_copy_and_never_thaws(world: World) -> None:
    world.dead("source", "freeze", COMMIT_SENT, CONFIRMED)
    assert "runs at hostb" in recover_local(SESSION, "source", world.directory)
    assert world.ended == ["c" * 64]
    assert world.undone == [Unmount(str(world.base))]
    assert world.left("source")  # until the destination knows


@pytest.mark.parametrize("noted", [True, False], ids=["noted", "by the supervisor's mark"])
def test_a_destination_that_runs_it_keeps_it(world: World, noted: bool) -> None:
    world.dead(
        "destination", "restored", OWNED, *([RUNNING] if noted else []), policy={"Name": "always"}
    )
    if not noted:
        (world.base / "work" / RAN).touch()
    for _ in range(2):  # it is there until the source has asked
        assert "runs here" in recover_local(SESSION, "destination", world.directory)
    assert not any(isinstance(step, RemoveContainer | EndPending) for step in world.undone)
    assert ("policy", "new", {"Name": "always"}) in world.calls
    assert ("remove", "old") in world.calls
    assert world.undone == [Unmount(str(world.base))]
    assert world.left("destination")


def test_a_mark_without_the_word_of_the_agent_counts_for_nothing(world: World) -> None:
    world.dead("destination", "restored")
    (world.base / "work" / RAN).touch()
    recover_local(SESSION, "destination", world.directory)
    assert RemoveContainer("new") in world.undone


def test_a_destination_where_it_did_not_come_to_run_undoes(world: World) -> None:
    world.dead("destination", "restored", OWNED)
    assert "undone" in recover_local(SESSION, "destination", world.directory)
    assert world.undone == list(reversed(world.steps("destination")))


def test_no_policy_no_call(world: World) -> None:
    world.dead("destination", OWNED, RUNNING, policy={"Name": "no"})
    recover_local(SESSION, "destination", world.directory)
    assert not any(call[0] == "policy" for call in world.calls)


def test_what_cannot_be_undone_stays_noted(world: World) -> None:
    world.dead("destination", "prepare")
    world.refused = RemoveContainer
    with pytest.raises(AgentFailed, match="RemoveContainer"):
        recover_local(SESSION, "destination", world.directory)
    assert world.left("destination")
    world.refused = None
    recover_local(SESSION, "destination", world.directory)
    assert world.undone[-1] == RemoveContainer("new")
    assert not world.left("destination")


# -- what the destination answers -----------------------------------------------------------------


def test_whose_it_is(world: World) -> None:
    assert outcome(SESSION, world.directory).owner == "source"  # nothing known: nothing here
    world.dead("destination", "restored", OWNED, RUNNING)
    assert outcome(SESSION, world.directory) == Outcome(owner="destination", container="new")
    assert outcome(SESSION, world.directory).owner == "destination"
    forget(SESSION, world.directory)
    assert not world.left("destination")
    forget(SESSION, world.directory)  # twice is no failure


def test_asking_undoes_what_did_not_come_to_run(world: World) -> None:
    world.dead("destination", "restored", OWNED)
    assert outcome(SESSION, world.directory).owner == "source"
    assert RemoveContainer("new") in world.undone


def test_while_the_agent_lives_it_is_busy(world: World) -> None:
    world.dead("destination", "restored")
    alive = Journal.reopen(find(SESSION, "destination", world.directory))
    assert outcome(SESSION, world.directory).owner == "busy"
    assert world.undone == []
    alive.close(finished=False)


def test_a_destination_that_cannot_undo_does_not_give_it_back(world: World) -> None:
    world.dead("destination", "restored", OWNED)
    world.refused = RemoveContainer
    with pytest.raises(AgentFailed):
        outcome(SESSION, world.directory)


@pytest.mark.parametrize("session", ["", "../x", "a" * 100])
def test_only_sessions_are_asked_for(world: World, session: str) -> None:
    with pytest.raises(StreamCorrupt):
        outcome(session, world.directory)


# -- two hosts ------------------------------------------------------------------------------------


class Remote:
    """The destination, as AgentLink shows it."""

    def __init__(self) -> None:
        self.channel, self.far = pair()
        self.peers: list[str] = []
        self.unreachable = False
        self.host_id = "the one"

    def answer(self, *owners: str) -> None:
        for owner in owners:
            send(self.far, Outcome(owner=owner, container="new"))
        send(self.far, Done())

    def asked(self) -> list[Any]:
        heard = []
        while not self.far.inbox.empty():
            heard.append(decode_request(self.far.receive().payload))
        return heard

    def __call__(self, peer: str) -> Remote:
        self.peers.append(peer)
        return self

    def __enter__(self) -> Remote:
        if self.unreachable:
            raise ConnectionLost("no route")
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def greet(self) -> Any:
        return SimpleNamespace(host_id=self.host_id)


@pytest.fixture
def remote(world: World, monkeypatch: pytest.MonkeyPatch) -> Remote:
    remote = Remote()
    assert isinstance(remote.channel, MemoryChannel)
    monkeypatch.setattr(recover_remote, "link_to", remote)
    monkeypatch.setattr(recover_remote, "DIRECTORY", world.directory)
    monkeypatch.setattr(
        recover_remote, "find", lambda session, role: find(session, role, world.directory)
    )
    monkeypatch.setattr(
        recover_remote,
        "recover_local",
        lambda session, role: recover_local(session, role, world.directory),
    )
    monkeypatch.setattr(
        recover_remote,
        "recover_destination",
        lambda session: recover_local(session, "destination", world.directory),
    )
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    return remote


def test_an_unsure_source_ends_its_copy_when_the_destination_has_it(
    world: World, remote: Remote
) -> None:
    world.dead("source", COMMIT_SENT)
    remote.answer("busy", "busy", "destination")
    assert "runs at hostb" in recover_remote.recover_source(SESSION)
    assert remote.peers == ["hostb"]
    assert remote.asked() == [AskOutcome(session=SESSION)] * 3 + [Finish()]
    assert world.ended == ["c" * 64]
    assert Thaw("/f") not in world.undone
    assert not world.left("source")


def test_an_unsure_source_goes_on_when_the_destination_has_it_not(
    world: World, remote: Remote
) -> None:
    world.dead("source", COMMIT_SENT)
    remote.answer("source")
    assert "runs here again" in recover_remote.recover_source(SESSION)
    assert Thaw("/f") in world.undone
    assert world.ended == []
    assert not world.left("source")


def test_without_an_answer_nothing_is_done(world: World, remote: Remote) -> None:
    world.dead("source", COMMIT_SENT)
    remote.unreachable = True
    with pytest.raises(ConnectionLost):
        recover_remote.recover_source(SESSION)
    remote.unreachable = False
    remote.answer("nobody")
    with pytest.raises(OutcomeUnknown, match="nobody"):
        recover_remote.recover_source(SESSION)
    assert (world.undone, world.ended) == ([], [])
    assert world.left("source")


def test_a_destination_that_stays_busy_is_not_waited_for_for_ever(
    world: World, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recover_remote, "BUSY_PATIENCE", -1.0)
    world.dead("source", COMMIT_SENT)
    remote.answer("busy")
    with pytest.raises(Busy):
        recover_remote.recover_source(SESSION)
    assert world.left("source")


def test_a_copy_that_could_not_be_ended_is_ended_the_next_time(
    world: World, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.dead("source", COMMIT_SENT)
    remote.answer("destination")

    def refuse(journal: Journal) -> None:
        raise AgentFailed("no")

    with monkeypatch.context() as patch:
        patch.setattr(recover_remote, "end_source_copy", refuse)
        with pytest.raises(AgentFailed):
            recover_remote.recover_source(SESSION)
    assert Finish() not in remote.asked()  # the destination must go on remembering
    remote.unreachable = True
    with pytest.raises(ConnectionLost):
        recover_remote.recover_source(SESSION)
    # By what it has noted, whether or not anybody can be reached.
    assert world.ended == ["c" * 64]
    assert world.undone == [Unmount(str(world.base))]
    assert world.left("source")


def test_a_destination_that_was_not_told_is_told_later(world: World, remote: Remote) -> None:
    world.dead("source", COMMIT_SENT, CONFIRMED)
    remote.channel.inbox.queue.clear()
    remote.answer("source")  # it may have forgotten already: that gives nothing back to us
    assert "runs at hostb" in recover_remote.recover_source(SESSION)
    assert remote.asked() == [AskOutcome(session=SESSION), Finish()]
    assert Thaw("/f") not in world.undone
    assert not world.left("source")


def test_a_recovery_that_fails_lets_go_of_the_journal(
    world: World, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(journal: Journal) -> None:
        raise AgentFailed("no")

    world.dead("source", COMMIT_SENT, CONFIRMED)
    monkeypatch.setattr(recover_remote, "end_source_copy", refuse)
    with pytest.raises(AgentFailed) as kept:  # with its traceback, and so with its frames
        recover_remote.recover_source(SESSION)
    Journal.reopen(find(SESSION, "source", world.directory)).close(finished=True)
    assert kept.value.message == "no"


def test_all_sessions_are_recovered_and_one_failure_does_not_stop_it(
    world: World, remote: Remote
) -> None:
    world.dead("source", "freeze")
    world.dead("destination", "prepare")
    world.refused = EndPending
    said, failed = recover_remote.recover_all()
    assert ["everything undone" in line for line in said] == [True]
    assert [failure.code for failure in failed] == ["AgentFailed"]
    world.refused = None
    assert len(recover_remote.recover_all()[0]) == 1
    assert recover_remote.recover_all() == ([], [])


@pytest.mark.parametrize(("answers", "believed"), [("the one", True), ("a clone", False)])
def test_another_host_under_the_same_name_is_not_believed(
    world: World, remote: Remote, answers: str, believed: bool
) -> None:
    """An alias that leads elsewhere by now says "not here", and the copy would run twice."""
    world.dead("source", "freeze", COMMIT_SENT, peer_id="the one")
    remote.host_id = answers
    remote.answer("source")
    if believed:
        recover_remote.recover_source(SESSION)
    else:
        with pytest.raises(OutcomeUnknown, match="another host"):
            recover_remote.recover_source(SESSION)
    assert (Thaw("/f") in world.undone) is believed


def test_front_ends_are_laid_again_after_a_boot(
    world: World, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frontend, "restore_missing", lambda: 2)
    assert recover_remote.recover_all() == (["2 front ends of this host are in force"], [])

    def refuse() -> int:
        raise AgentFailed("no")

    monkeypatch.setattr(frontend, "restore_missing", refuse)
    assert [failure.message for failure in recover_remote.recover_all()[1]] == ["no"]
