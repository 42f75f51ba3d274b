"""What the end-to-end tests share: two hosts and a client, containers on them, and `migrate`."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytest

from migrate.run import Result
from tests.lab.host import HostSpec, LabHost
from tests.lab.images import import_image, workload_image
from tests.lab.lab import Lab
from tests.lab.reach import Host

H = TypeVar("H", bound=Host)

WORKLOADS = Path(__file__).resolve().parents[1] / "workloads"
IMAGE = "workloads"
NETWORK = "appnet"
SUBNET = "10.99.0.0/24"
ADDRESS = "10.99.0.10"

# A pair is two hosts; `+containerd` is Docker 29's default image store, on 28.
PAIRS = {
    "mixed": ("trixie", "forky"),
    "docker26": ("trixie", "trixie"),
    "docker28": ("forky", "forky"),
    "containerd": ("forky+containerd", "forky+containerd"),
    "stores": ("forky", "forky+containerd"),
}


def host_spec(name: str, flavour: str) -> HostSpec:
    plain, _, trait = flavour.partition("+")
    return HostSpec(name, plain, containerd_store=trait == "containerd")


def make_lab(name: str, pair: str, disk_of_b: int = 0) -> Lab:
    """Hosts a, b and client; `disk_of_b`: MiB of Docker's disk there, 0 for no limit."""
    first, second = PAIRS[pair]
    client = HostSpec("client", "trixie", docker=False, tool=False)
    b = replace(host_spec("b", second), disk=disk_of_b)
    return Lab.up(name, [host_spec("a", first), b, client])


class Hosts(ABC, Generic[H]):
    """Two hosts with Docker, `a` and `b`, and a `client` without: what is done there, and true."""

    # Limits for what hangs, not for what is slow.
    patience = 60.0  # seconds until something that should come to be so must be so
    move_timeout = 180.0  # seconds that a migration may take
    pace: Sequence[str] = ()  # options of `docker create` for the workloads' pace
    interval = 5  # ms between two questions of a client

    @property
    @abstractmethod
    def a(self) -> H: ...

    @property
    @abstractmethod
    def b(self) -> H: ...

    @property
    @abstractmethod
    def client(self) -> Host: ...

    def eventually(self, condition: Callable[[], bool], message: str) -> None:
        """Wait until something is true, as long as it may take on these hosts."""
        eventually(condition, message, timeout=self.patience)

    def workload_image(self) -> Path:
        """The tar of the image that the workloads run in."""
        return workload_image()

    def have_image(self, host: Host) -> None:
        """The workload image on a host, with the workloads in /work."""
        if not host.run(["docker", "image", "inspect", IMAGE], check=False).ok:
            import_image(host, self.workload_image(), IMAGE)

    def start(
        self, host: Host, name: str, command: Sequence[str], *options: str, image: str = IMAGE
    ) -> str:
        """`docker run -d`; the workloads are copied in before the start. Gives the id."""
        if image == IMAGE:
            self.have_image(host)
        made = host.run(["docker", "create", "--name", name, *self.pace, *options, image, *command])
        archive = str(WORKLOADS)
        tar = host.enter(["docker", "cp", "-", f"{name}:/"])
        with subprocess.Popen(
            ["tar", "-C", str(Path(archive).parent), "-c", "workloads"], stdout=subprocess.PIPE
        ) as packed:
            subprocess.run(tar, stdin=packed.stdout, check=True, timeout=host.patience)
        host.run(["docker", "start", name])
        return made.stdout.strip()

    def migrate(
        self, source: Host, name: str, to: Host, *options: str, timeout: float = 0
    ) -> dict[str, Any]:
        """`migrate NAME HOST --json`; gives the summary. A failure fails the test in its words."""
        result = self.try_migrate(source, name, to.name, *options, timeout=timeout)
        assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
        summary: dict[str, Any] = json.loads(result.stdout)
        return summary

    def try_migrate(
        self, source: Host, name: str, to: str, *options: str, timeout: float = 0
    ) -> Result:
        argv = ["migrate", "move", name, to, "--json", *options]
        return source.run(argv, timeout=timeout or self.move_timeout, check=False)

    # -- what is true of a host -----------------------------------------------------------------

    def logs(self, host: Host, name: str) -> list[str]:
        return host.run(["docker", "logs", name]).stdout.splitlines()

    def wait_for_output(self, host: Host, name: str, lines: int = 5) -> None:
        """Wait until the container has printed `lines` more lines."""
        before = len(self.logs(host, name))
        self.eventually(lambda: len(self.logs(host, name)) >= before + lines, "it does not go on")

    def state(self, host: Host, name: str) -> str:
        """`running`, `exited`, ...; '' when there is no such container."""
        result = host.run(["docker", "inspect", "-f", "{{.State.Status}}", name], check=False)
        return result.stdout.strip()

    def inspect(self, host: Host, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(host.run(["docker", "inspect", name]).stdout)[0]
        return found

    def remove(self, *names: str) -> None:
        """Remove containers from both hosts, frozen or not, so that the next test finds none."""
        for host in (self.a, self.b):
            for name in names:
                host.run(["docker", "rm", "-f", name], check=False)

    def leftovers(self, host: Host) -> list[str]:
        """Whatever a migration has left behind on a host."""
        found = host.sh(
            "ls -A /run/migrate/sessions /run/migrate/pending /var/lib/migrate/journal 2>/dev/null"
            " | grep -v : | grep .; grep -o '/run/migrate[^ ]*' /proc/self/mountinfo;"
            " grep -o '[^ ]*criu-root' /proc/self/mountinfo;"
            " ps -eo args | grep -E 'migrate[ ]agent|migrate[.]guard|criu[ ]swrk|runc[ ]restore'",
            check=False,
        )
        return found.splitlines()

    def assert_clean(self) -> None:
        """Nothing of ours is left on either host (a guard may take a moment to end)."""
        for host in (self.a, self.b):
            eventually(lambda host=host: not self.leftovers(host), f"{host.name} is not clean",  # type: ignore[misc]
                       lambda host=host: self.leftovers(host),  # type: ignore[misc]
                       self.patience)  # fmt: skip

    # -- the client's connections ---------------------------------------------------------------

    def received(self) -> int:
        """Bytes that the TCP connections of the client's programs have got."""
        words = self.client.sh("ss -tinH state established").split()
        return sum(int(w.partition(":")[2]) for w in words if w.startswith("bytes_received:"))

    def answers_come(self) -> None:
        """Wait until a TCP client hears from its server again: between two moves, else one silence
        may last until the next."""
        before = self.received()
        self.eventually(lambda: self.received() > before, "no answer comes")

    # -- the network of a container -------------------------------------------------------------

    def make_network(self, host: Host) -> None:
        """A user-defined bridge to which packets may be routed from outside.

        Docker >= 28 drops what is routed straight to a container unless told otherwise; Docker's
        FORWARD policy is DROP on all. A routed network needs no masquerading, and must not have it:
        the restored server speaks first, and a masqueraded packet in mid-stream earns it a RST.
        (To be the tool's own business in a later issue.)
        """
        host.run(
            ["docker", "network", "create", "--subnet", SUBNET, "-o",
             "com.docker.network.bridge.gateway_mode_ipv4=nat-unprotected", "-o",
             "com.docker.network.bridge.enable_ip_masquerade=false", NETWORK],
            check=False,
        )  # fmt: skip
        self.open_forward(host)

    def open_forward(self, host: Host) -> None:
        for way in ("-s", "-d"):
            host.run(["iptables", "-I", "DOCKER-USER", way, SUBNET, "-j", "ACCEPT"])

    def route(self, via: Host) -> None:
        """The client reaches the container's network through this host."""
        self.client.run(["ip", "route", "replace", SUBNET, "via", via.address])


@dataclass
class World(Hosts[LabHost]):
    """The hosts of one lab."""

    lab: Lab

    @property
    def a(self) -> LabHost:
        return self.lab["a"]

    @property
    def b(self) -> LabHost:
        return self.lab["b"]

    @property
    def client(self) -> LabHost:
        return self.lab["client"]


def skip_pair(request: pytest.FixtureRequest, only_asked_for: Sequence[str] = ()) -> None:
    """Skip a fixture's pair that is not meant: other ones than --pair says; without it those that
    cost more time than they find, since what they would show is shown elsewhere."""
    chosen = request.config.getoption("--pair")
    if chosen and chosen != request.param:
        pytest.skip(f"--pair {chosen}")
    if not chosen and request.param in only_asked_for:
        pytest.skip(f"only with --pair {request.param}")


def eventually(
    condition: Callable[[], bool], message: str, detail: Callable[[], Any] = lambda: "",
    timeout: float = 60.0,
) -> None:  # fmt: skip
    """Wait until something is true; fail with the message when it does not become so."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{message}: {detail()}")
        time.sleep(0.1)


def numbers(lines: Sequence[str]) -> list[int]:
    """The numbers that the counter or the family printed, in order."""
    found = []
    for line in lines:
        match = re.match(r"(?:line )?(\d+)\b", line)
        if match:
            found.append(int(match.group(1)))
    return found


def assert_continuous(found: Sequence[int]) -> None:
    """No number is left out and none comes twice."""
    assert found, "no output at all"
    wrong = [(x, y) for x, y in pairwise(found) if y != x + 1]
    assert not wrong, f"{len(wrong)} breaks, the first {wrong[:3]} of {len(found)}"


@contextlib.contextmanager
def world(name: str, pair: str, disk_of_b: int = 0) -> Iterator[World]:
    lab = make_lab(name, pair, disk_of_b)
    try:
        yield World(lab)
    finally:
        lab.down()
