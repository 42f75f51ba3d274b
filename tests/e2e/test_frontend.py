"""Clients who know a front end's address only: it leads them to wherever the container runs."""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.quake.build_image import PORT as QUAKE_PORT
from tests.e2e import test_crash as crash
from tests.e2e.quake_world import QuakeWorld, differences
from tests.e2e.world import ADDRESS, NETWORK, PAIRS, SUBNET, World, eventually
from tests.lab.host import HostSpec, LabHost
from tests.lab.lab import Lab

WORKLOADS = Path(__file__).resolve().parents[1] / "workloads"
OUTSIDE = 27999  # published on the hosts: another port than inside, and than at the front end
PORT, PUBLISHED, FRONT = 7000, 7100, 7200  # TCP: in the container, on its host, at the front end
ECHO = 7300  # the neighbour's
BY = ("--frontend", "front")


class FrontWorld(QuakeWorld):
    """Hosts a and b, `front`, which has no Docker, and `player`."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab, OUTSIDE)
        self.front = lab["front"]
        self.server = f"{self.front.address}:{QUAKE_PORT}"
        self.tcp = Workloads(lab)

    def frontend(self, *words: str) -> str:
        return self.front.run(["migrate", "frontend", *words]).stdout

    def leads(self, name: str) -> str:
        """Where a front end leads, by its record."""
        found = json.loads(self.frontend("list", "--json"))
        return next(str(one["backend"]) for one in found if one["name"] == name)

    def clear(self) -> None:
        for one in json.loads(self.frontend("list", "--json")):
            self.frontend("remove", one["name"])


class Workloads(World):
    """The same hosts, for the other workloads."""

    @property
    def client(self) -> LabHost:
        return self.lab["player"]


@pytest.fixture(scope="module", params=["mixed"])
def world(request: pytest.FixtureRequest) -> Iterator[FrontWorld]:
    first, second = PAIRS[request.config.getoption("--pair") or request.param]
    specs = [
        HostSpec("a", first), HostSpec("b", second), HostSpec("front", "trixie", docker=False),
        HostSpec("player", "trixie", docker=False, tool=False),
    ]  # fmt: skip
    lab = Lab.up("e2efe", specs)
    try:
        made = FrontWorld(lab)
        made.prepare()
        for name in ("tcp_client.py", "udp_client.py"):
            made.player_host.write(f"/root/{name}", (WORKLOADS / name).read_text())
        made.b.write("/root/udp_server.py", (WORKLOADS / "udp_server.py").read_text())
        yield made
    finally:
        lab.down()


@pytest.fixture(autouse=True)
def _nothing_stays(world: FrontWorld) -> Iterator[None]:
    yield
    world.clear()
    for host in (world.a, world.b):
        host.sh("docker ps -aq | xargs -r docker rm -f >/dev/null 2>&1", check=False)


class Neighbour:
    """Somebody else's datagrams through another port of the front end, to a program on host b."""

    def __init__(self, world: FrontWorld) -> None:
        self._world = world
        self._server = world.b.popen(["python3", "/root/udp_server.py", str(ECHO)])
        assert self._server.stdout
        assert self._server.stdout.readline().startswith("listening")
        world.frontend("add", "echo", f"{ECHO}/udp", world.b.address)
        client = ["python3", "/root/udp_client.py", world.front.address, str(ECHO)]
        self._client = world.player_host.popen(client)
        eventually(lambda: "ASSURED" in self.entry(), "the neighbour has no connection", self.entry)
        self.before = self.entry()

    def entry(self) -> str:
        """What conntrack knows of it, with its id, but for how long it will."""
        listed = self._world.front.sh(
            f"conntrack -L -o id -p udp --orig-port-dst {ECHO} 2>/dev/null", check=False
        )
        return " ".join(listed.split()[3:])

    def end(self) -> dict[str, Any]:
        after = self.entry()
        self._world.player_host.sh("pkill -TERM -f /root/udp_client.p[y]")
        out, err = self._client.communicate(timeout=60)
        self._server.kill()
        self._world.b.sh("pkill -f /root/udp_server.p[y]", check=False)
        assert out, err
        assert after == self.before
        report: dict[str, Any] = json.loads(out)
        return report


def test_one_gamestate_through_the_front_end(world: FrontWorld) -> None:
    """A -> B -> A -> B, and a neighbour at the same front end notices nothing."""
    world.frontend("add", "game", f"{QUAKE_PORT}/udp", f"{world.a.address}:{OUTSIDE}")
    world.start_server(world.a)
    world.mark("first")
    neighbour = Neighbour(world)
    player = world.player()
    before = world.status()
    here, there, moved = world.a, world.b, []
    for _ in range(3):
        time.sleep(1.5)
        moved.append(json.loads(world.move(here, there, *BY)))
        assert world.leads("game") == f"{there.address}:{OUTSIDE}"
        here, there = there, here
    time.sleep(2)
    after = world.status()
    seen = player.stop()
    noticed = neighbour.end()
    assert [one["network"] for one in moved] == ["frontend"] * 3
    assert differences(before, after, seen, moves=3) == []
    assert (seen.gamestates, seen.reconnects) == (1, 0)
    # Nothing forwards: host a is not in the way any more.
    assert "no forwards" in world.a.run(["migrate", "forward", "list"]).stdout
    assert (noticed["lost_outside"], noticed["repeated"]) == ([], []), noticed
    assert noticed["sent"] == noticed["replies"]


def test_without_the_switch_the_player_hears_nothing(world: FrontWorld) -> None:
    """The control; and led there by hand, the same player goes on."""
    world.frontend("add", "game", f"{QUAKE_PORT}/udp", f"{world.a.address}:{OUTSIDE}")
    world.start_server(world.a)
    player = world.player("--reconnect-after", "0")  # however long this takes
    time.sleep(1)
    world.move(world.a, world.b, "--network-mode", "none")
    time.sleep(3)
    assert not world._q3("status").ok
    said = json.loads(world.frontend("switch", "game", world.b.address, "--json"))
    assert said["connections"] >= 1
    time.sleep(1.5)
    seen = player.stop()
    assert (seen.gamestates, seen.reconnects, seen.dropped_reason) == (1, 0, None)
    times = [when for when, _, _ in seen.timeline]
    silence = max(later - earlier for earlier, later in itertools.pairwise(times))
    assert silence > 3.0
    assert times[-1] - times[0] > silence + 1.0  # it went on afterwards


def start_tcp(world: FrontWorld) -> None:
    a = world.a
    a.run(["docker", "network", "create", "--subnet", SUBNET, NETWORK], check=False)
    world.tcp.start(
        a, "server", ["python3", "/workloads/tcp_server.py", str(PORT)], "--network", NETWORK,
        "--ip", ADDRESS, "-p", f"{PUBLISHED}:{PORT}",
    )  # fmt: skip
    world.frontend("add", "web", f"{FRONT}/tcp", f"{a.address}:{PUBLISHED}")
    probe = f"import socket; socket.create_connection(('{world.front.address}', {FRONT}), 2)"
    eventually(
        lambda: world.player_host.run(["python3", "-c", probe], check=False).ok,
        "the server cannot be reached",
    )


def connect(world: FrontWorld) -> subprocess.Popen[str]:
    argv = ["python3", "/root/tcp_client.py", world.front.address, str(FRONT), "--interval", "5"]
    client = world.player_host.popen(argv)
    assert client.stderr
    assert client.stderr.readline().strip() == "connected"
    return client


def end_tcp(world: FrontWorld, client: subprocess.Popen[str]) -> dict[str, Any]:
    world.player_host.sh("pkill -TERM -f /root/tcp_client.p[y]", check=False)
    out, err = client.communicate(timeout=30)
    assert out, err
    report: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return report


def test_a_tcp_connection_through_the_front_end(world: FrontWorld) -> None:
    start_tcp(world)
    client = connect(world)
    here, there = world.a, world.b
    for _ in range(4):
        world.tcp.answers_come()
        assert world.tcp.migrate(here, "server", there, *BY)["network"] == "frontend"
        here, there = there, here
    report = end_tcp(world, client)
    assert not report["errors"], report
    assert report["replies"] > 200


def test_two_clients_with_one_port(world: FrontWorld) -> None:
    """Theirs is the same port on two addresses: one of them is translated to another port, and
    must keep that one."""
    start_tcp(world)
    second = "10.77.0.99"
    world.player_host.sh(f"ip address add {second}/24 dev eth0", check=False)
    script = (
        "import socket, sys\n"
        "s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
        f"s.bind((sys.argv[1], 45454)); s.connect(('{world.front.address}', {FRONT}))\n"
        "s.settimeout(10); f = s.makefile('rw')\n"
        "for n, _ in enumerate(sys.stdin, 1):\n"
        "    f.write(f'{n}\\n'); f.flush(); print(f.readline().strip(), flush=True)\n"
    )
    clients = [
        subprocess.Popen(
            world.player_host.enter(["python3", "-c", script, address]), stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )
        for address in (world.player_host.address, second)
    ]  # fmt: skip

    def ask(client: subprocess.Popen[str]) -> list[str]:
        assert client.stdin
        assert client.stdout
        client.stdin.write("go\n")
        client.stdin.flush()
        return client.stdout.readline().split()

    first = [ask(client) for client in clients]
    world.tcp.migrate(world.a, "server", world.b, *BY)
    then = [ask(client) for client in clients]
    world.tcp.migrate(world.b, "server", world.a, *BY)
    last = [ask(client) for client in clients]
    for client in clients:
        client.kill()
    assert [one[0] for one in first + then + last] == ["1", "1", "2", "2", "3", "3"]
    assert len({one[2] for one in first + then + last}) == 1


# Fails when connections are replaced, once, and when they are then looked for.
BROKEN = """#!/bin/sh
case $1 in
-R) [ -e /root/fail ] && touch /root/failed && exit 1 ;;
-L) [ -e /root/failed ] && rm -f /root/fail /root/failed && exit 1 ;;
esac
exec /usr/sbin/conntrack "$@"
"""


def test_a_move_that_fails_after_the_switch_leads_the_clients_back(world: FrontWorld) -> None:
    start_tcp(world)
    client = connect(world)
    world.front.write("/usr/local/bin/conntrack", BROKEN, 0o755)
    try:
        world.front.run(["touch", "/root/fail"])
        failed = world.tcp.try_migrate(world.a, "server", "b", *BY)
        assert not world.front.run(["ls", "/root/fail"], check=False).ok, "it came to the switch"
    finally:
        world.front.run(["rm", "-f", "/usr/local/bin/conntrack", "/root/fail", "/root/failed"])
    assert failed.returncode == 25, failed.stderr
    report = end_tcp(world, client)
    assert not report["errors"], report
    assert world.leads("web") == f"{world.a.address}:{PUBLISHED}"
    listed = world.front.run(["nft", "list", "map", "ip", "migrate_frontend", "backends"]).stdout
    assert f"{world.a.address} . {PUBLISHED}" in listed
    assert world.tcp.state(world.a, "server") == "running"
    world.tcp.assert_clean()


@pytest.mark.parametrize(
    ("victim", "phase"),
    [("source", "freeze"), ("source", "commit-sent"), ("source", "confirmed"), ("agent", "owned")],
)
def test_killed_in_the_middle_the_clients_get_to_where_it_runs(
    world: FrontWorld, victim: str, phase: str
) -> None:
    start_tcp(world)
    client = connect(world)
    moving = world.a.popen(["migrate", "move", "server", "b", "--json", *BY])
    host, role, pattern = {
        "source": (world.a, "source", "migrate mov[e] server"),
        "agent": (world.b, "destination", "migrate agen[t]"),
    }[victim]
    crash.wait_for_phase(host, role, phase, moving)
    crash.kill(host, pattern)
    moving.communicate(timeout=150)
    crash.settle(world.tcp)
    report = end_tcp(world, client)
    assert not report["errors"], report
    at_b = world.tcp.state(world.b, "server") == "running"
    assert at_b != (world.tcp.state(world.a, "server") == "running")
    where = world.b if at_b else world.a
    assert world.leads("web") == f"{where.address}:{PUBLISHED}"
    world.tcp.assert_clean()


def test_what_is_not_as_it_should_be_is_said_before_anything_moves(world: FrontWorld) -> None:
    start_tcp(world)
    before = world.a.run(["docker", "inspect", "server"]).stdout
    nobody = world.tcp.try_migrate(world.a, "server", "b", "--frontend", "nosuchhost")
    assert json.loads(nobody.stdout)["error"] == "FrontendUnreachable"
    assert nobody.returncode == 25
    world.frontend("switch", "web", "10.77.0.55")
    elsewhere = world.tcp.try_migrate(world.a, "server", "b", *BY)
    assert json.loads(elsewhere.stdout)["error"] == "FrontendUnfit"
    assert elsewhere.returncode == 26
    assert world.a.run(["docker", "inspect", "server"]).stdout == before
    world.tcp.assert_clean()


def test_restored_after_a_boot(world: FrontWorld) -> None:
    start_tcp(world)
    world.front.sh("nft delete table ip migrate_frontend; conntrack -F 2>/dev/null")
    assert "not in force" in world.frontend("list")
    assert "1 front ends" in world.front.run(["migrate", "recover"]).stdout
    report = end_tcp(world, connect(world))
    assert not report["errors"], report
