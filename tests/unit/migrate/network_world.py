"""What stands for the kernel's rules, SSH and Docker in the tests of how clients are led."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from migrate import conntrack, forward_store, forward_upkeep, network_arrival, network_move
from migrate.container_spec import ContainerSpec
from migrate.forward_record import Forward
from migrate.journal import Header, Journal
from migrate.network_facts import NetworkFacts
from migrate.network_move import Departure
from tests.unit.migrate.forwards import TARGETED, A, B, spec

SESSION = "f" * 16
SESSION = "f" * 16


class World:
    """Stands for the kernel's rules, for SSH and for Docker; `log` has what was asked of them."""

    def __init__(self, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[Any] = []
        self.lost: BaseException | None = None
        self.no_rule: BaseException | None = None  # what a switch raises
        self.refuses: dict[type, BaseException] = {}  # what another host answers
        self.id_there = "ida"
        monkeypatch.setattr(forward_store, "DIRECTORY", top / "forwards")
        self.journal = Journal.create(
            Header(SESSION, "source", "c" * 64, "web", "hostb", 0.0), top / "journal"
        )
        rules: Any = SimpleNamespace(
            lay=lambda record, adopting=False: self.log.append(("lay", record.role, adopting)),
            lead_away=lambda record: self.log.append("lead away"),
            Switch=lambda record, away: SimpleNamespace(
                do=lambda: self._switch(away=away), close=lambda: None
            ),
            hold=self._says("hold", ["an entry"]),
            adopt=self._says("adopt", ["an entry"]),
            settle=lambda record, entries: self.log.append(("settle", entries)),
            end=self._says("end"),
            remove=self._remove,
            leave_note=self._leave_note,
            forget_neighbour=self._says("forget neighbour"),
        )
        for module in (network_move, network_arrival, forward_upkeep):
            monkeypatch.setattr(module, "forward", rules)
            monkeypatch.setattr(module, "call", self._call, raising=False)
        for linked in (network_move, forward_upkeep):
            monkeypatch.setattr(linked, "AgentLink", self._link)
        monkeypatch.setattr(network_move, "_source_of", lambda address: "10.77.0.11")
        monkeypatch.setattr(conntrack, "present", lambda: True)
        for name in ("forget", "load"):
            monkeypatch.setattr(conntrack, name, self._says(name))
        self.docker: Any = SimpleNamespace(inspect_network=lambda name: {"Id": "1234567890abcdef"})

    def _says(self, name: str, value: Any = None) -> Callable[..., Any]:
        def body(*_: Any) -> Any:
            self.log.append(name)
            return value

        return body

    def _switch(self, *, away: bool) -> None:
        self.log.append(("switch", away))
        if self.no_rule:
            raise self.no_rule

    def _remove(self, ident: str) -> None:
        self.log.append(("remove", ident))
        forward_store.delete(ident)

    def _leave_note(self, record: Forward) -> None:
        self.log.append("leave note")
        forward_store.write(msgspec.structs.replace(record, container=""))

    @contextmanager
    def _link(self, host: str) -> Iterator[Any]:
        if self.lost:
            raise self.lost
        facts = SimpleNamespace(network=NetworkFacts(A.interfaces))
        greeting = SimpleNamespace(host_id=self.id_there, facts=facts)
        yield SimpleNamespace(channel=host, greet=lambda: greeting)
        self.log.append(("hung up", host))

    def _call(self, channel: Any, message: Any, *_: Any) -> None:
        self.log.append((channel, type(message)))
        if refusal := self.lost or self.refuses.get(type(message)):
            raise refusal

    def departs(
        self,
        wanted: str = "auto",
        there_id: str = "idb",
        container: ContainerSpec | None = None,
        buffer: int = 0,
    ) -> Departure:
        view: Any = SimpleNamespace(
            spec=container or spec(), target=SimpleNamespace(pid=1), started=2
        )
        departure = Departure(self.docker, SESSION, wanted, buffer=buffer)
        here, there = (SimpleNamespace(network=facts) for facts in (A, B))
        departure.decide(
            view, here, there, here_id="idx", there_id=there_id, name="hostb",
            address="10.77.0.12",
        )  # fmt: skip
        return departure


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def known(**more: Any) -> Forward:
    """This host is the target of a forward to the container."""
    record = msgspec.structs.replace(TARGETED, container="c" * 64, peer="hosta", peer_id="ida")
    record = msgspec.structs.replace(record, **more)
    forward_store.write(record)
    return record
