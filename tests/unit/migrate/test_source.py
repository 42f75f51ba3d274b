"""migrate.source and migrate.freeze: who is thawed, asked and told when it fails at each moment."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from migrate import freeze as freeze_module
from migrate import journal as journal_module
from migrate import source as source_module
from migrate.errors import (
    AgentFailed,
    CommandFailed,
    ContainerNotRunning,
    DumpFailed,
    FreezeTooLong,
    Interrupted,
    MemoryLost,
    OutcomeUnknown,
    RestoreFailed,
    Unsupported,
)
from migrate.freeze import FrozenPart
from migrate.journal import COMMIT_SENT, CONFIRMED, Header, Journal
from migrate.messages import Abandon, Done, Failed, Filled, Ready, Running
from migrate.move_options import Options
from migrate.page_compare import Tally
from migrate.progress import Progress
from migrate.protocol import decode_request, from_failure, send
from migrate.source import Migration
from migrate.undo import EndDump, Step, Thaw, UnlockNetwork
from tests.unit.migrate.memory_channel import MemoryChannel, pair
from transport.errors import ConnectionLost, Failure, StreamCorrupt

TALLY = Tally(scanned=100, dirty=3, literal=3, sent=9000)


class World:
    """A migration that has come to the freeze; `log` has what happens, in order."""

    def __init__(self, top: Path) -> None:
        self.log: list[str] = []
        self.channel, self.far = pair()
        self.migration = Migration(Options("app", "hostb"), Progress(quiet=True))
        self.migration._announced = True
        self.migration._base = top / "base"
        self.journal = Journal.create(
            Header("a" * 16, "source", "c" * 64, "app", "hostb", 0.0), top / "journal"
        )
        self.migration.journal = self.journal
        link: Any = SimpleNamespace(channel=self.channel)
        self.migration.link = link
        view: Any = SimpleNamespace(
            target=SimpleNamespace(pid=1, freezer="/f"), started=1,
            inspect={"Config": {}, "HostConfig": {}},
        )  # fmt: skip
        self.fail: dict[str, BaseException] = {}
        dumper: Any = SimpleNamespace(
            pid=1, dump=self.does("dump"), close=self.does("criu ended"), abandon=lambda: None
        )
        dumper.finish = self.does("tasks let go")
        self.dumper = dumper
        memory = SimpleNamespace(
            frozen=self.does("scan"), dumped=self.does("lists"), finish=self.does("last", TALLY)
        )
        outgoing: Any = SimpleNamespace(dumper=dumper, memory=memory, images=Path("/nowhere"))
        sender: Any = SimpleNamespace(images=Path("/nowhere"), send=self.does("files", 7))
        self.part = FrozenPart(
            view, self.journal, self.channel, outgoing, sender, self.does("final pass")
        )
        self.part.hold, self.part.let_go = self.does("hold"), self.does("let go")
        self.migration.frozen = self.part

    def does(self, name: str, value: Any = None) -> Callable[..., Any]:
        def body(*_: Any) -> Any:
            self.log.append(name)
            if name in self.fail:
                raise self.fail[name]
            return value

        return body

    def undo(self, step: Step) -> None:
        self.log.append(f"undo {type(step).__name__}")

    def answers(self, *messages: Any) -> None:
        for message in messages:
            send(self.far, message)

    def run(self) -> None:
        """The freeze, and what `Migration.run` does when it fails."""
        try:
            self.part.run(before_commit=self.does("no way back"))
        except BaseException as failure:
            self.migration._roll_back(failure)
            raise

    def told(self) -> list[str]:
        heard = []
        while not self.far.inbox.empty():
            heard.append(type(decode_request(self.far.receive().payload)).__name__)
        return heard

    def thawed(self) -> bool:
        return "undo Thaw" in self.log

    def left(self) -> bool:
        return self.journal.path.exists()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(source_module, "DockerHost", lambda: None)
    world = World(tmp_path)
    assert isinstance(world.channel, MemoryChannel)
    silence = SimpleNamespace(lock=world.does("silence"), close=world.does("unused"))
    monkeypatch.setattr("migrate.netlock.Prepared", lambda pid: silence)
    monkeypatch.setattr(freeze_module, "freeze", world.does("freeze", True))
    monkeypatch.setattr(journal_module, "undo", world.undo)
    monkeypatch.setattr("migrate.failure_logs.LOGS", tmp_path / "logs")
    monkeypatch.setattr("migrate.source_undo.ANSWER", 0.2)
    monkeypatch.setattr(freeze_module, "RUNNING_TIMEOUT", 0.2)
    monkeypatch.setattr(freeze_module, "READY_TIMEOUT", 0.2)
    return world


READY = Ready(timing={})
RUNNING = Running(container="new", timing={})


def test_all_goes_well(world: World) -> None:
    world.answers(READY, RUNNING)
    world.run()
    assert world.log[:3] == ["hold", "freeze", "silence"]
    assert "let go" not in world.log
    order = ["scan", "dump", "lists", "files", "last", "tasks let go", "no way back"]
    assert [name for name in world.log if name in order] == order
    assert world.part.memory is TALLY
    assert world.told() == ["Restore", "Commit"]
    assert not world.thawed()
    assert world.journal.phases == ["freeze", COMMIT_SENT]  # confirmed only when it is on disk
    steps = [type(step) for step in world.journal.steps]
    assert steps == [Thaw, UnlockNetwork, EndDump]
    assert list(world.part.parts()) == ["freeze", "dump", "transfer", "restore", "resume"]
    assert all(value >= 0 for value in world.part.parts().values())


def test_all_is_noted_before_it_is_done(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[int] = []

    def freeze(path: str) -> bool:
        noted.append(len(world.journal.steps))
        return False

    monkeypatch.setattr(freeze_module, "freeze", freeze)
    with pytest.raises(DumpFailed, match="standstill"):
        world.run()
    assert noted == [3]
    assert world.thawed()


def test_what_was_paused_meanwhile_stays_paused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freeze_module, "is_frozen", lambda path: True)
    world.answers(Done())
    with pytest.raises(Unsupported, match="paused"):
        world.run()
    assert not world.thawed()
    assert not world.left()


@pytest.mark.parametrize(
    "where",
    ["silence", "scan", "dump", "lists", "files", "last", "final pass", "tasks let go"],
)
@pytest.mark.parametrize("failure", [DumpFailed("no"), Interrupted("stop"), OSError("disk")])
def test_before_commit_it_is_thawed_first_and_then_abandoned(
    world: World, where: str, failure: Exception
) -> None:
    world.fail[where] = failure
    world.answers(Done())
    with pytest.raises(type(failure)):
        world.run()
    log = world.log
    # CRIU freezes again what it found frozen: it must have ended.
    assert log.index("criu ended") < log.index("undo EndDump") < log.index("undo Thaw")
    assert log.index("undo UnlockNetwork") < log.index("undo Thaw")
    # Packets wait from just before it stands still until it runs on, and not for the other host.
    assert log.index("hold") < log.index("freeze")
    assert log[-1] == "let go"
    assert world.told()[-1] == "Abandon"
    assert not world.left()


@pytest.mark.parametrize("failure", [DumpFailed("no"), RuntimeError("a bug")])
def test_a_failure_of_the_final_pass_is_not_lost_to_its_thread(
    world: World, failure: Exception
) -> None:
    world.fail["final pass"] = failure
    world.answers(Done())
    with pytest.raises(type(failure)):
        world.run()
    assert "Restore" not in world.told()


def test_a_destination_that_hangs_does_not_keep_it_frozen(world: World) -> None:
    world.fail["dump"] = DumpFailed("no")
    with pytest.raises(DumpFailed):
        world.run()  # nobody answers `Abandon`
    assert world.thawed()
    assert not world.left()


def test_a_restore_that_fails_is_not_abandoned_again(world: World) -> None:
    world.answers(from_failure(RestoreFailed("no luck"), "its log"))
    with pytest.raises(RestoreFailed) as caught:
        world.run()
    assert world.thawed()
    assert world.told() == ["Restore"]
    assert "its log" in (Path(caught.value.logs) / "restore.log").read_text()


def test_a_link_that_breaks_before_commit_is_no_question(world: World) -> None:
    world.far.close()
    with pytest.raises(ConnectionLost):
        world.run()
    assert world.thawed()
    assert not world.left()


# -- after commit ---------------------------------------------------------------------------------


def garbled() -> Failure:
    return StreamCorrupt("not a frame")


def lost() -> Failure:
    return ConnectionLost("no more")


@pytest.mark.parametrize("what", [garbled, lost])
def test_after_commit_no_news_is_no_leave_to_run(world: World, what: Callable[[], Failure]) -> None:
    world.answers(READY)
    world.channel.inbox.put(what())
    with pytest.raises(OutcomeUnknown) as caught:
        world.run()
    assert caught.value.exit_code == 60
    assert not world.thawed()
    assert Abandon.__name__ not in world.told()
    assert world.left()


def test_after_commit_an_answer_that_is_late_or_odd_is_none(world: World) -> None:
    world.answers(READY, Done())  # no `Running`
    with pytest.raises(OutcomeUnknown):
        world.run()
    assert not world.thawed()


def test_after_commit_the_destinations_word_is_leave_to_run(world: World) -> None:
    world.answers(READY, from_failure(RestoreFailed("no luck")))
    with pytest.raises(RestoreFailed):
        world.run()
    assert world.thawed()
    assert world.told() == ["Restore", "Commit"]
    assert not world.left()


@pytest.mark.parametrize("reported", [True, False])
def test_once_it_runs_nothing_thaws_it(world: World, reported: bool) -> None:
    world.answers(READY, RUNNING)
    world.part.run(before_commit=lambda: None)
    failure = AgentFailed("whatever")
    failure.reported = reported
    with pytest.raises(OutcomeUnknown):
        world.migration._roll_back(failure)
    assert not world.thawed()
    assert world.left()


def test_once_it_is_confirmed_the_failure_is_its_own(world: World) -> None:
    world.answers(READY, RUNNING)
    world.part.run(before_commit=lambda: None)
    world.journal.phase(CONFIRMED)
    world.migration._roll_back(OSError("docker"))  # the caller raises it again
    assert not world.thawed()
    assert world.left()  # the guard goes on with it


@pytest.mark.parametrize(
    ("answer", "left"),
    [
        (Filled(pages=7, seconds=1.5), False),
        (from_failure(MemoryLost("the server ended"), ""), False),
        (None, True),  # the destination has to be told later
    ],
)
def test_the_last_answer(
    answer: Any, left: bool, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it has run there, nothing is undone here, whatever becomes of its memory."""
    monkeypatch.setattr(source_module, "end_source_copy", lambda _: ())
    monkeypatch.setattr(world.migration, "_keep_memory", world.does("kept"))
    world.answers(READY, RUNNING, Done(), *([answer] if answer else []))
    world.part.run(before_commit=lambda: None)
    if not answer:
        world.far.close()
    view: Any = None
    try:
        world.migration._confirm(view)
    except MemoryLost as failure:
        world.migration._roll_back(failure)
        assert isinstance(answer, Failed)
    assert world.told()[-1] == "Finish"
    assert not world.thawed()
    assert world.left() is left
    lazy = world.migration.summary.lazy
    assert (lazy and lazy.pages) == (7 if isinstance(answer, Filled) else None)


@pytest.mark.parametrize("untold", [True, False])
def test_the_guard_goes_on_to_tell_an_anchor(
    untold: bool, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "end_source_copy", lambda _: ())
    monkeypatch.setattr(source_module, "untold", lambda session: untold)
    monkeypatch.setattr(world.migration, "_keep_memory", world.does("kept"))
    guard: Any = SimpleNamespace(dismiss=world.does("dismissed"))
    world.migration.guard = guard
    world.answers(READY, RUNNING, Done(), Filled(pages=0, seconds=0.0))
    world.part.run(before_commit=lambda: None)
    view: Any = None
    world.migration._confirm(view)
    assert ("dismissed" in world.log) is not untold
    assert not world.left()


def test_logs_that_cannot_be_kept_do_not_keep_it_frozen(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.migration, "_keep_logs", world.does("logs"))
    world.fail |= {"logs": OSError("disk full"), "dump": DumpFailed("no")}
    world.answers(Done())
    with pytest.raises(DumpFailed):
        world.run()
    assert world.thawed()


def test_what_could_not_be_undone_is_said(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def undo(step: Step) -> None:
        if isinstance(step, UnlockNetwork):
            raise RuntimeError("nft")
        world.undo(step)

    monkeypatch.setattr(journal_module, "undo", undo)
    world.fail["dump"] = DumpFailed("no")
    world.answers(Done())
    with pytest.raises(AgentFailed, match="UnlockNetwork: nft"):
        world.run()
    assert world.thawed()
    assert world.left()
    assert world.told() == ["Abandon"]


def test_a_freeze_that_lasts_too_long_is_cut_off_and_undone(world: World) -> None:
    cut = threading.Event()
    world.part.max_freeze = 0.05
    world.part.cut = cut.set

    def hang(*_: Any) -> None:
        assert cut.wait(10), "nothing cuts it off"
        raise ConnectionLost("cut")

    world.dumper.dump = hang
    with pytest.raises(FreezeTooLong, match="stood still"):
        world.run()
    assert "undo Thaw" in world.log
    assert not world.told(), "there is nobody to be told"


def test_a_criu_that_hangs_is_not_waited_for(world: World) -> None:
    """As on a mount whose server is gone: nothing goes over the link then that could be cut."""
    abandoned = threading.Event()
    world.part.max_freeze = 0.05
    world.dumper.abandon = abandoned.set

    def hang(*_: Any) -> None:
        assert abandoned.wait(10), "nobody gives it up"
        raise DumpFailed("it ended without an answer")

    world.dumper.dump = hang
    with pytest.raises(FreezeTooLong, match="stood still"):
        world.run()
    assert "undo Thaw" in world.log


def test_a_last_pass_over_files_that_takes_too_long_is_not_waited_for(world: World) -> None:
    over = threading.Event()
    world.part.max_freeze = 0.05
    world.part.final_pass = lambda: over.wait(30)  # type: ignore[assignment, return-value]
    try:
        with pytest.raises(FreezeTooLong, match="stood still"):
            world.run()
    finally:
        over.set()
    assert "undo Thaw" in world.log


@pytest.mark.parametrize("failure", [CommandFailed("nft was ended by SIGINT"), OSError("x")])
def test_ctrl_c_is_the_cause_when_a_program_that_was_called_has_heard_it_too(
    world: World, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def run(stack: Any, interrupts: Any) -> None:
        interrupts.polite()
        os.kill(os.getpid(), signal.SIGINT)
        raise failure

    monkeypatch.setattr(world.migration, "_run", run)
    monkeypatch.setattr(world.migration, "_roll_back", world.does("rolled back"))
    with pytest.raises(Interrupted, match="SIGINT"):
        world.migration.run()
    assert world.log == ["rolled back"]


def test_a_better_cause_than_ctrl_c_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a shutdown SIGTERM comes to us and to Docker, which ends the container."""

    def run(stack: Any, interrupts: Any) -> None:
        interrupts.polite()
        os.kill(os.getpid(), signal.SIGTERM)
        raise CommandFailed("no such process")

    monkeypatch.setattr(world.migration, "_run", run)
    monkeypatch.setattr(world.migration, "_roll_back", world.does("rolled back"))
    monkeypatch.setattr(world.migration, "_cause", lambda _: ContainerNotRunning("ended"))
    monkeypatch.setattr(world.migration._turn, "end", world.does("turn given back"))
    with pytest.raises(ContainerNotRunning):
        world.migration.run()
    assert world.log == ["turn given back", "rolled back"]
