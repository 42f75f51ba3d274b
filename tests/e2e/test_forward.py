"""Clients of a published port stay connected while their container moves: `--network-mode forward`.

No test here makes a route, a firewall rule or a special network: all that is the tool's business.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import test_crash as crash
from tests.e2e.world import ADDRESS, NETWORK, SUBNET, World, eventually, skip_pair
from tests.e2e.world import world as make_world
from tests.lab.host import LabHost

WORKLOADS = Path(__file__).resolve().parents[1] / "workloads"
PORT, PUBLISHED = 7000, 7100  # another one outside than inside
SERVER = ["python3", "/workloads/tcp_server.py", str(PORT)]
RATE, DOWNLOAD = 800, 1024  # MBit/s of the client's link, MiB: 11 s


@pytest.fixture(scope="module", params=["docker26", "docker28", "mixed"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    skip_pair(request, only_asked_for=("docker26", "mixed"))  # test_forward_quake.py has it
    with make_world("e2efw", request.param) as made:
        for name in ("tcp_client.py", "tcp_server.py", "http_stream.py"):
            made.client.write(f"/root/{name}", (WORKLOADS / name).read_text())
        yield made


@pytest.fixture(autouse=True)
def _nothing_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    """No forward outlives its test."""
    yield
    made: World = request.getfixturevalue("world")
    for host in (made.a, made.b):
        host.sh("ls /var/lib/migrate/forwards | cut -d. -f1 | xargs -rn1 migrate forward remove",
                check=False)  # fmt: skip


def start(world: World, *command: str, name: str = "server", publish: str = "") -> None:
    """A container on host a, in a network that a user would make."""
    make = ["docker", "network", "create", "--subnet", SUBNET, NETWORK]
    world.a.run(make, check=False)
    ports = ["-p", publish] if publish else []
    world.start(world.a, name, command, "--network", NETWORK, "--ip", ADDRESS, *ports)


def connect(world: World, *options: str) -> subprocess.Popen[str]:
    """A TCP client of host a, as soon as the port answers."""
    argv = ["python3", "/root/tcp_client.py", world.a.address, str(PUBLISHED), "--interval", "5",
            "--gap-ms", "100", *options]  # fmt: skip
    reachable(world)
    return spoken(world.client.popen(argv))


def reachable(world: World, port: int = PUBLISHED) -> None:
    """Wait until the port answers on host a."""
    probe = f"import socket; socket.create_connection(('{world.a.address}', {port}), 2)"
    eventually(
        lambda: world.client.run(["python3", "-c", probe], check=False).ok,
        "the server cannot be reached",
    )


def spoken(process: subprocess.Popen[str]) -> subprocess.Popen[str]:
    assert process.stderr
    assert process.stderr.readline().strip() == "connected"
    return process


def stop(world: World, client: subprocess.Popen[str]) -> dict[str, Any]:
    """Stop the client, which asks once more; gives what it noticed."""
    world.client.run(["pkill", "-TERM", "-f", "/root/tcp_client.p[y]"], check=False)
    out, err = client.communicate(timeout=60)
    assert out, err
    report: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    assert (client.returncode == 0) == (not report["errors"])
    return report


def end(world: World, client: subprocess.Popen[str]) -> dict[str, Any]:
    """Stop the client; every reply must have come, in order."""
    report = stop(world, client)
    assert not report["errors"], report
    return report


def rules(host: LabHost) -> str:
    """Whatever of ours is left in a host's network."""
    return host.sh(
        "nft list tables | grep migrate_; iptables -S | grep migrate:; iptables -t raw -S |"
        " grep migrate:; ip rule | grep 77; ip link | grep mgf; ls /var/lib/migrate/forwards",
        check=False,
    )


def test_a_connection_by_a_published_port_goes_there_and_back(world: World) -> None:
    start(world, *SERVER, publish=f"{PUBLISHED}:{PORT}")
    client = connect(world)
    here, there, modes = world.a, world.b, []
    for _ in range(4):
        world.answers_come()
        modes.append(world.migrate(here, "server", there)["network"])
        here, there = there, here
    report = end(world, client)
    assert modes == ["forward", "home", "forward", "home"]
    assert report["replies"] > 100
    assert len(report["gaps"]) >= 4, report  # it really was away
    world.assert_clean()
    # Back home, nothing of a detour is left on either host.
    assert [rules(host) for host in (world.a, world.b)] == ["", ""]


def test_new_clients_and_both_addresses_while_it_is_away(world: World) -> None:
    start(world, *SERVER, publish=f"{PUBLISHED}:{PORT}")
    reachable(world)
    world.migrate(world.a, "server", world.b)
    through_a = connect(world)
    world.answers_come()
    assert end(world, through_a)["replies"] > 1
    # Its clients' own addresses come to the container.
    assert f"come {world.client.address}:" in "\n".join(world.logs(world.b, "server"))
    # And b's own published port answers directly.
    probe = (f"import socket; s=socket.create_connection(('{world.b.address}', {PUBLISHED}), 2);"
             "s.settimeout(10); s.sendall(b'1\\n'); assert s.recv(99)")  # fmt: skip
    world.client.run(["python3", "-c", probe])
    # A program on host a itself finds it, too.
    world.a.run(["python3", "-c", probe.replace(world.b.address, world.a.address)])


def test_an_idle_connection_is_closed_cleanly_after_the_move(world: World) -> None:
    """Its first packet after the move is a FIN, which conntrack takes for nothing it knows."""
    start(world, *SERVER, publish=f"{PUBLISHED}:{PORT}")
    reachable(world)
    script = (
        f"import socket, sys; s=socket.create_connection(('{world.a.address}', {PUBLISHED}));"
        "s.settimeout(20); s.sendall(b'1\\n'); s.recv(99); print('idle', flush=True);"
        "sys.stdin.readline(); s.shutdown(1); assert s.recv(9) == b''"
    )
    idle = subprocess.Popen(
        world.client.enter(["python3", "-c", script]), stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert idle.stdout
    assert idle.stdout.readline() == "idle\n"
    world.migrate(world.a, "server", world.b)
    _, err = idle.communicate("go\n", timeout=60)
    assert idle.returncode == 0, err


def test_a_connection_that_the_container_has_opened(world: World) -> None:
    serve = world.client.popen(["python3", "/root/tcp_server.py", "7300"])
    try:
        assert serve.stdout
        assert serve.stdout.readline().startswith("listening")
        start(
            world, "python3", "/workloads/tcp_client.py", world.client.address, "7300",
            "--interval", "5", name="caller", publish=f"{PUBLISHED}:9",
        )  # fmt: skip
        assert f"come {world.a.address}:" in serve.stdout.readline()  # masqueraded, as ever
        here, there = world.a, world.b
        for _ in range(3):
            world.migrate(here, "caller", there)
            here, there = there, here
        world.b.run(["docker", "kill", "-s", "TERM", "caller"])  # it asks once more
        eventually(lambda: world.state(world.b, "caller") == "exited", "it does not end")
        report = json.loads(world.logs(world.b, "caller")[-1])
        assert not report["errors"], report
        assert report["replies"] > 200
        assert world.inspect(world.b, "caller")["State"]["ExitCode"] == 0
    finally:
        serve.kill()


def test_a_download_in_progress_is_right(world: World) -> None:
    start(
        world, "python3", "/workloads/http_stream.py", "serve", "80", str(DOWNLOAD),
        publish=f"{PUBLISHED}:80",
    )  # fmt: skip
    world.lab.switch.rate("client", world.client.netns, RATE)
    try:
        go_on = "/root/moved"
        world.client.run(["rm", "-f", go_on])
        fetch = ["python3", "/root/http_stream.py", "fetch", world.a.address, str(PUBLISHED), go_on]
        listening = "docker exec server grep -q ':0050 00000000:0000 0A' /proc/net/tcp && echo yes"
        eventually(lambda: world.a.sh(listening, check=False) == "yes", "no server")
        client = spoken(world.client.popen(fetch))
        world.migrate(world.a, "server", world.b)
        assert client.poll() is None, "the download was over before the move"
        world.client.run(["touch", go_on])
        world.migrate(world.b, "server", world.a)
        out, err = client.communicate(timeout=240)
    finally:
        world.lab.switch.heal("client", world.client.netns)
    assert client.returncode == 0, f"{out}{err}"
    report = json.loads(out)
    assert report["right"]
    assert report["bytes"] == DOWNLOAD << 20


def test_without_it_the_connection_is_lost(world: World) -> None:
    """The control: the same client notices when nothing is forwarded."""
    start(world, *SERVER, publish=f"{PUBLISHED}:{PORT}")
    client = connect(world, "--patience", "2")
    summary = world.migrate(world.a, "server", world.b, "--network-mode", "none")
    assert summary["network"] == "none"
    assert stop(world, client)["errors"]


def test_a_failed_move_leaves_no_rule_and_no_hiccup(world: World) -> None:
    start(world, *SERVER, publish=f"{PUBLISHED}:{PORT}")
    client = connect(world)
    failed = world.try_migrate(world.a, "server", "b", "--max-freeze", "0.01")
    assert failed.returncode == 55, failed.stderr
    assert end(world, client)["replies"] > 50
    world.assert_clean()
    eventually(lambda: rules(world.b) == "", "rules are left", lambda: rules(world.b))
    assert rules(world.a) == ""


def test_dockerd_restarts_at_the_anchor(world: World) -> None:
    start(world, *SERVER, publish=f"{PUBLISHED}:{PORT}")
    client = connect(world)
    world.migrate(world.a, "server", world.b)
    world.a.sh("kill $(cat /run/docker.pid); while pgrep -x dockerd; do sleep 0.1; done")
    world.a.start_dockerd()
    world.a.wait_for_docker()
    assert end(world, client)["replies"] > 100


@pytest.mark.parametrize(
    ("victim", "phase"),
    [("source", "freeze"), ("source", "commit-sent"), ("source", "confirmed"), ("agent", "owned")],
)
def test_killed_in_the_middle_the_connection_goes_on(world: World, victim: str, phase: str) -> None:
    """There, or here: the forward is in force exactly when the container runs at b."""
    start(world, *SERVER, publish=f"{PUBLISHED}:{PORT}")
    client = connect(world)
    moving = world.a.popen(["migrate", "move", "server", "b", "--json"])
    host, role, pattern = {
        "source": (world.a, "source", "migrate mov[e] server"),
        "agent": (world.b, "destination", "migrate agen[t]"),
    }[victim]
    crash.wait_for_phase(host, role, phase, moving)
    crash.kill(host, pattern)
    moving.communicate(timeout=150)
    crash.settle(world)
    assert end(world, client)["replies"] > 20
    at_b = world.state(world.b, "server") == "running"
    assert at_b != (world.state(world.a, "server") == "running")
    listed = world.a.run(["migrate", "forward", "list"]).stdout
    assert ("passed on to b" in listed) == at_b
    if not at_b:
        assert rules(world.a) == ""
    world.assert_clean()


def test_ten_clients_on_a_link_that_loses(world: World) -> None:
    start(world, *SERVER, publish=f"{PUBLISHED}:{PORT}")
    reachable(world)
    world.lab.switch.loss(world.b.netns, 0.5)
    argv = ["python3", "/root/tcp_client.py", world.a.address, str(PUBLISHED), "--interval", "20",
            "--patience", "25"]  # fmt: skip
    try:
        clients = [spoken(world.client.popen(argv)) for _ in range(10)]
        world.migrate(world.a, "server", world.b)
        world.migrate(world.b, "server", world.a)
        reports = [stop(world, client) for client in clients]
    finally:
        world.lab.switch.loss(world.b.netns, None)
    assert [report["errors"] for report in reports] == [[]] * 10
    assert len({report["nonce"] for report in reports}) == 1


def test_hooks_are_called_on_the_source_and_told(world: World) -> None:
    start(world, *SERVER, publish=f"{PUBLISHED}:{PORT}")
    said = ["--hook", "rollback=echo rollback >>/root/hooks"]
    for phase in ("prepare", "commit", "confirm"):
        names = ("PHASE", "CONTAINER_ADDRESS", "PORTS", "DESTINATION_ADDRESS")
        told = " ".join(f"$MIGRATE_{name}" for name in names)
        where = "$(docker ps -aqf name=server | wc -l)"
        said += ["--hook", f"{phase}=echo {told} {where} >>/root/hooks"]
    world.a.run(["rm", "-f", "/root/hooks"])
    world.migrate(world.a, "server", world.b, *said)
    line = f"{ADDRESS} 0.0.0.0:{PUBLISHED}/tcp {world.b.address}"
    hooks = world.a.run(["cat", "/root/hooks"]).stdout.splitlines()
    assert hooks == [f"prepare {line} 1", f"commit {line} 1", f"confirm {line} 0"]


def test_a_failing_hook_before_commit_stops_it(world: World) -> None:
    start(world, *SERVER, publish=f"{PUBLISHED}:{PORT}")
    world.a.run(["rm", "-f", "/root/hooks"])
    failed = world.try_migrate(
        world.a, "server", "b", "--hook", "prepare=echo not today >&2; false",
        "--hook", "rollback=echo $MIGRATE_PHASE >>/root/hooks",
    )  # fmt: skip
    assert failed.returncode == 57
    assert "not today" in failed.stderr
    assert world.a.run(["cat", "/root/hooks"]).stdout == "rollback\n"
    assert world.state(world.a, "server") == "running"
    assert rules(world.a) == ""
    world.assert_clean()
