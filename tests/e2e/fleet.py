"""Four hosts with Docker and a client: what the tests of `evacuate` and `return` share."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from migrate.run import Result
from tests.e2e.world import World, eventually, host_spec
from tests.lab.host import HostSpec, LabHost
from tests.lab.lab import Lab

WORKLOADS = Path(__file__).resolve().parents[1] / "workloads"
SUBNETS = "10.99.0.0/16"
COUNTER = ("sh", "/workloads/counter.sh")
RECORDS = "/var/lib/migrate/evacuated"
COMPOSE = "com.docker.compose."


@dataclass(frozen=True)
class Server:
    """A container that answers; in a network of its own, so that its way can be switched alone."""

    name: str
    number: int
    kind: str = "tcp"
    labels: tuple[str, ...] = ()

    @property
    def network(self) -> str:
        return f"net{self.number}"

    @property
    def subnet(self) -> str:
        return f"10.99.{self.number}.0/24"

    @property
    def address(self) -> str:
        return f"10.99.{self.number}.10"


@dataclass
class Fleet(World):
    """Hosts a, b, c, d and a client. `clients`: those that talk, by the server's name."""

    clients: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    @property
    def hosts(self) -> list[LabHost]:
        return [self.lab[name] for name in "abcd" if self.lab[name].pid]

    def run_servers(self, servers: Sequence[Server]) -> None:
        for server in servers:
            self.a.run(
                ["docker", "network", "create", "--subnet", server.subnet, "-o",
                 "com.docker.network.bridge.gateway_mode_ipv4=nat-unprotected", "-o",
                 "com.docker.network.bridge.enable_ip_masquerade=false", server.network],
                check=False,
            )  # fmt: skip
            labels = [word for label in server.labels for word in ("--label", label)]
            self.start(
                self.a, server.name, ["python3", f"/workloads/{server.kind}_server.py", "7000"],
                "--network", server.network, "--ip", server.address, *labels,
            )  # fmt: skip
            self.way(server, self.a)

    def way(self, server: Server, via: LabHost) -> None:
        """The client reaches the server through this host."""
        self.client.run(["ip", "route", "replace", server.subnet, "via", via.address])

    def talk(self, server: Server) -> None:
        program = f"/root/{server.kind}_client.py"
        self.client.write(program, (WORKLOADS / f"{server.kind}_client.py").read_text())
        client = self.client.popen(
            ["python3", program, server.address, "7000", "--interval", "20", "--gap-ms", "150"]
        )
        assert client.stderr
        assert client.stderr.readline().strip() == "connected"
        self.clients[server.name] = client

    def reports(self) -> dict[str, dict[str, Any]]:
        """End all clients; gives what each has seen, with its exit code."""
        self.client.run(["pkill", "-TERM", "-f", "/root/(tcp|udp)_client.p[y]"], check=False)
        found = {}
        for name, client in self.clients.items():
            out, err = client.communicate(timeout=60)
            assert out, err
            found[name] = json.loads(out.strip().splitlines()[-1]) | {"code": client.returncode}
        self.clients.clear()
        return found

    @contextlib.contextmanager
    def following(self, servers: Sequence[Server]) -> Iterator[None]:
        """While entered, the way to each server follows it: to where the record of a says it is,
        or back to a when there is none any more."""
        over = threading.Event()
        there = {server.name: self.recorded(server.name) for server in servers}

        def follow() -> None:
            while True:
                last = over.wait(0.02)
                for server in servers:
                    host = self.recorded(server.name)
                    if there[server.name] != host:
                        there[server.name] = host
                        self.way(server, self.lab[host])
                if last:
                    return

        thread = threading.Thread(target=follow)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def recorded(self, name: str) -> str:
        """The host that a has sent it to, and it has arrived at; else a."""
        try:
            record = json.loads(self.a.path(f"{RECORDS}/{name}.json").read_bytes())
        except (OSError, ValueError):
            return "a"
        return str(record["host"]) if record["sure"] else "a"

    def evacuate(self, *words: str, timeout: float = 300) -> tuple[int, dict[str, Any]]:
        """`migrate evacuate ... --json` on a: the exit code and the report."""
        return self._report("evacuate", *words, timeout=timeout)

    def come_back(self, *words: str, timeout: float = 300) -> tuple[int, dict[str, Any]]:
        """`migrate return ... --json` on a."""
        return self._report("return", *words, timeout=timeout)

    def _report(self, *words: str, timeout: float) -> tuple[int, dict[str, Any]]:
        result: Result = self.a.run(["migrate", *words, "--json"], check=False, timeout=timeout)
        assert result.stdout.strip(), result
        report: dict[str, Any] = json.loads(result.stdout.strip().splitlines()[-1])
        return result.returncode, report

    def running(self, host: LabHost) -> set[str]:
        return set(host.sh("docker ps --format '{{.Names}}'").split())

    def everywhere(self) -> dict[str, list[str]]:
        """The running containers, and on which hosts each of them runs."""
        found: dict[str, list[str]] = {}
        for host in self.hosts:
            for name in self.running(host):
                found.setdefault(name, []).append(host.name)
        return found

    def clear(self) -> None:
        """Nothing is left of the test before, on any host."""
        # The programs first: what we have of them is the nsenter before each, and without it they
        # would run on with our pipes.
        self.client.run(["pkill", "-KILL", "-f", "/root/(tcp|udp)_client.p[y]"], check=False)
        for client in self.clients.values():
            client.kill()
            client.communicate(timeout=60)
        self.clients.clear()
        for host in self.hosts:
            host.sh(
                "docker ps -aq | xargs -r docker rm -f >/dev/null 2>&1;"
                "docker network prune -f >/dev/null;"
                f"rm -rf {RECORDS} /var/lib/migrate/journal/* /run/migrate/pending/*",
                check=False,
            )  # fmt: skip

    def assert_nothing_left(self) -> None:
        for host in self.hosts:
            eventually(lambda host=host: not self.leftovers(host), f"{host.name} is not clean",  # type: ignore[misc]
                       lambda host=host: self.leftovers(host), timeout=120)  # type: ignore[misc]  # fmt: skip


@contextlib.contextmanager
def fleet(name: str) -> Iterator[Fleet]:
    """Two flavours of Docker, and both of its image stores."""
    flavours = {"a": "trixie", "b": "forky", "c": "trixie", "d": "forky+containerd"}
    specs = [host_spec(host, flavour) for host, flavour in flavours.items()]
    lab = Lab.up(name, [*specs, HostSpec("client", "trixie", docker=False, tool=False)])
    made = Fleet(lab)
    try:
        for host in made.hosts:
            for way in ("-s", "-d"):
                host.run(["iptables", "-I", "DOCKER-USER", way, SUBNETS, "-j", "ACCEPT"])
        yield made
    finally:
        lab.down()


def fixtures(name: str) -> tuple[Any, Any]:
    """Two fixtures for a test module: `shared`, a fleet of that name whose hosts have the image,
    and `fleet`, the same, on which after each test all hosts run and nothing is left."""

    @pytest.fixture(scope="module", name="shared")
    def _shared() -> Iterator[Fleet]:
        with fleet(name) as made:
            for host in made.hosts:
                made.have_image(host)
            yield made

    @pytest.fixture(name="fleet")
    def _fleet(shared: Fleet) -> Iterator[Fleet]:
        yield shared
        for host in "abcd":
            if not shared.lab[host].pid:
                shared.lab[host].start()
        shared.clear()

    return _shared, _fleet
