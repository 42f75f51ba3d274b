"""The DockerCon demo on the lab: a Quake 3 server on host a, and somebody who plays on it.

Shared by examples/quake/demo.py and the tests. The server's port is published on host a, and the
player connects there, wherever the server runs: nothing on the way is switched from here.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import msgspec

from examples.quake.build_image import PORT, build, command
from examples.quake.gaps import Move
from examples.quake.q3oob import Status
from examples.quake.q3player import PlayerStats
from migrate.run import Result
from migrate.summary import Summary
from tests.lab.host import HostSpec, LabHost
from tests.lab.images import import_image
from tests.lab.lab import Lab

NAME = "quake"
IMAGE = "quake"
NETWORK = "arena"
SUBNET = "10.88.0.0/24"
ADDRESS = "10.88.0.10"
CLIENTS = 16  # players that the server takes in, the bots too
PASSWORD = "migrate"
MARK = "moved_by"
"""A setting that only the running server knows: made by rcon, in no file."""

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SCRIPT = "/opt/q3/examples/quake/q3.py"
PID_FILE = "/run/q3.pid"
BOOT = 60.0  # seconds that the server may take to load its map; 1 or 2 are usual
UNHEARD = 1500  # ms of the player's last moves that may still be on their way


class MoveFailed(Exception):
    """`migrate` ended with another exit code than 0; the text is what it said, if it was caught."""


@dataclass
class Figures(PlayerStats):
    """What happened to a player, with one (time, sequence, server time) for each snapshot."""

    timeline: list[tuple[float, int, int]] = field(default_factory=list)


class Player:
    """A player in the game, as a process on the lab host `player`."""

    def __init__(self, host: LabHost, server: str, *options: str, number: int = 0) -> None:
        """`server`: address:port; `number`: tells players of one host apart."""
        self._host = host
        self._pid_file = f"{PID_FILE}.{number}"
        # A pid file: nsenter forks, so its own pid is not the one that a signal must go to.
        play = f'echo $$ > {self._pid_file}; exec python3 {SCRIPT} play {server} "$@"'
        argv = ["sh", "-c", play, "play", "--json", "--timeline", "--seconds", "600",
                "--connect-timeout", "60", *options]  # fmt: skip
        self._process = host.popen(argv)
        assert self._process.stderr is not None
        if self._process.stderr.readline() != "playing\n":
            out, err = self._process.communicate(timeout=60)
            raise AssertionError(f"the player did not get into the game: {out}{err}")

    def stop(self) -> Figures:
        """Leave the game; gives the figures."""
        self._host.sh(f"kill -TERM $(cat {self._pid_file})")
        out, err = self._process.communicate(timeout=60)
        assert out, f"the player ended without a word: {err}"
        return msgspec.json.decode(out, type=Figures)


class QuakeWorld:
    """Hosts a and b with Docker and `migrate`, `player` with neither; the server's container.

    `server`: where its players reach it, always; `publish`: its port there, as for `docker run`.
    """

    def __init__(self, lab: Lab, outside: int = PORT) -> None:
        """`outside`: the port of host a that is the server's."""
        self.lab = lab
        self.a, self.b, self.player_host = lab["a"], lab["b"], lab["player"]
        self.server = f"{self.a.address}:{outside}"
        self.publish = f"{outside}:{PORT}/udp"

    # -- making it -------------------------------------------------------------------------------

    def prepare(self) -> None:
        """The image and the network on host a alone; the player's program."""
        with tempfile.TemporaryDirectory() as scratch:
            import_image(self.a, build(Path(scratch) / "quake.tar"), IMAGE)
        self.a.run(["docker", "network", "create", "--subnet", SUBNET, NETWORK])
        for file in (EXAMPLES / "__init__.py", *EXAMPLES.glob("quake/q3*.py")):
            inside = Path("/opt/q3/examples", file.relative_to(EXAMPLES))
            self.player_host.write(str(inside), file.read_text())
        self.player_host.write("/opt/q3/examples/quake/__init__.py", "")

    def start_server(self, host: LabHost) -> None:
        """`docker run` on a host, and wait until the game has begun."""
        game = command(rcon_password=PASSWORD, clients=CLIENTS)
        host.run(["docker", "run", "-d", "--name", NAME, "--network", NETWORK, "--ip", ADDRESS,
                  "-p", self.publish, IMAGE, *game])  # fmt: skip
        self.wait_for_game()

    def wait_for_game(self) -> None:
        deadline = time.monotonic() + BOOT
        while not self._q3("status").ok:
            if time.monotonic() > deadline:
                raise AssertionError("the Quake server does not answer")
            time.sleep(0.2)

    def wait_for_player(self, name: str = "migrant") -> None:
        """Until a player is in the game (again), as the server sees it."""
        deadline = time.monotonic() + BOOT
        while not any(one.name == name and one.ping < 999 for one in self.status().players):
            if time.monotonic() > deadline:
                raise AssertionError(f"{name} does not come into the game")
            time.sleep(1)  # the server answers an address only so often

    def restart_server(self, host: LabHost) -> None:
        """What people do without a migration: end it, start it anew."""
        host.run(["docker", "kill", NAME])
        time.sleep(1.1)  # g_timestamp counts in seconds
        host.run(["docker", "start", NAME])
        self.wait_for_game()

    def remove_server(self) -> None:
        """And whatever leads to it."""
        for host in (self.a, self.b):
            host.run(["docker", "rm", "-f", NAME], check=False)
        for host in (self.a, self.b):
            host.run(["migrate", "forward", "remove", NAME], check=False)

    # -- asking ----------------------------------------------------------------------------------

    def status(self) -> Status:
        """Settings and players, asked from the host `player`."""
        return msgspec.json.decode(self._q3("status", check=True).stdout, type=Status)

    def console(self, *words: str) -> str:
        """What the server's own console answers to a command."""
        return self._q3("rcon", PASSWORD, *words, check=True).stdout

    def mark(self, text: str) -> None:
        """Make a setting in the server's memory that `status` shows."""
        self._q3("rcon", PASSWORD, "sets", MARK, text, check=True)

    def player(self, *options: str) -> Player:
        return Player(self.player_host, self.server, *options)

    def _q3(self, what: str, *rest: str, check: bool = False) -> Result:
        """`check`: asked again, since a datagram may be lost, and the server may be busy."""
        argv = ["python3", SCRIPT, what, self.server, *rest]
        for _ in range(4 if check else 0):
            if (result := self.player_host.run(argv, check=False)).ok:
                return result
        return self.player_host.run(argv, check=check)

    # -- moving ----------------------------------------------------------------------------------

    def move(self, source: LabHost, to: LabHost, *options: str) -> str:
        """`migrate quake HOST --json` on `source`; gives what it printed. Raises MoveFailed."""
        process = source.popen(["migrate", NAME, to.name, *options, "--json"])
        try:
            out, err = process.communicate()
        finally:
            if process.poll() is None:
                process.wait(timeout=60)  # it got the same Ctrl-C and undoes what it did
        if process.returncode != 0:
            raise MoveFailed(f"migrate ended with {process.returncode}: {out}{err}")
        return out

    def timed_move(self, source: LabHost, to: LabHost) -> Move:
        """`move`, with its figures. Raises MoveFailed."""
        begin = time.monotonic()
        said = self.move(source, to)
        return Move(begin, time.monotonic(), msgspec.json.decode(said, type=Summary))


def lost_outside(timeline: Sequence[tuple[float, int, int]], moves: int) -> int:
    """Datagrams of the server lost at any time but during the `moves` longest silences."""
    pairs = sorted(pairwise(timeline), key=lambda pair: pair[1][0] - pair[0][0], reverse=True)
    return sum(after[1] - before[1] - 1 for before, after in pairs[moves:])


def differences(before: Status, after: Status, seen: Figures, moves: int = 1) -> list[str]:
    """Why the game after `moves` migrations is not the one before; empty when it is the same."""
    wrong = []
    for name, what in (("g_timestamp", "the game was begun at"), (MARK, f"`{MARK}` is")):
        was, now = before.cvars.get(name), after.cvars.get(name)
        if was is None or now != was:
            wrong.append(f"{what} {now}, not {was}")
    if seen.gamestates != 1:
        wrong.append(f"the player was sent {seen.gamestates} gamestates")
    if seen.reconnects:
        wrong.append(f"the player had to reconnect {seen.reconnects} times")
    if seen.dropped_reason is not None:
        wrong.append(f"the player was dropped: {seen.dropped_reason}")
    if seen.server_time_steps_back:
        wrong.append(f"the game's clock went back {seen.server_time_steps_back} times")
    if lost := lost_outside(seen.timeline, moves):
        wrong.append(f"{lost} datagrams were lost outside of the moves")
    unheard = (seen.last_server_time or 0) - seen.last_command_time
    if unheard > UNHEARD:
        wrong.append(f"the player's moves of the last {unheard} ms were not carried out")
    return wrong


@contextlib.contextmanager
def quake_lab(
    name: str,
    *,
    keep: bool = False,
    flavours: tuple[str, str] = ("trixie", "forky"),
    outside: int = PORT,
    player: str = "trixie",
) -> Iterator[QuakeWorld]:
    """The lab with everything but the server in it. `keep`: it is not ended (unless it fails to
    come up). `flavours`: of hosts a and b; `outside`: the port that is published; `player`: the
    flavour of host player (examples/quake/real_client.py has one of its own)."""
    lab = Lab.up(
        name,
        [
            HostSpec("a", flavours[0]),
            HostSpec("b", flavours[1]),
            HostSpec("player", player, docker=False, tool=False),
        ],
    )
    try:
        made = QuakeWorld(lab, outside)
        made.prepare()
        yield made
    finally:
        if not keep:
            lab.down()
