"""`--buffer`: what clients send to a frozen container waits, instead of being lost."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.e2e import test_forward as usual
from tests.e2e.world import World, eventually

PUBLISHED = 7101
SERVER = ["python3", "/workloads/udp_server.py", "7001"]


def moved(world: World, *options: str, fails: int = 0) -> dict[str, Any]:
    """What a UDP client that asks every 5 ms has noticed of one move from a to b."""
    client = world.client.popen(
        ["python3", "/root/udp_client.py", world.a.address, str(PUBLISHED), "--interval", "5"]
    )
    assert client.stderr
    client.stderr.readline()
    time.sleep(0.5)
    result = world.try_migrate(world.a, "server", "b", *options)
    assert result.returncode == fails, result.stderr
    if not fails:
        assert json.loads(result.stdout)["warnings"] == []
    time.sleep(0.5)
    world.client.run(["pkill", "-TERM", "-f", "/root/udp_client.p[y]"])
    out, err = client.communicate(timeout=60)
    assert client.returncode == 0, out + err
    report: dict[str, Any] = json.loads(out.splitlines()[-1])
    assert report["in_order"]
    return report


@pytest.fixture(autouse=True)
def _server(world: World) -> None:
    world.client.write("/root/udp_client.py", (usual.WORKLOADS / "udp_client.py").read_text())
    usual.start(world, *SERVER, publish=f"{PUBLISHED}:7001/udp")
    ask = (f"import socket; s=socket.socket(2, 2); s.settimeout(0.5);"
           f"s.sendto(b'0', ('{world.a.address}', {PUBLISHED})); s.recv(99)")  # fmt: skip
    eventually(lambda: world.client.run(["python3", "-c", ask], check=False).ok, "no server")


def rules(world: World) -> str:
    listed = world.a.sh("iptables -t mangle -S; cat /proc/net/netfilter/nfnetlink_queue")
    return "\n".join(line for line in listed.splitlines() if not line.startswith("-P"))


def test_no_datagram_is_lost(world: World) -> None:
    few: list[int] = []
    while 0 not in few and len(few) < 3:
        report = moved(world, "--buffer", "1024")
        assert report["gaps"]  # it really stood still
        assert rules(world) == ""
        world.migrate(world.b, "server", world.a)
        # What came just before, and for which the server has had no CPU on a busy machine, is in
        # its socket, and gone.
        few.append(report["sent"] - report["replies"])
    assert 0 in few
    # The control: what is sent meanwhile is lost.
    lost = moved(world)
    assert lost["sent"] - lost["replies"] > 10
    world.assert_clean()


def test_no_more_than_the_bound_is_held(world: World) -> None:
    report = moved(world, "--buffer", "8")
    assert report["sent"] - report["replies"] > 10
    assert rules(world) == ""


def test_after_a_failed_move_nothing_is_held_any_more(world: World) -> None:
    """(What was held is lost then: the end of the forward's table empties the queue.)"""
    report = moved(world, "--buffer", "1024", "--max-freeze", "0.01", fails=55)
    assert report["lost_outside"] == []
    assert rules(world) == ""
    assert usual.rules(world.a) == ""
    world.assert_clean()
