"""The Quake 3 player of examples/quake against the real server of examples/quake/build_image.

No docker: the server runs in a chroot and a network namespace of its own. Needs root, apt and `ip`.
The player must see what happens to the server, and nothing that does not.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.quake.build_image import PORT, build, command

Q3 = Path(__file__).parents[2] / "examples" / "quake" / "q3.py"
SERVER = f"127.0.0.1:{PORT}"
PASSWORD = "geheim"

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("apt-get") or not shutil.which("ip"),
    reason="needs root for a chroot and a network namespace, and apt for the server",
)


class Arena:
    """A network namespace with the server in it, and players as separate processes."""

    def __init__(self, root: Path) -> None:
        self._root = root
        # `cat` holds the namespace: it ends when its stdin does, so also when this process dies.
        self._holder = subprocess.Popen(
            ["unshare", "-n", "sh", "-c", "ip link set lo up && echo up && exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"up\n"
        self._inside = ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net"]
        self.server = self.start_server()

    def start_server(self) -> subprocess.Popen[bytes]:
        argv = [*self._inside, "chroot", str(self._root), *command(rcon_password=PASSWORD)]
        # nsenter and chroot exec: the process id is the server's.
        self.server = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        while self._q3("status").returncode != 0:
            assert self.server.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.2)
        return self.server

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._q3("status").stdout)
        return answer

    def rcon(self, *words: str, password: str = PASSWORD) -> str:
        return self._q3("rcon", password, *words).stdout

    def player(self, seconds: float, *options: str) -> subprocess.Popen[str]:
        """A player who is in the game when this returns."""
        argv = [sys.executable, str(Q3), "play", SERVER, "--json", "--seconds", str(seconds)]
        player = subprocess.Popen(
            [*self._inside, *argv, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert player.stderr is not None
        assert player.stderr.readline() == "playing\n"
        return player

    def cut_network(self, seconds: float) -> float:
        """Gives for how long it was cut at most."""
        began = time.monotonic()
        subprocess.run([*self._inside, "ip", "link", "set", "lo", "down"], check=True)
        time.sleep(seconds)
        subprocess.run([*self._inside, "ip", "link", "set", "lo", "up"], check=True)
        return time.monotonic() - began

    def wait_for_player(self) -> None:
        """Until a player is in the game (again)."""
        deadline = time.monotonic() + 60
        while not any(p["name"] == "migrant" and p["ping"] < 999 for p in self.status()["players"]):
            assert time.monotonic() < deadline, "the player does not come"
            time.sleep(1)  # the server answers an address only so often

    def close(self) -> None:
        self.server.kill()
        self.server.wait()
        self._holder.communicate(timeout=10)

    def _q3(self, what: str, *rest: str) -> subprocess.CompletedProcess[str]:
        argv = [*self._inside, sys.executable, str(Q3), what, SERVER, *rest]
        return subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quake")
    with tarfile.open(build(folder / "quake.tar")) as tar:
        tar.extractall(folder / "root", filter="tar")
    return folder / "root"


@pytest.fixture
def arena(root: Path) -> Iterator[Arena]:
    arena = Arena(root)
    yield arena
    arena.close()


def figures(player: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = player.communicate(timeout=60)
    assert out, err
    answer: dict[str, Any] = json.loads(out)
    return answer


def test_an_undisturbed_player_sees_one_game_and_no_loss(arena: Arena) -> None:
    player = arena.player(8, "--timeline")
    time.sleep(3)
    me = [one for one in arena.status()["players"] if one["name"] == "migrant"]
    assert len(me) == 1
    assert me[0]["ping"] < 999  # connected, but not in the game
    seen = figures(player)
    assert (seen["gamestates"], seen["lost_sequences"], seen["reconnects"]) == (1, 0, 0)
    assert seen["dropped_reason"] is None
    assert seen["server_time_steps_back"] == 0
    played = seen["last_server_time"] - seen["first_server_time"]
    assert 6000 < played < 9500
    # 20 a second; a server that had no CPU for a while makes up for the time, but not for those.
    assert played / 100 < seen["snapshots"] <= played / 50 + 10
    # The server carries out the player's moves, up to the last ones.
    assert seen["last_server_time"] - seen["last_command_time"] < 1000
    assert seen["moved"] > 500
    sequences = [sequence for _, sequence, _ in seen["timeline"]]
    assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))
    # Leaving tells the server: nobody has to time out.
    assert "migrant" not in [one["name"] for one in arena.status()["players"]]


def test_more_server_commands_than_the_server_keeps_are_acknowledged(arena: Arena) -> None:
    # 64 unacknowledged commands and a player is thrown out ("Server command overflow").
    player = arena.player(30)
    arena.rcon("set", "chatter", ";".join(["say hello"] * 12))
    for _ in range(8):
        time.sleep(0.3)  # the server answers an address 10 times in a burst
        arena.rcon("vstr", "chatter")
    player.send_signal(signal.SIGTERM)
    seen = figures(player)
    assert seen["dropped_reason"] is None
    assert (seen["gamestates"], seen["lost_sequences"]) == (1, 0)


def test_a_frozen_server_is_a_gap_and_nothing_else(arena: Arena) -> None:
    player = arena.player(5)
    time.sleep(1.5)
    began = time.monotonic()
    arena.server.send_signal(signal.SIGSTOP)
    time.sleep(0.5)
    arena.server.send_signal(signal.SIGCONT)
    stopped = (time.monotonic() - began) * 1000
    seen = figures(player)
    # Others, shorter ones, may be this machine's.
    assert 450 < seen["max_gap_ms"] < stopped + 1000
    assert max(length for _, length in seen["gaps"]) == round(seen["max_gap_ms"], 1)
    assert (seen["gamestates"], seen["lost_sequences"], seen["reconnects"]) == (1, 0, 0)
    assert seen["dropped_reason"] is None


def test_a_killed_and_restarted_server_is_another_game(arena: Arena) -> None:
    assert "mark" not in arena.status()["cvars"]
    arena.rcon("sets", "mark", "first")
    before = arena.status()["cvars"]
    assert before["mark"] == "first"
    player = arena.player(100, "--reconnect-after", "1.5")
    time.sleep(1)
    arena.server.kill()
    arena.server.wait()
    time.sleep(1)  # g_timestamp is in seconds
    arena.start_server()
    arena.wait_for_player()
    player.terminate()
    seen = figures(player)
    assert seen["reconnects"] >= 1
    assert seen["gamestates"] == 2
    assert seen["max_gap_ms"] > 1500
    after = arena.status()["cvars"]
    assert after["g_timestamp"] != before["g_timestamp"]
    assert "mark" not in after


def test_a_server_that_ends_says_goodbye(arena: Arena) -> None:
    player = arena.player(10)
    arena.server.terminate()
    seen = figures(player)
    assert seen["dropped_reason"] == "Received signal 15"
    assert player.returncode == 2


def test_lost_datagrams_are_counted(arena: Arena) -> None:
    player = arena.player(4)
    time.sleep(1)
    cut = arena.cut_network(seconds=0.5)
    seen = figures(player)
    # Half a second of snapshots, 20 a second; and no more than that.
    assert 3 <= seen["lost_sequences"] <= 20 * cut + 5
    assert (seen["gamestates"], seen["reconnects"]) == (1, 0)


def test_a_wrong_password_is_refused(arena: Arena) -> None:
    assert arena.rcon("status", password="wrong").strip() == "Bad rconpassword."
