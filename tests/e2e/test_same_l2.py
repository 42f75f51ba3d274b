"""A container with an address of its own on the hosts' Ethernet takes it along: `same-l2`.

The clients are on the same bridge as the hosts. What they and the bridge have learned of the
container must be right as soon as it runs elsewhere, whoever speaks first.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.world import World, eventually, skip_pair
from tests.e2e.world import world as make_world
from tests.lab.host import LabHost
from tests.lab.network import in_netns

WORKLOADS = Path(__file__).resolve().parents[1] / "workloads"
LAN, ADDRESS, SIX, PORT = "lan", "10.77.0.130", "fd77::130", 7000
TO = (ADDRESS, PORT)
SERVER = ["python3", "/workloads/tcp_server.py", str(PORT)]
UDP_SERVER = ["python3", "/workloads/udp_server.py", str(PORT)]
MAKE = ["docker", "network", "create", "-d", "macvlan", "-o", "parent=eth0", "--subnet",
        "10.77.0.0/24", "--gateway", "10.77.0.1", "--ipv6", "--subnet", "fd77::/64"]  # fmt: skip
RANGES = {"a": "10.77.0.128/26", "b": "10.77.0.192/26"}  # what each Docker gives by itself
# Prints what says who has an address.
SNIFF = r"""
import socket, struct, sys, time
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind(("eth0", 0)); s.settimeout(0.2); print("ready", flush=True)
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    try: f = s.recv(2048)
    except TimeoutError: continue
    kind = struct.unpack("!H", f[12:14])[0]
    if kind == 0x0806 and f[28:32] == f[38:42]:
        who = socket.inet_ntoa(f[28:32]), f[22:28].hex(":")
        print("arp", struct.unpack("!H", f[20:22])[0], *who, flush=True)
    if kind == 0x86dd and f[20] == 58 and f[54] == 136:
        print("na", socket.inet_ntop(10, f[62:78]), f[80:86].hex(":"), flush=True)
"""
# Prints when a frame of a station comes in by an interface: by the kernel's clock, since this
# program may have to wait for a CPU. SO_TIMESTAMPNS is 35.
INCOMING = r"""
import socket, struct, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.setsockopt(socket.SOL_SOCKET, 35, 1)
s.bind((sys.argv[1], 0)); print("ready", flush=True)
while True:
    frame, ((_, _, stamp),), _, origin = s.recvmsg(2048, socket.CMSG_SPACE(16))
    if origin[2] != socket.PACKET_OUTGOING and frame[6:12].hex(":") == sys.argv[2]:
        seconds, nanoseconds = struct.unpack("=qq", stamp)
        print(seconds + nanoseconds / 1e9, flush=True)
"""
# For --hook: commit holds the source until /root/go is there, and says by /root/held that it does.
HOLD = (
    "commit=touch /root/held; n=0; until [ -e /root/go ] || [ $n = 500 ]; do sleep 0.1;"
    " n=$((n + 1)); done"
)


@pytest.fixture(scope="module", params=["docker26", "docker28", "mixed"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    skip_pair(request, only_asked_for=("docker26", "mixed"))  # test_same_l2_ways.py has it
    with make_world("e2el2", request.param) as made:
        for name in ("tcp_client.py", "udp_client.py"):
            made.client.write(f"/root/{name}", (WORKLOADS / name).read_text())
        made.client.write("/root/sniff.py", SNIFF)
        yield made


@pytest.fixture(autouse=True)
def _networks(world: World) -> Iterator[None]:
    with networks(world):
        yield


@contextlib.contextmanager
def networks(world: World) -> Iterator[None]:
    """The same network on both hosts, each with a range of its own, as a careful user makes it."""
    for host in (world.a, world.b):
        host.run([*MAKE, "--ip-range", RANGES[host.name], LAN])
    yield
    world.remove("server")
    for host in (world.a, world.b):
        host.run(["docker", "network", "rm", LAN], check=False)


def start(world: World, *command: str, name: str = "server") -> None:
    world.start(world.a, name, command or SERVER, "--network", LAN, "--ip", ADDRESS, "--ip6", SIX)


def talk(world: World, file: str, *options: str) -> subprocess.Popen[str]:
    """A client; it has spoken when this returns."""
    argv = ["python3", f"/root/{file}", ADDRESS, str(PORT), "--interval", "5", *options]
    client = world.client.popen(argv)
    assert client.stderr
    assert client.stderr.readline().strip() == "connected"
    return client


def end(world: World, client: subprocess.Popen[str], file: str) -> dict[str, Any]:
    world.client.run(["pkill", "-TERM", "-f", f"/root/{file[:-1]}[{file[-1]}]"], check=False)
    out, err = client.communicate(timeout=60)
    assert client.returncode == 0, f"{out}{err}"
    report: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return report


def listening(world: World) -> None:
    probe = f"import socket; socket.create_connection({TO}, 2)"
    eventually(lambda: world.client.run(["python3", "-c", probe], check=False).ok, "no server")


def mac_of(world: World, host: LabHost, name: str = "server") -> str:
    networks = world.inspect(host, name)["NetworkSettings"]["Networks"]
    return str(networks[LAN]["MacAddress"])


def port_of(world: World, mac: str) -> str:
    """The port of the bridge at which it takes that hardware address to be."""
    shown = in_netns(world.lab.switch.netns, ["bridge", "-j", "fdb", "show", "br", "br0"]).stdout
    return next((e["ifname"] for e in json.loads(shown) if e["mac"] == mac), "")


def is_at(world: World, mac: str, host: LabHost, within: float = 10.0) -> None:
    """The bridge takes it to be at that host's port.

    Not at one instant: a frame that the other host had sent before may come out of a queue of this
    kernel after the first one from here, which is said again within half a second.
    """
    eventually(
        lambda: port_of(world, mac) == f"p-{host.name}", f"it is not at {host.name}",
        lambda: port_of(world, mac), within,
    )  # fmt: skip


def neighbour(world: World) -> str:
    """The hardware address that the client knows for the container's address; "" for none."""
    shown = json.loads(world.client.run(["ip", "-j", "neigh", "show", ADDRESS]).stdout)
    return str(shown[0].get("lladdr", "")) if shown else ""


def test_a_connection_goes_there_and_back(world: World) -> None:
    start(world)
    listening(world)
    mac = mac_of(world, world.a)
    client = talk(world, "tcp_client.py", "--gap-ms", "100")
    here, there = world.a, world.b
    longest = 0.0
    for _ in range(2):
        world.answers_come()
        is_at(world, mac, here)
        summary = world.migrate(here, "server", there)
        longest = max(longest, summary["downtime"])
        assert summary["network"] == "same-l2"
        assert ADDRESS in summary["way"]
        assert mac_of(world, there) == mac
        is_at(world, mac, there)
        eventually(lambda: neighbour(world) == mac, "the client knows another one")
        here, there = there, here
    report = end(world, client, "tcp_client.py")
    assert not report["errors"]
    assert report["replies"] > 100
    assert len(report["gaps"]) >= 2  # it really was away
    # TCP sends again after 0.2, 0.6, 1.4... s: at most as long again as it has been silent.
    assert max(ms for _, ms in report["gaps"]) < 2000 + 2000 * longest, report
    world.assert_clean()


def test_no_datagram_is_lost_but_while_it_stands_still(world: World) -> None:
    start(world, *UDP_SERVER)
    listening_udp(world)
    client = talk(world, "udp_client.py")
    time.sleep(0.5)
    for here, there in ((world.a, world.b), (world.b, world.a)):
        world.migrate(here, "server", there)
        time.sleep(0.5)
    report = end(world, client, "udp_client.py")
    assert report["nonces"] == 1
    assert report["lost_outside"] == report["repeated"] == []
    assert report["in_order"]
    world.assert_clean()


def listening_udp(world: World) -> None:
    probe = (f"import socket; s=socket.socket(2, 2); s.settimeout(1); s.sendto(b'0', {TO});"
             "s.recv(99)")  # fmt: skip
    eventually(lambda: world.client.run(["python3", "-c", probe], check=False).ok, "no server")


def test_it_is_announced_before_it_speaks(world: World) -> None:
    """Nobody talks to it, and it talks to nobody: what the bridge learns, it learns from us."""
    mac = start_silent(world)
    with sniffing(world) as heard:
        world.migrate(world.a, "server", world.b)
        is_at(world, mac, world.b, 5.0)
    for operation in (1, 2):
        assert heard.count(f"arp {operation} {ADDRESS} {mac}") >= 3, heard
    assert heard.count(f"na {SIX} {mac}") >= 3, heard
    world.assert_clean()


def test_that_was_not_dockers_doing(world: World) -> None:
    """The control. Docker 28 asks, when it plugs a container in, but it never replies; the kernel's
    multicast reports may tell the bridge, or not."""
    mac = start_silent(world)
    with sniffing(world) as heard:
        summary = world.migrate(world.a, "server", world.b, "--network-mode", "none")
    assert summary["network"] == "none"
    assert f"arp 2 {ADDRESS} {mac}" not in heard


@contextlib.contextmanager
def sniffing(world: World) -> Iterator[list[str]]:
    """What the client hears of who has an address; complete after the block."""
    sniffer = world.client.popen(["python3", "/root/sniff.py", "300"])
    assert sniffer.stdout
    assert sniffer.stdout.readline() == "ready\n"
    heard: list[str] = []
    yield heard
    time.sleep(0.5)
    world.client.run(["pkill", "-f", "/root/sniff.p[y]"])
    heard += sniffer.communicate(timeout=30)[0].splitlines()


def start_silent(world: World) -> str:
    """A container that says one word, so that the bridge knows it; gives its hardware address.

    (Not busybox' `sleep`: it takes the EINTR of a restored nanosleep for the end of the time.)
    """
    start(world, "python3", "-c", "import time; time.sleep(1000)")
    word = f"import socket; socket.socket(2, 2).sendto(b'x', ('{world.client.address}', 9))"
    world.a.run(["docker", "exec", "server", "python3", "-c", word])
    mac = mac_of(world, world.a)
    is_at(world, mac, world.a)
    return mac


def test_a_failed_move_leaves_it_where_it_was(world: World) -> None:
    start(world)
    listening(world)
    mac = mac_of(world, world.a)
    client = talk(world, "tcp_client.py")
    time.sleep(0.5)
    failed = world.try_migrate(world.a, "server", "b", "--max-freeze", "0.01")
    assert failed.returncode == 55, failed.stderr
    is_at(world, mac, world.a)
    assert not end(world, client, "tcp_client.py")["errors"]
    world.assert_clean()


def test_docker_does_not_announce_it_at_the_old_place(world: World) -> None:
    """Docker 28 says three times that a container is here that it has plugged in, with these
    options for four seconds, and whether it is frozen meanwhile or not."""
    for host in (world.a, world.b):
        host.run(["docker", "network", "rm", LAN])
        slowly = ["-o", "com.docker.network.advertise_addr_ms=2000"]
        host.run([*MAKE, *slowly, "--ip-range", RANGES[host.name], LAN])
    mac = start_silent(world)
    with coming_in(world, "p-a", mac) as seen, held_at_commit(world) as moving:
        committed = time.time()
        time.sleep(4)
        world.a.write("/root/go", "")
        assert moving.communicate(timeout=120)[0]
    assert seen  # before
    assert [when for when in seen if when > committed] == []
    world.assert_clean()


@contextlib.contextmanager
def held_at_commit(world: World) -> Iterator[subprocess.Popen[str]]:
    """A move from a to b, held where the copy at a is frozen and b's container runs, until there is
    /root/go."""
    world.a.run(["rm", "-f", "/root/held", "/root/go"])
    moving = world.a.popen(["migrate", "move", "server", "b", "--json", "--hook", HOLD])
    try:
        eventually(lambda: world.a.path("/root/held").exists(), "no commit")
        yield moving
    finally:
        world.a.write("/root/go", "")


@contextlib.contextmanager
def coming_in(world: World, port: str, mac: str) -> Iterator[list[float]]:
    """When frames of that station came in at a port of the bridge; complete after the block."""
    argv = ["nsenter", f"--net=/run/netns/{world.lab.switch.netns}", "--", sys.executable, "-c"]
    sniffer = subprocess.Popen([*argv, INCOMING, port, mac], stdout=subprocess.PIPE, text=True)
    seen: list[float] = []
    try:
        assert sniffer.stdout
        assert sniffer.stdout.readline() == "ready\n"
        yield seen
    finally:
        sniffer.terminate()
        seen += [float(line) for line in sniffer.communicate(timeout=30)[0].splitlines()]


def test_killed_after_commit_nobody_but_the_new_place_answers(world: World) -> None:
    """The copy at a is still there, frozen, until the guard has removed it."""
    start(world)
    listening(world)
    mac = mac_of(world, world.a)
    client = talk(world, "tcp_client.py")
    with held_at_commit(world) as moving:
        assert world.state(world.a, "server") == "running"  # as Docker sees it
        assert "NOARP" in inside(world, "ip link show eth0")
        assert "mode private" in inside(world, "ip -d link show eth0")
        is_at(world, mac, world.b)
        world.answers_come()
        world.a.write("/root/go", "")
        assert moving.communicate(timeout=120)[0]
    assert not end(world, client, "tcp_client.py")["errors"]


def inside(world: World, command: str) -> str:
    """Of the network namespace of the container at a."""
    pid = world.inspect(world.a, "server")["State"]["Pid"]
    return world.a.sh(f"nsenter --net=/proc/{pid}/ns/net -- {command}")
