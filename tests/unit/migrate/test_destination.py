"""migrate.destination: commit, and the memory that comes after it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from migrate import destination as destination_module
from migrate.destination import Destination
from migrate.errors import (
    AgentFailed,
    Busy,
    ContainerNotFound,
    DockerUnavailable,
    MemoryLost,
    RestoreFailed,
)
from migrate.journal import OWNED, RUNNING, Header, Journal
from migrate.messages import Filled
from transport.errors import Failure, StreamCorrupt

SESSION = "5" * 16


class World:
    """A destination that has restored a container, and holds it; `log` has what it does next."""

    def __init__(self, top: Path) -> None:
        self.log: list[str] = []
        self.fail: dict[str, Exception] = {}
        facts: Any = None
        self.destination = made = Destination(facts)
        made.begun = self.any(session=SESSION, spec=self.any(restart_policy={"Name": "no"}))
        made.placement = self.any(remove=[])
        made.docker = self.any()
        self.journal = made.journal = Journal.create(
            Header(SESSION, "destination", "c" * 64, "app", "hosta", 0.0), top / "journal"
        )
        made.container, made._init, made._restored = "new", 77, True
        made._held = self.any(
            say=lambda word: self.does(f"say {word}")(), forget=self.does("forget"),
            wait=lambda event, timeout: self.does(event)(), times={}, close=self.does("let go"),
        )  # fmt: skip
        made._incoming = self.any(
            commit=lambda pid: self.does(f"commit {pid}")(),
            filled=self.does("filled", Filled(pages=3, seconds=0.5)),
            release=self.does("release"), close=self.does("close"),
        )  # fmt: skip
        made._applier = self.any(close=self.does("applier"))
        nothing: Callable[[], None] = lambda: None  # noqa: E731
        made._network = self.any(
            announce=self.does("announce"), commit=nothing, settle=nothing, finish=nothing,
            close=nothing,
        )  # fmt: skip
        self.base = top / "sessions" / SESSION
        self.base.mkdir(parents=True)

    def any(self, **fields: Any) -> Any:
        return SimpleNamespace(**fields)

    def does(self, name: str, value: Any = None) -> Callable[[], Any]:
        def body() -> Any:
            self.log.append(name)
            if name in self.fail:
                raise self.fail[name]
            return value

        return body


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(destination_module, "RUN", tmp_path)
    return World(tmp_path)


def test_force_does_not_take_what_another_migration_holds(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(destination_module, "PENDING", tmp_path / "pending")
    (tmp_path / "pending" / "held").mkdir(parents=True)
    world.destination._refuse_arriving(["stopped"])
    with pytest.raises(Busy, match="another migration"):
        world.destination._refuse_arriving(["stopped", "held"])


def test_somebody_watches_over_its_memory_before_it_runs(world: World) -> None:
    running = world.destination.commit()
    assert running.container == "new"
    assert world.log == ["commit 77", "announce", "say commit", "running"]
    assert world.journal.phases == [OWNED]
    with pytest.raises(StreamCorrupt):
        world.destination.commit()


def test_it_does_not_run_when_its_memory_would_never_come(world: World) -> None:
    world.fail["commit 77"] = RestoreFailed("the server is gone")
    with pytest.raises(RestoreFailed):
        world.destination.commit()
    assert world.log == ["commit 77"]
    assert not world.destination.running
    world.destination.rollback()  # as the agent does it
    assert "let go" in world.log
    assert not world.journal.path.exists()


def test_the_end_waits_for_the_memory(world: World) -> None:
    with pytest.raises(StreamCorrupt):
        world.destination.finish()
    world.destination.commit()
    world.destination.settle()
    world.log.clear()
    assert world.destination.finish() == Filled(pages=3, seconds=0.5)
    assert world.log == ["forget", "filled", "applier", "close", "release"]
    assert world.journal.phases == [OWNED, RUNNING]
    assert not world.base.exists()
    assert not world.journal.path.exists()


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({"State": {"Running": True}}, None),
        ({"State": {"Running": False}}, MemoryLost),
        (ContainerNotFound("no"), MemoryLost),  # of a container with --rm
        (DockerUnavailable("no"), AgentFailed),
    ],
)
def test_a_start_that_fails_at_the_end_is_no_success_when_docker_has_ended_it(
    world: World, found: Any, told: type[Failure] | None
) -> None:
    def inspect(name: str) -> Any:
        if isinstance(found, Failure):
            raise found
        return found

    made = world.destination
    made.docker = world.any(inspect_container=inspect)
    made.commit()
    world.fail["started"] = RestoreFailed("the shim is gone")
    with pytest.raises(RestoreFailed):
        made.settle()
    if told is None:
        assert made.finish() == Filled(pages=3, seconds=0.5)
    else:
        with pytest.raises(told, match="the shim is gone"):
            made.finish()
    assert not world.journal.path.exists()


def test_memory_that_never_comes_leaves_nothing_behind(world: World) -> None:
    world.destination.commit()
    world.fail["filled"] = MemoryLost("the server is gone")
    with pytest.raises(MemoryLost):
        world.destination.finish()
    assert world.log[-1] == "release"
    assert not world.base.exists()
    assert not world.journal.path.exists()


@pytest.mark.parametrize(
    ("version", "address", "first"),
    [("1.51", "fd77::1", True), ("1.51", "", False), ("1.45", "fd77::1", False)],
)
def test_docker_28_plugs_in_first_where_it_speaks_ipv6(
    world: World, version: str, address: str, first: bool
) -> None:
    made = world.destination
    made.docker = world.any(api_version=version)
    made.begun = world.any(spec=world.any(endpoints=[world.any(ipv6=address)]))
    assert made._docker_speaks() is first
