"""migrate.lazy_keeper: who dies when, and what becomes of the container then."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from migrate.lazy_keeper import server_argv
from tests.unit.migrate.lazy_server import LATE, Server, init, is_over, server

__all__ = ["init", "server"]
Process = subprocess.Popen[bytes]


class Keeper:
    """The keeper, as the agent has it."""

    def __init__(self, server: Server) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "migrate.lazy_keeper", str(server.lazy), str(server.work)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.hears(do="serve")

    def hears(self, **word: Any) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(word).encode() + b"\n")
        self.process.stdin.flush()

    def commits(self, pid: int) -> None:
        self.hears(do="commit", pid=pid)
        assert self.says() == {"event": "committed"}

    def says(self) -> dict[str, Any]:
        assert self.process.stdout
        said: dict[str, Any] = json.loads(self.process.stdout.readline() or b'{"event": "end"}')
        return said

    def agent_dies(self) -> None:
        for end in (self.process.stdin, self.process.stdout):
            assert end
            end.close()


@pytest.fixture
def keeper(server: Server) -> Iterator[Keeper]:
    made = Keeper(server)
    yield made
    made.process.kill()
    made.process.wait()
    for end in (made.process.stdin, made.process.stdout):
        if end:
            with contextlib.suppress(BrokenPipeError):
                end.close()


def test_the_call() -> None:
    assert server_argv("/l", "/w", 7) == [
        "criu", "lazy-pages", "--images-dir", "/l", "--work-dir", "/w",
        "--log-file", "lazy-pages.log", "-v2", "--status-fd", "7",
    ]  # fmt: skip


def test_all_goes_well(keeper: Keeper, server: Server, init: Process) -> None:
    server.becomes("ready")
    assert keeper.says() == {"event": "ready"}
    keeper.commits(init.pid)
    server.ends(0)
    heard = keeper.says()
    assert heard["event"] == "filled"
    assert 0 <= heard["seconds"] < LATE
    assert keeper.process.wait(LATE) == 0
    assert init.poll() is None
    assert server.has_let_go()


def test_it_does_not_start(keeper: Keeper, server: Server) -> None:
    said = "(00.01) Error (criu/uffd.c:1): no luck\n(00.02) Error (criu/uffd.c:2): FAILED\n"
    (server.work / "lazy-pages.log").write_text(said)
    server.becomes("3")
    reason = "the server of lazy pages ended (3): Error (criu/uffd.c:1): no luck"
    assert keeper.says() == {"event": "failed", "reason": reason}
    assert keeper.process.wait(LATE) == 1


def test_there_is_no_criu(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(server.home))
    keeper = Keeper(server)
    assert keeper.says() == {"event": "end"}
    assert keeper.process.wait(LATE) == 1
    keeper.agent_dies()


@pytest.mark.parametrize("ready", [True, False])
def test_the_agent_dies_before_commit(ready: bool, keeper: Keeper, server: Server) -> None:
    serving = server.pidfd()
    if ready:
        server.becomes("ready")
        keeper.says()
    keeper.agent_dies()
    assert is_over(serving)
    assert keeper.process.wait(LATE) == 1


def test_the_agent_dies_after_commit(keeper: Keeper, server: Server, init: Process) -> None:
    server.becomes("ready")
    keeper.says()
    keeper.commits(init.pid)
    keeper.agent_dies()
    assert not is_over(server.pidfd(), 0.3)
    server.ends(0)
    assert keeper.process.wait(LATE) == 0
    assert init.poll() is None


@pytest.mark.parametrize("how", ["killed", "fails"])
def test_the_server_dies_before_commit(how: str, keeper: Keeper, server: Server) -> None:
    server.becomes("ready")
    keeper.says()
    if how == "killed":
        os.kill(server.pid, signal.SIGKILL)
    else:
        server.ends(1)
    reason = f"the server of lazy pages ended ({-9 if how == 'killed' else 1})"
    assert keeper.says() == {"event": "failed", "reason": reason}


@pytest.mark.parametrize("how", ["killed", "fails", "crashes"])
def test_the_server_dies_after_commit(
    how: str, keeper: Keeper, server: Server, init: Process
) -> None:
    """The container must be dead before the kernel gives it zeros, whether or not anybody hears."""
    server.becomes("ready")
    keeper.says()
    keeper.commits(init.pid)
    if how == "fails":
        server.ends(1)
    else:
        os.kill(server.pid, signal.SIGKILL if how == "killed" else signal.SIGSEGV)
    assert server.has_let_go()
    assert init.poll() == -signal.SIGKILL
    heard = keeper.says()
    assert heard["event"] == "failed"
    assert "the container was killed" in heard["reason"]
    assert keeper.process.wait(LATE) == 1


def test_the_log_is_read_when_its_path_is_gone(
    keeper: Keeper, server: Server, init: Process
) -> None:
    (server.work / "lazy-pages.log").write_text("Error (criu/uffd.c:1): no luck\n")
    server.becomes("ready")
    keeper.says()
    keeper.commits(init.pid)
    server.work.rename(server.home / "elsewhere")
    server.ends(1)
    assert "(1): Error (criu/uffd.c:1): no luck; the container" in keeper.says()["reason"]


def test_the_container_ends_first(keeper: Keeper, server: Server, init: Process) -> None:
    """Nobody is left to be served, and nothing has gone wrong."""
    server.becomes("ready")
    keeper.says()
    keeper.commits(init.pid)
    serving = server.pidfd()
    init.terminate()
    assert keeper.says()["event"] == "filled"
    assert is_over(serving)
    assert keeper.process.wait(LATE) == 0


def test_the_server_fails_since_the_container_ends(
    keeper: Keeper, server: Server, init: Process
) -> None:
    """Tasks lose their memory a moment before they can be seen to have ended."""
    server.becomes("ready")
    keeper.says()
    keeper.commits(init.pid)
    keeper.process.send_signal(signal.SIGSTOP)
    server.ends(1)
    init.terminate()
    keeper.process.send_signal(signal.SIGCONT)
    assert keeper.says()["event"] == "filled"
    assert init.wait(LATE) == -signal.SIGTERM


def test_the_container_is_dead_at_commit(keeper: Keeper, server: Server) -> None:
    server.becomes("ready")
    keeper.says()
    gone = subprocess.Popen(["true"])
    gone.wait()
    keeper.commits(gone.pid)
    assert keeper.says()["event"] == "filled"
    assert keeper.process.wait(LATE) == 0


def test_all_is_served_before_commit(keeper: Keeper, server: Server, init: Process) -> None:
    serving = server.pidfd()
    server.becomes("ready")
    keeper.says()
    server.ends(0)
    assert not is_over(serving, 0.3)  # it is held: nobody knows yet whether this was all right
    keeper.commits(init.pid)
    assert keeper.says()["event"] == "filled"
    assert keeper.process.wait(LATE) == 0
    assert init.poll() is None


def test_all_is_served_and_the_agent_dies(keeper: Keeper, server: Server) -> None:
    server.becomes("ready")
    keeper.says()
    server.ends(0)
    server.is_held()  # else it is killed before it has done all
    keeper.agent_dies()
    assert keeper.process.wait(LATE) == 0
    assert server.has_let_go()
