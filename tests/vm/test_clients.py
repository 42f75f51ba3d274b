"""Clients of a published port, over a wire as between cities, on two kernels."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.vm.world import VmWorld

WORKLOADS = Path(__file__).resolve().parents[1] / "workloads"
NETWORK, SUBNET, ADDRESS = "players", "10.97.0.0/24", "10.97.0.10"
TCP, UDP = 7100, 7101  # as published
SERVERS = "python3 /workloads/udp_server.py 7001 & exec python3 /workloads/tcp_server.py 7000"
DELAY = 20.0  # ms, of each host: a question and its answer take 80 and more by the detour
OF_EACH_KIND = 5
PATIENT = {"tcp": ("--patience", "60"), "udp": ("--slack-ms", "500", "--before-ms", "3000")}


def ask(world: VmWorld, kind: str, port: int) -> subprocess.Popen[str]:
    argv = ["python3", f"/root/{kind}_client.py", world.a.address, str(port)]
    client = world.client.popen(
        [*argv, "--interval", str(world.interval), "--gap-ms", "1000", *PATIENT[kind]]
    )
    assert client.stderr
    assert client.stderr.readline().strip() == "connected"
    return client


def told(client: subprocess.Popen[str], seconds: float) -> dict[str, Any]:
    out, err = client.communicate(timeout=seconds)
    assert out, err
    report: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return report


def test_ten_clients_and_a_delay_of_20_ms(world: VmWorld) -> None:
    for kind in ("tcp", "udp"):
        name = f"{kind}_client.py"
        world.client.write(f"/root/{name}", (WORKLOADS / name).read_text())
    world.a.run(["docker", "network", "create", "--subnet", SUBNET, NETWORK])
    try:
        world.start(
            world.a, "servers", ["sh", "-c", SERVERS], "--network", NETWORK, "--ip", ADDRESS,
            "-p", f"{TCP}:7000", "-p", f"{UDP}:7001/udp",
        )  # fmt: skip
        world.wait_for_output(world.a, "servers", 2)
        # Before anybody asks: while the kernel changes an interface's qdisc, it has a `noop` there,
        # which drops what is sent (net/sched/sch_api.c, qdisc_graft: dev_deactivate).
        world.pair.link(delay_ms=DELAY)
        clients = [ask(world, "tcp", TCP) for _ in range(OF_EACH_KIND)]
        clients += [ask(world, "udp", UDP) for _ in range(OF_EACH_KIND)]
        world.answers_come()
        summary = world.migrate(world.a, "servers", world.b)
        assert summary["network"] == "forward"
        world.answers_come()
        time.sleep(5)
        world.client.run(["pkill", "-TERM", "-f", "/root/[tu][cd]p_client.py"], check=False)
        reports = [told(client, world.patience) for client in clients]
    finally:
        world.pair.link()
        world.remove("servers")
        for host in (world.a, world.b):
            host.run(["migrate", "forward", "remove", "servers"], check=False)
            host.run(["docker", "network", "rm", NETWORK], check=False)
    for report in reports:
        # It really was away, once, and nobody was thrown out or heard a stranger.
        assert len(report["gaps"]) >= 1, report
        if "nonces" in report:
            one_server = (report["nonces"], report["repeated"], report["lost_outside"])
            assert one_server == (1, [], []), report
        else:
            assert not report["errors"], report
    assert len({report["nonce"] for report in reports if "nonce" in report}) == 1
