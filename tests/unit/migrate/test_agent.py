"""migrate.agent: who hears what, and what is undone, when something fails at each step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from migrate import agent as agent_module
from migrate import frontend, frontend_store, host_setup
from migrate.agent import Agent
from migrate.destination import Destination
from migrate.errors import AgentFailed, DockerUnavailable, NoSpace, RestoreFailed
from migrate.frontend_record import Frontend, Lead
from migrate.host_facts import HostFacts
from migrate.host_setup import Places
from migrate.messages import (
    Abandon,
    AdoptConnections,
    AskCache,
    AskFrontends,
    AskOutcome,
    AskTurn,
    CacheDigests,
    CloseFile,
    Commit,
    Done,
    DropObjects,
    Filled,
    Finish,
    Frontends,
    Greeting,
    Hello,
    MemoryObject,
    MemoryRound,
    Message,
    OpenFile,
    Outcome,
    Prepare,
    Prepared,
    Ready,
    ReadyFrontend,
    Restore,
    RootfsPass,
    Running,
    SmallFile,
    SmallFiles,
    SwitchFrontend,
    TurnGiven,
)
from migrate.protocol import (
    FILE_PIECE,
    MESSAGE,
    PAGES,
    PROTOCOL_VERSION,
    ROOTFS_ITEMS,
    call,
    expect,
    send,
)
from tests.unit.migrate.memory_channel import MemoryChannel, pair
from transport.errors import ConnectionLost, StreamCorrupt

FACTS = HostFacts(
    kernel="6.12", arch="x86_64", cpu_model="", cpu_flags=(), kernel_options=None, criu_path=None,
    criu_version=None, pycriu=False, pycriu_reason="", docker=None, docker_reason="",
    runc_version=None, nft=True, iptables=True, runtime_path=None, runtime_runs=False,
    free_memory=None, free_disk=None, boot_id="", tool_version="", wall_clock=0.0,
)  # fmt: skip


PREPARE = Prepare(descriptors=["/dev/null"] * 3, seed=1, lazy=False)
FILLED = Filled(pages=7, seconds=0.5)


class Noting:
    """Stands for the page store, and for the receiver of files: `log` has what they are given."""

    def __init__(self, log: list[Any]) -> None:
        self._log = log

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *given: self._log.append((name, *given))


class Fake(Destination):
    """A destination that notes what is asked of it, and fails where it is told to."""

    def __init__(self, facts: Any) -> None:
        self.committed = self.running = self.remains = False
        self.begun: Any = "begun"
        self.log: list[str] = []
        self.fail: dict[str, Exception] = {}
        self.parts: list[Any] = []
        self._held = None

    @property
    def incoming(self) -> Any:
        noting = Noting(self.parts)
        return SimpleNamespace(pages=noting, files=noting)

    def _do(self, name: str) -> None:
        self.log.append(name)
        if name in self.fail:
            raise self.fail[name]

    def prepare(self, message: Prepare) -> Prepared:
        self._do("prepare")
        return Prepared(container="new", seconds=0.0)

    def restore(self, message: Restore) -> Ready:
        self._do("restore")
        return Ready(timing={})

    def commit(self) -> Running:
        self.committed = True
        self._do("commit")
        self.running = True
        return Running(container="new", timing={})

    def settle(self) -> None:
        self._do("settle")

    def finish(self) -> Filled:
        self._do("finish")
        return FILLED

    def cache_digests(self) -> Iterator[bytes]:
        self._do("cache")
        yield b"1" * 16
        yield b"2" * 32

    def rootfs_items(self, payload: bytes) -> None:
        self._do("items")

    def log_lines(self) -> str:
        return "the log"

    def rollback(self) -> None:
        if self.running:
            raise AgentFailed("it runs")
        self._do("rollback")


class FakeSlot:
    """`free`: whether it can be had; `held`: whether it is ours."""

    def __init__(self) -> None:
        self.free, self.held = True, False

    def take(self) -> bool:
        self.held = self.held or self.free
        return self.held

    def leave(self) -> None:
        self.held = False


class Served:
    def __init__(self) -> None:
        self.channel, far = pair()
        self.far: MemoryChannel = far
        self.agent = Agent(far, "peer")
        assert isinstance(self.agent.destination, Fake)
        self.destination: Fake = self.agent.destination
        self.slot = FakeSlot()
        slot: Any = self.slot
        self.agent.slot = slot
        self.code: int | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        call(self.channel, Hello(protocol=PROTOCOL_VERSION, version="x"), Greeting, 5.0)

    def _serve(self) -> None:
        self.code = self.agent.serve()
        self.far.close()

    def ends(self) -> int | None:
        self._thread.join(10)
        assert not self._thread.is_alive()
        return self.code

    def up_to_ready(self) -> None:
        call(self.channel, PREPARE, Prepared, 5.0)
        call(self.channel, Restore(files=0), Ready, 5.0)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(agent_module, "Destination", Fake)
    monkeypatch.setattr(agent_module, "facts", lambda: FACTS)
    monkeypatch.setattr(agent_module, "host_id", lambda: "the one")
    monkeypatch.setattr(agent_module, "make_state_dirs", list)
    served = Served()
    yield served
    served.channel.close()
    served.ends()


def test_all_goes_well(served: Served) -> None:
    served.up_to_ready()
    call(served.channel, Commit(), Running, 5.0)
    expect(served.channel, Done, 5.0)
    assert call(served.channel, Finish(), Filled, 5.0) == FILLED
    assert served.ends() == 0
    assert served.destination.log == ["prepare", "restore", "commit", "settle", "finish"]


def test_its_turn_is_held_until_commit(served: Served) -> None:
    served.slot.free = False
    assert not call(served.channel, AskTurn(), TurnGiven, 5.0).ours
    served.slot.free = True
    assert call(served.channel, AskTurn(), TurnGiven, 5.0).ours
    served.up_to_ready()
    assert served.slot.held
    call(served.channel, Commit(), Running, 5.0)
    expect(served.channel, Done, 5.0)
    assert not served.slot.held


def test_a_failure_gives_the_turn_back(served: Served) -> None:
    assert call(served.channel, AskTurn(), TurnGiven, 5.0).ours
    served.destination.fail["prepare"] = NoSpace("full", "")
    with pytest.raises(NoSpace):
        call(served.channel, PREPARE, Prepared, 5.0)
    assert not served.slot.held


def test_the_parts_of_a_checkpoint_go_where_they_belong(served: Served) -> None:
    files = [SmallFile("core-1.img", b"x")]
    opened, closed = OpenFile(number=1, name="a.img"), CloseFile(number=1, size=2, digest=3)
    send(served.channel, MemoryObject(number=1, name="27"))
    served.channel.send(PAGES, b"batch", compress=False)
    send(served.channel, DropObjects(numbers=[1]))
    send(served.channel, opened)
    served.channel.send(FILE_PIECE, b"piece", stream=1)
    send(served.channel, closed)
    send(served.channel, SmallFiles(files=files))
    call(served.channel, MemoryRound(), Done, 5.0)  # the first answer, when all of it is done
    assert served.destination.parts == [
        ("announce", 1, "27"), ("apply", b"batch"), ("drop", [1]), ("open", opened),
        ("piece", 1, b"piece"), ("close_file", closed), ("small_files", SmallFiles(files=files)),
    ]  # fmt: skip


def test_the_cache_is_told_to_its_end(served: Served) -> None:
    answers = [call(served.channel, AskCache(), CacheDigests, 5.0)]
    answers += [expect(served.channel, CacheDigests, 5.0) for _ in range(2)]
    assert [answer.digests for answer in answers] == [b"1" * 16, b"2" * 32, b""]


def test_before_commit_a_failure_is_undone_and_then_said(served: Served) -> None:
    served.destination.fail["restore"] = RestoreFailed("no luck", "try")
    with pytest.raises(RestoreFailed, match="no luck") as caught:
        served.up_to_ready()
    assert caught.value.remote_log == "the log"
    assert served.destination.log[-1] == "rollback"


def test_content_after_a_failure_is_dropped_and_said_once(served: Served) -> None:
    served.destination.fail["items"] = NoSpace("full")
    for _ in range(3):
        served.channel.send(ROOTFS_ITEMS, b"")
    send(served.channel, RootfsPass())
    with pytest.raises(NoSpace):
        expect(served.channel, Done, 5.0)
    served.channel.close()
    served.ends()
    assert served.channel.inbox.get().__class__ is ConnectionLost  # and nothing else
    assert served.destination.log.count("items") == 1


def test_a_bug_is_said_too(served: Served) -> None:
    served.destination.fail["prepare"] = ZeroDivisionError("oops")
    with pytest.raises(AgentFailed, match="oops"):
        call(served.channel, PREPARE, Prepared, 5.0)
    assert served.destination.log[-1] == "rollback"


def test_a_commit_that_failed_and_was_undone_is_said(served: Served) -> None:
    served.up_to_ready()
    served.destination.fail["commit"] = RestoreFailed("no luck")
    with pytest.raises(RestoreFailed):
        call(served.channel, Commit(), Running, 5.0)
    assert served.destination.log[-1] == "rollback"


def test_a_commit_that_failed_and_may_run_gets_no_answer(served: Served) -> None:
    # On `Failed` the source lets its copy run again.
    served.up_to_ready()
    served.destination.fail["commit"] = RestoreFailed("no luck")
    served.destination.fail["rollback"] = AgentFailed("the container cannot be removed")
    served.destination.remains = True
    with pytest.raises(ConnectionLost):
        call(served.channel, Commit(), Running, 5.0)
    assert served.ends() == 0


@pytest.mark.parametrize("failure", [DockerUnavailable("down"), OSError("busy")])
def test_what_runs_is_not_undone_when_the_tidying_fails(served: Served, failure: Exception) -> None:
    served.up_to_ready()
    served.destination.fail["settle"] = failure
    call(served.channel, Commit(), Running, 5.0)
    with pytest.raises((DockerUnavailable, AgentFailed)):
        expect(served.channel, Done, 5.0)
    assert call(served.channel, Finish(), Filled, 5.0) == FILLED
    assert served.ends() == 0
    assert "rollback" not in served.destination.log
    assert served.destination.log[-1] == "finish"


@pytest.mark.parametrize("last", [Abandon(), PREPARE], ids=["abandon", "failure"])
def test_what_runs_stays_whatever_the_source_says(served: Served, last: Message) -> None:
    served.up_to_ready()
    call(served.channel, Commit(), Running, 5.0)
    expect(served.channel, Done, 5.0)
    served.destination.fail["prepare"] = StreamCorrupt("out of turn")
    with pytest.raises((AgentFailed, StreamCorrupt)):
        call(served.channel, last, Done, 5.0)
    served.channel.close()
    assert served.ends() is not None
    assert "rollback" not in served.destination.log


def lose(served: Served) -> None:
    served.channel.close()


def garble(served: Served) -> None:
    served.far.inbox.put(StreamCorrupt("not a frame"))


@pytest.mark.parametrize("how", [lose, garble])
@pytest.mark.parametrize("committed", [False, True])
def test_the_end_of_the_stream_undoes_what_does_not_run(
    served: Served, how: Callable[[Served], None], committed: bool
) -> None:
    served.up_to_ready()
    if committed:
        call(served.channel, Commit(), Running, 5.0)
        expect(served.channel, Done, 5.0)
    served.slot.held = True
    how(served)
    served.ends()
    assert not served.slot.held
    assert ("rollback" in served.destination.log) == (not committed)


def test_abandon_undoes_and_ends(served: Served) -> None:
    call(served.channel, PREPARE, Prepared, 5.0)
    call(served.channel, Abandon(), Done, 5.0)
    assert served.ends() == 0
    assert served.destination.log == ["prepare", "rollback"]


def test_noise_is_refused(served: Served) -> None:
    served.channel.send(MESSAGE, b"\xff\x00noise")
    with pytest.raises(StreamCorrupt):
        expect(served.channel, Done, 5.0)


def test_only_an_answer_of_ours_is_forgotten(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten: list[str] = []
    monkeypatch.setattr(agent_module, "outcome", lambda s: Outcome(owner="destination"))
    monkeypatch.setattr(agent_module, "forget", forgotten.append)
    call(served.channel, AskOutcome(session="a" * 16), Outcome, 5.0)
    call(served.channel, Finish(), Done, 5.0)
    assert served.ends() == 0
    assert forgotten == ["a" * 16]
    assert served.destination.log == []


@pytest.mark.parametrize("looks", [False, True])
def test_who_only_looks_makes_no_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, looks: bool
) -> None:
    places = Places(state=tmp_path / "state", run=tmp_path / "run")
    monkeypatch.setattr(agent_module, "Destination", Fake)
    monkeypatch.setattr(agent_module, "facts", lambda: FACTS)
    monkeypatch.setattr(agent_module, "claim_streams", lambda: (0, 1))
    monkeypatch.setattr(agent_module, "keep_freed_memory", lambda: None)
    for name in ("make_state_dirs", "host_id", "known_host_id"):
        real = getattr(host_setup, name)
        monkeypatch.setattr(agent_module, name, lambda real=real: real(places))
    channel, far = pair()
    monkeypatch.setattr("migrate.agent.Channel.over_fds", lambda *_: far)
    serving = threading.Thread(target=agent_module.main)
    serving.start()
    hello = Hello(protocol=PROTOCOL_VERSION, version="x", looks=looks)
    greeting = call(channel, hello, Greeting, 5.0)
    channel.close()
    serving.join(30.0)
    assert bool(greeting.host_id) is not looks
    assert (tmp_path / "state").exists() is not looks
    assert (tmp_path / "run").exists() is not looks


def test_another_protocol_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "Destination", Fake)
    monkeypatch.setattr(agent_module, "facts", lambda: FACTS)
    monkeypatch.setattr(agent_module, "host_id", lambda: "the one")
    monkeypatch.setattr(agent_module, "make_state_dirs", list)
    channel, far = pair()
    agent = Agent(far, "peer")
    send(channel, Hello(protocol=PROTOCOL_VERSION + 1, version="9"))
    send(channel, PREPARE)
    channel.close()
    agent.serve()
    with pytest.raises(AgentFailed.__base__, match="protocol"):  # type: ignore[arg-type]
        expect(channel, Greeting, 1.0)
    assert isinstance(agent.destination, Fake)
    assert "prepare" not in agent.destination.log


def test_a_front_end_is_switched_first_and_then_written_down(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[Any] = []

    class Switch:
        def __init__(self, leads: tuple[Lead, ...]) -> None:
            self.leads = leads
            log.append("made")

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            log.append("closed")

        def look(self) -> None:
            log.append("look")

        def do(self) -> None:
            log.append("do")

        def note(self) -> None:
            log.append("note")

    monkeypatch.setattr(frontend, "Switch", Switch)
    game = Frontend("game", "udp", 1, ("10.0.0.1", 1))
    monkeypatch.setattr(frontend_store, "read", lambda: [game])
    assert call(served.channel, AskFrontends(), Frontends, 5.0).frontends == (game,)
    there = (Lead("game", ("10.0.0.1", 1), ("10.0.0.2", 1)),)
    call(served.channel, ReadyFrontend(there), Done, 5.0)
    call(served.channel, SwitchFrontend(there), Done, 5.0)
    back = (there[0].back(),)  # not what it was made ready for, and nothing is ready now
    call(served.channel, SwitchFrontend(back), Done, 5.0)
    call(served.channel, AskFrontends(), Frontends, 5.0)
    one = ["do", "note", "closed"]
    assert log == ["made", "look", *one, "made", *one]


def test_connections_are_the_destinations_business(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    network = SimpleNamespace(adopt_connections=told.append)
    monkeypatch.setattr(Fake, "network", network)
    call(served.channel, AdoptConnections(()), Done, 5.0)
    assert told == [()]
