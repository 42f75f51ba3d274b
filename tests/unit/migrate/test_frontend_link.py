"""migrate.frontend_link: asked in preflight, ready at the freeze, switched once; its failures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from migrate import conntrack, frontend_link
from migrate.conntrack import Entry
from migrate.errors import CommandFailed, FrontendUnfit, FrontendUnreachable, ProtocolMismatch
from migrate.frontend_link import FrontendLink
from migrate.frontend_record import Frontend, Lead
from migrate.journal import Header, Journal
from migrate.messages import AskFrontends, Done, Frontends, ReadyFrontend, SwitchFrontend
from migrate.undo import SwitchFrontendBack
from tests.unit.migrate.forwards import A, B, spec
from transport.errors import ConnectionLost, Failure, HostUnreachable

WEB = Frontend("web", "tcp", 80, ("10.77.0.11", 8080))
LEAD = Lead("web", ("10.77.0.11", 8080), ("10.77.0.12", 8080))
MINE = Entry("tcp", ("10.77.0.13", 5000), ("10.77.0.11", 8080), ("10.99.0.10", 80),
             ("10.77.0.13", 5000))  # fmt: skip
OPENED = Entry("tcp", ("10.99.0.10", 5000), ("192.0.2.1", 443), ("192.0.2.1", 443),
               ("10.77.0.11", 5000))  # fmt: skip


class Front:
    """Stands for the front end's host."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[Any] = []
        self.fails: dict[type, Exception] = {}
        self.frontends: tuple[Frontend, ...] = (WEB,)
        self.up = True
        monkeypatch.setattr(frontend_link, "AgentLink", self._link)
        monkeypatch.setattr(frontend_link, "call", self._call)

    @contextmanager
    def _link(self, host: str) -> Iterator[Any]:
        if not self.up:
            raise HostUnreachable("no route")
        yield SimpleNamespace(channel=host, greet=lambda: self._call(host, None))
        self.asked.append("hung up")

    def _call(self, channel: str, message: Any, *_: Any) -> Any:
        self.asked.append(message)
        if failure := self.fails.get(type(message)):
            raise failure
        return Frontends(self.frontends) if isinstance(message, AskFrontends) else Done()


@pytest.fixture
def front(monkeypatch: pytest.MonkeyPatch) -> Front:
    return Front(monkeypatch)


def found() -> tuple[FrontendLink, str]:
    link = FrontendLink("front")
    return link, link.find(spec(), A, B, "", "hostb")


def test_from_preflight_to_the_switch(front: Front, tmp_path: Path) -> None:
    journal = Journal.create(Header("f" * 16, "source", "c" * 64, "web", "hostb", 0.0), tmp_path)
    link, said = found()
    assert said == "frontend: front leads its clients to hostb from then on: web (10.77.0.11:8080)"
    assert journal.steps == []  # nothing is noted, nothing changed
    link.ready(journal)
    assert journal.steps == [SwitchFrontendBack("front", (LEAD,))]
    link.switch()
    link.close()
    assert front.asked[1:] == [
        AskFrontends(),
        ReadyFrontend((LEAD,)),
        SwitchFrontend((LEAD,)),
        "hung up",
    ]


def test_who_leads_elsewhere_is_named(front: Front) -> None:
    front.frontends = (Frontend("web", "tcp", 80, ("10.77.0.55", 8080)),)
    with pytest.raises(FrontendUnfit, match=r"web to 10\.77\.0\.55:8080"):
        found()


@pytest.mark.parametrize(
    "failure", [ProtocolMismatch("another"), ConnectionLost("gone"), TimeoutError()]
)
def test_what_the_front_end_says_is_a_failure_of_its_own(front: Front, failure: Exception) -> None:
    """Else it would be taken for the destination's word, which has undone all that it reports."""
    link, _ = found()
    if isinstance(failure, Failure):
        failure.reported = True
    front.fails[SwitchFrontend] = failure
    with pytest.raises(FrontendUnreachable, match="front") as caught:
        link.switch()
    assert not caught.value.reported
    front.fails[AskFrontends] = failure
    with pytest.raises(FrontendUnreachable):
        found()


def test_no_way_there(front: Front) -> None:
    front.up = False
    with pytest.raises(FrontendUnreachable, match="no route"):
        found()


def test_a_refusal_is_passed_on_with_its_host(front: Front) -> None:
    link, _ = found()
    refused = FrontendUnfit("front end `web` leads to 10.0.0.9:1")
    refused.reported = True
    front.fails[SwitchFrontend] = refused
    with pytest.raises(FrontendUnfit, match=r"^front: front end `web`") as caught:
        link.switch()
    assert not caught.value.reported


def test_the_connections_are_told_as_the_destination_has_them(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [MINE, OPENED]
    monkeypatch.setattr(conntrack, "present", lambda: True)
    monkeypatch.setattr(conntrack, "entries_of", lambda address: known)
    link, _ = found()
    (told,) = link.connections()
    assert told == MINE.aimed_at(("10.77.0.12", 8080))
    assert told.reply_source == ("10.99.0.10", 80)

    def broken(address: str) -> list[Entry]:
        raise CommandFailed("no table")

    monkeypatch.setattr(conntrack, "entries_of", broken)
    assert link.connections() == ()
    monkeypatch.setattr(conntrack, "present", lambda: False)
    assert link.connections() == ()
