"""migrate.lazy_pages: what the agent hears of the server of lazy pages, and what it makes of it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from migrate import lazy_pages
from migrate.errors import AgentFailed, MemoryLost, RestoreFailed
from migrate.lazy_pages import LAZY_FROM, LazyPages, restore_lazily
from tests.unit.migrate.lazy_server import LATE, Server, init, is_over, server

__all__ = ["init", "server"]
Process = subprocess.Popen[bytes]


@pytest.fixture
def pages(server: Server) -> Iterator[LazyPages]:
    made = LazyPages(server.lazy, server.work)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("wanted", "memory", "lazy"),
    [
        ("auto", LAZY_FROM, True),
        ("auto", LAZY_FROM - 1, False),
        ("eager", 1 << 40, False),
        ("lazy", 0, True),
    ],
)
def test_when_it_is_lazy(wanted: str, memory: int, lazy: bool) -> None:
    assert restore_lazily(wanted, memory) is lazy


def test_all_goes_well(pages: LazyPages, server: Server, init: Process) -> None:
    server.becomes_soon("ready")
    pages.serve()
    pages.commit(init.pid)
    server.ends(0)
    assert 0 <= pages.filled(LATE) < LATE


def test_nothing_is_started_before_it_is_needed(pages: LazyPages, server: Server) -> None:
    pages.close()
    assert pages._process.returncode == 0
    assert not (server.home / "argv").exists()


def test_no_server_comes_up(pages: LazyPages, server: Server) -> None:
    (server.work / "lazy-pages.log").write_text("Error (criu/uffd.c:1): no luck\n")
    server.becomes_soon("1")
    with pytest.raises(RestoreFailed, match=r"ended \(1\): Error \(criu/uffd\.c:1\): no luck"):
        pages.serve()


def test_a_server_that_hangs(
    pages: LazyPages, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lazy_pages, "READY_TIMEOUT", 0.2)
    with pytest.raises(RestoreFailed, match="did not come to `ready`"):
        pages.serve()
    serving = server.pidfd()
    pages.close()
    assert is_over(serving)


def test_no_commit_to_a_dead_server(pages: LazyPages, server: Server, init: Process) -> None:
    """The container must not run then."""
    server.becomes_soon("ready")
    pages.serve()
    server.ends(1)
    pages._process.wait(LATE)
    with pytest.raises(RestoreFailed, match=r"ended \(1\)"):
        pages.commit(init.pid)
    with pytest.raises(RestoreFailed, match="the lazy pages' keeper has ended"):
        pages.commit(init.pid)
    assert init.poll() is None


def test_a_server_that_dies_after_commit(pages: LazyPages, server: Server, init: Process) -> None:
    server.becomes_soon("ready")
    pages.serve()
    pages.commit(init.pid)
    server.ends(1)
    with pytest.raises(MemoryLost, match=r"ended \(1\); the container was killed") as caught:
        pages.filled(LATE)
    assert "runs on" not in caught.value.remedy


def test_a_server_that_takes_too_long(pages: LazyPages, server: Server, init: Process) -> None:
    server.becomes_soon("ready")
    pages.serve()
    pages.commit(init.pid)
    with pytest.raises(AgentFailed, match="did not come to `filled` within 0 s") as caught:
        pages.filled(0.1)
    assert "runs at the destination" in caught.value.remedy
    server.ends(0)  # but it goes on
    pages.filled(LATE)


def test_before_commit_the_server_ends_with_it(pages: LazyPages, server: Server) -> None:
    server.becomes_soon("ready")
    pages.serve()
    serving = server.pidfd()
    pages.close()
    assert is_over(serving, 0)


def test_after_commit_the_server_goes_on(
    pages: LazyPages, server: Server, init: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lazy_pages, "END_TIMEOUT", 0.3)
    server.becomes_soon("ready")
    pages.serve()
    pages.commit(init.pid)
    pages.close()
    assert not is_over(server.pidfd(), 0.1)
    server.ends(0)
    assert pages._process.wait(LATE) == 0
    assert init.poll() is None
