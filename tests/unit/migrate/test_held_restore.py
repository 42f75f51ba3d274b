"""migrate.held_restore: events of two threads, in whatever order they are heard."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from migrate import held_restore
from migrate.errors import RestoreFailed
from migrate.held_restore import HeldRestore
from migrate.restore_supervisor import DOOMED


def held(*events: dict[str, Any]) -> HeldRestore:
    made = HeldRestore(None, "c" * 64, Path("/i"), Path("/w"), [])  # type: ignore[arg-type]
    for event in events:
        made._events.put(event)
    return made


@pytest.mark.parametrize("order", list(permutations(["ready", "resumed", "running", "started"])))
def test_no_event_is_lost_to_the_wait_for_another(order: tuple[str, ...]) -> None:
    """`docker start` may return before the supervisor is heard, and the other way round."""
    it = held(*({"event": name, "n": n} for n, name in enumerate(order)))
    for name in ("ready", "running", "started"):
        assert it.wait(name, 0.5) == {"event": name, "n": order.index(name)}


def test_an_event_comes_once() -> None:
    it = held({"event": "ready"})
    it.wait("ready", 0.5)
    with pytest.raises(RestoreFailed, match="did not come to `ready`"):
        it.wait("ready", 0.05)


def test_a_failure_ends_every_wait() -> None:
    it = held({"event": "namespaces"}, {"event": "failed", "reason": "no such file"})
    with pytest.raises(RestoreFailed, match="no such file"):
        it.wait("ready", 5)


def test_a_failure_during_pre_copy_is_heard_before_the_freeze() -> None:
    it = held({"event": "gone"}, {"event": "failed", "reason": "dockerd was ended", "final": True})
    with pytest.raises(RestoreFailed, match="dockerd was ended"):
        it.check()


def test_while_all_is_well_nothing_is_heard_and_nothing_lost() -> None:
    it = held()
    it.check()
    it = held({"event": "created", "rootfs": "/r"})
    it.check()
    assert it.wait("created", 0.5)["rootfs"] == "/r"


def test_dockers_own_reason_is_waited_for_when_the_supervisor_is_gone() -> None:
    it = held({"event": "gone"}, {"event": "failed", "reason": "dockerd says why"})
    with pytest.raises(RestoreFailed, match="dockerd says why"):
        it.wait("ready", 5)


def test_the_start_may_come_after_the_supervisor_has_gone() -> None:
    it = held({"event": "running"}, {"event": "gone"}, {"event": "started"})
    it.wait("running", 0.5)
    it.wait("started", 0.5)


def test_dockers_reason_for_giving_up_is_told_in_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gave_up = {"event": "failed", "reason": DOOMED}
    why = {"event": "failed", "reason": "address already in use", "final": True}
    with pytest.raises(RestoreFailed, match="address already in use"):
        held(gave_up, {"event": "gone"}, why).wait("ready", 5)
    monkeypatch.setattr(held_restore, "DOCKER_S_REASON", 0.05)
    with pytest.raises(RestoreFailed, match=DOOMED):
        held(gave_up, {"event": "gone"}).wait("ready", 5)
