"""migrate.fetch: the destination that has called its source, and what it does without it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from migrate import agent as agent_module
from migrate import fetch as fetch_module
from migrate.caller_link import Report
from migrate.errors import (
    Busy,
    CommandFailed,
    ContainerNotFound,
    DumpFailed,
    Interrupted,
    OutcomeUnknown,
)
from migrate.fetch import FETCHED, Receiver, Wanted, failure_of, recover_destination
from migrate.interrupts import Interrupts
from migrate.journal import Header, Journal, find
from migrate.messages import (
    Abandon,
    Commit,
    Done,
    Failed,
    Filled,
    Finish,
    Greeting,
    Hello,
    Prepared,
    Ready,
    Restore,
    Running,
)
from migrate.progress import Progress
from migrate.protocol import PROTOCOL_VERSION, REPORT, call, decode_reply, expect
from tests.unit.migrate.memory_channel import MemoryChannel, pair
from tests.unit.migrate.test_agent import FACTS, PREPARE, Fake
from transport.errors import ConnectionLost, Failure, HostUnreachable


class Signals(Interrupts):
    """Told of signals by the test."""

    def come(self) -> None:
        self._polite = True
        self._arrived(15, None)


class Source:
    """Our end of the connection plays the source; `receiver` is served in a thread."""

    def __init__(self) -> None:
        self.channel, far = pair()
        self.far: MemoryChannel = far
        self.signals = Signals()
        self.receiver = Receiver(far, FETCHED + "b", self.signals, Progress(quiet=True))
        assert isinstance(self.receiver.destination, Fake)
        self.destination: Fake = self.receiver.destination
        self.result: Report | Failure | None = None
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._thread.start()

    def _receive(self) -> None:
        try:
            self.result = self.receiver.receive_all()
        except Failure as failure:
            self.result = failure

    def ends(self) -> Report | Failure | None:
        self._thread.join(10)
        assert not self._thread.is_alive()
        return self.result

    def report(self, **values: Any) -> Report | Failure | None:
        self.channel.send(REPORT, msgspec.json.encode(Report(**values)))
        return self.ends()

    def up_to_ready(self) -> None:
        call(self.channel, Hello(protocol=PROTOCOL_VERSION, version="x"), Greeting, 5.0)
        call(self.channel, PREPARE, Prepared, 5.0)
        call(self.channel, Restore(files=0), Ready, 5.0)


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Iterator[Source]:
    monkeypatch.setattr(agent_module, "Destination", Fake)
    monkeypatch.setattr(agent_module, "facts", lambda: FACTS)
    monkeypatch.setattr(agent_module, "host_id", lambda: "the one")
    monkeypatch.setattr(agent_module, "make_state_dirs", list)
    made = Source()
    yield made
    made.channel.close()
    made.ends()


def test_it_serves_to_the_last_word(source: Source) -> None:
    source.up_to_ready()
    call(source.channel, Commit(), Running, 5.0)
    expect(source.channel, Done, 5.0)
    call(source.channel, Finish(), Filled, 5.0)
    assert source.report(summary="{}") == Report(summary="{}")
    assert source.destination.log == ["prepare", "restore", "commit", "settle", "finish"]


def test_a_source_that_fails_says_so_itself(source: Source) -> None:
    source.up_to_ready()
    call(source.channel, Abandon(), Done, 5.0)
    report = source.report(error="DumpFailed", message="no", remedy="do")
    assert isinstance(report, Report)
    assert source.destination.log[-1] == "rollback"
    failure = failure_of(report)
    assert isinstance(failure, DumpFailed)
    assert (failure.message, failure.remedy) == ("no", "do")


def test_one_that_goes_away_before_commit_is_undone(source: Source) -> None:
    source.up_to_ready()
    source.channel.close()
    assert isinstance(source.ends(), ConnectionLost)
    assert source.destination.log[-1] == "rollback"


def test_one_that_goes_away_after_commit_is_not(source: Source) -> None:
    source.up_to_ready()
    call(source.channel, Commit(), Running, 5.0)
    source.channel.close()
    assert isinstance(source.ends(), ConnectionLost)
    assert "rollback" not in source.destination.log


def test_a_signal_before_commit_undoes_and_tells_the_source(source: Source) -> None:
    source.up_to_ready()
    source.signals.come()
    with pytest.raises(Interrupted, match="SIGTERM"):
        expect(source.channel, Done, 5.0)
    assert source.destination.log[-1] == "rollback"
    # A `Commit` that crosses it is not heard.
    source.channel.send(1, msgspec.msgpack.encode(Commit()))
    source.report(error="Interrupted", message="undone")
    assert source.destination.log[-1] == "rollback"


def test_a_program_that_the_signal_has_ended_too_is_not_the_cause(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(message: Restore) -> Ready:
        source.signals.come()
        raise CommandFailed("`mount` failed (-15): it said nothing")

    monkeypatch.setattr(source.destination, "restore", ended)
    with pytest.raises(Interrupted, match="SIGTERM"):
        source.up_to_ready()
    source.report(error="Interrupted", message="undone")
    assert source.destination.log[-1] == "rollback"


def test_a_signal_after_commit_comes_too_late(source: Source) -> None:
    source.up_to_ready()
    call(source.channel, Commit(), Running, 5.0)
    source.signals.come()
    expect(source.channel, Done, 5.0)
    call(source.channel, Finish(), Filled, 5.0)
    assert source.report() == Report()
    assert "rollback" not in source.destination.log


@pytest.mark.parametrize("payload", [b"", b"{", b"\xff", b'{"summary": 3}'])
def test_a_last_word_that_is_none(source: Source, payload: bytes) -> None:
    source.up_to_ready()
    source.channel.send(REPORT, payload)
    assert isinstance(source.ends(), ConnectionLost)
    assert source.destination.log[-1] == "rollback"


def test_a_source_of_another_version_hears_why(source: Source) -> None:
    source.channel.send(1, msgspec.msgpack.encode(Hello(protocol=PROTOCOL_VERSION + 1, version="")))
    answer = decode_reply(source.channel.receive(5).payload)
    assert isinstance(answer, Failed)
    assert answer.code == "ProtocolMismatch"
    source.report()


# -- after a broken link --------------------------------------------------------------------------


Settle = Callable[..., list[str]]


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """What `settle` is to fail with, one after the other; [] when it works."""
    failures: list[Exception] = []

    def settle(host: str, session: str = "") -> list[str]:
        if failures:
            raise failures.pop(0)
        return []

    monkeypatch.setattr(fetch_module, "settle", settle)
    monkeypatch.setattr(fetch_module, "SETTLE_PAUSE", 0.0)
    return failures


class Left:
    """What is left of a receiver whose link broke."""

    session = "s" * 8

    def __init__(self, *, ours: bool) -> None:
        self.destination = SimpleNamespace(committed=ours, container="new")
        self.log: list[str] = []

    def let_go(self) -> None:
        self.log.append("let go")

    def dismiss_guard(self) -> None:
        self.log.append("dismiss")


def after(left: Left) -> None:
    wanted = Wanted("web", "b")
    fetch_module._settle_after(left, wanted, ConnectionLost("x"))  # type: ignore[arg-type]


@pytest.fixture
def docker(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The containers that are here."""
    here = ["new"]

    class Docker:
        def inspect_container(self, name: str) -> dict[str, str]:
            if name not in here:
                raise ContainerNotFound("no such container")
            return {}

    monkeypatch.setattr(fetch_module, "DockerHost", Docker)
    return here


def test_settled_at_last_and_ours(settled: list[Exception], docker: list[str]) -> None:
    settled += [Busy("it lives"), HostUnreachable("not there")]
    left = Left(ours=True)
    after(left)
    assert settled == []
    assert left.log == ["let go", "dismiss"]


def test_settled_and_it_did_not_come_to_run(settled: list[Exception], docker: list[str]) -> None:
    docker.clear()
    with pytest.raises(ConnectionLost):
        after(Left(ours=True))


def test_ours_and_the_source_cannot_be_told(
    settled: list[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_module, "SETTLE_PATIENCE", -1.0)
    settled.append(HostUnreachable("not there"))
    left = Left(ours=True)
    with pytest.raises(OutcomeUnknown, match="its copy at b is still frozen"):
        after(left)
    assert left.log == ["let go"]  # the guard has still to do


@pytest.mark.parametrize("told", [True, False])
def test_not_ours(settled: list[Exception], told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_module, "SETTLE_PATIENCE", -1.0)
    if not told:
        settled.append(HostUnreachable("not there"))
    with pytest.raises(ConnectionLost) as raised:
        after(Left(ours=False))
    assert ("frozen there" in raised.value.remedy) == (not told)


def test_letting_go_frees_the_journal(source: Source, tmp_path: Path) -> None:
    header = Header("s" * 8, "destination", "id", "web", "peer", 1.0)
    source.destination.journal = Journal.create(header, tmp_path)
    with pytest.raises(Busy):
        Journal.reopen(find("s" * 8, "destination", tmp_path))
    source.receiver.let_go()
    source.receiver.let_go()
    Journal.reopen(find("s" * 8, "destination", tmp_path)).close(finished=True)
    source.report()


@pytest.mark.parametrize(("peer", "asks"), [(FETCHED + "b", True), ("10.0.0.1", False)])
def test_recovery_tells_the_source_only_where_it_had_called(
    peer: str, asks: bool, settled: list[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    header = Header("s" * 8, "destination", "id", "web", peer, 1.0)
    monkeypatch.setattr(fetch_module, "read_all", lambda: [header])
    monkeypatch.setattr(fetch_module, "recover_local", lambda session, role: "undone")
    settled.append(HostUnreachable("not there"))
    if asks:
        with pytest.raises(HostUnreachable):
            recover_destination("s" * 8, patience=-1.0)
    else:
        assert recover_destination("s" * 8, patience=-1.0) == "undone"


class Heard(Progress):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.names: list[str] = []

    def reached(self, name: str) -> None:
        self.names.append(name)


def test_who_called_us_hears_of_the_commit_and_not_before(source: Source) -> None:
    heard = Heard()
    source.receiver._progress = heard
    source.up_to_ready()
    assert heard.names == ["prepare"]
    call(source.channel, Commit(), Running, 5.0)
    expect(source.channel, Done, 5.0)
    call(source.channel, Finish(), Filled, 5.0)
    source.report(summary="{}")
    assert heard.names == ["prepare", "confirm"]
