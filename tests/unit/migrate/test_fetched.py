"""migrate.fetched: the source that was called first settles what earlier calls have left."""

from __future__ import annotations

from typing import Any

import pytest

from migrate import fetched
from migrate.agent_link import CALLER
from migrate.errors import AgentFailed, Busy
from migrate.fetched import _raise_first, settle
from migrate.journal import Header
from transport.errors import ConnectionLost, Failure


class Link:
    peer = CALLER + "a"
    greeted = 0

    def greet(self) -> Any:
        self.greeted += 1
        return type("G", (), {"host_id": "id-a"})()


def journals(*headers: tuple[str, str, str, str]) -> list[Header]:
    return [
        Header(session, role, "id", "web", peer, 1.0, peer_id=peer_id)
        for session, role, peer, peer_id in headers
    ]


def settled(
    monkeypatch: pytest.MonkeyPatch, there: list[Header], failures: dict[str, Exception]
) -> tuple[list[str], list[tuple[str, Failure]], list[str], Link]:
    tried: list[str] = []
    link = Link()

    def recover(session: str, link_to: Any) -> str:
        tried.append(session)
        assert link_to("whatever") is link
        if session in failures:
            raise failures[session]
        return f"{session} runs at {CALLER}a"

    monkeypatch.setattr(fetched, "read_all", lambda: there)
    monkeypatch.setattr(fetched, "recover_source", recover)
    said, failed = settle(link)  # type: ignore[arg-type]
    return said, failed, tried, link


def test_nothing_to_settle_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    there = journals(
        ("s1", "destination", CALLER + "a", "id-a"), ("s2", "source", "a", "id-a"),
        ("s3", "source", CALLER + "b", "id-b"),
    )  # fmt: skip
    said, failed, tried, link = settled(monkeypatch, there, {})
    assert (said, failed, tried, link.greeted) == ([], [], [], 0)


def test_only_this_very_caller_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    there = journals(
        ("mine", "source", CALLER + "a", "id-a"), ("namesake", "source", CALLER + "a", "id-x"),
        ("gone", "source", CALLER + "a", "id-a"), ("live", "source", CALLER + "a", "id-a"),
    )  # fmt: skip
    failures: dict[str, Exception] = {"gone": FileNotFoundError(), "live": Busy("it lives")}
    said, failed, tried, _ = settled(monkeypatch, there, failures)
    assert tried == ["mine", "gone", "live"]
    assert said == ["mine runs at a"]
    assert [session for session, _ in failed] == ["live"]


def test_a_lost_link_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    there = journals(
        ("one", "source", CALLER + "a", "id-a"), ("two", "source", CALLER + "a", "id-a")
    )
    with pytest.raises(ConnectionLost):
        settled(monkeypatch, there, {"one": ConnectionLost("x")})


def test_a_live_session_is_in_the_way_only_of_the_question_about_it() -> None:
    failed: list[tuple[str, Failure]] = [("other", Busy("x"))]
    _raise_first(failed, "mine")
    with pytest.raises(Busy):
        _raise_first(failed, "other")
    with pytest.raises(AgentFailed):
        _raise_first([*failed, ("third", AgentFailed("x"))], "mine")
