"""Two machines on one wire, a and b, and a client. Their state is on disk, as that of a lab is."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from migrate.run import run
from tests.lab.tool import layer_over
from tests.vm.image import VmImage, image
from tests.vm.machine import Client, Machine, MachineSpec, delay
from tests.vm.seed import network_script, write_seed

STATE = Path(os.environ.get("MIGRATE_VM_STATE", "/var/lib/migrate-vm"))
CLIENT = "10.77.0.20"


class Pair:
    """`Pair.up` makes one, `Pair.open` finds one that is up."""

    def __init__(self, name: str) -> None:
        if not name.isalnum() or len(name) > 8:
            raise ValueError(f"a pair's name is 1-8 letters and digits, not {name!r}")
        self.name = name
        self.state = STATE / name
        self.machines: dict[str, Machine] = {}

    @property
    def a(self) -> Machine:
        return self.machines["a"]

    @property
    def b(self) -> Machine:
        return self.machines["b"]

    @property
    def client(self) -> Client:
        return Client(self.b, CLIENT)

    @classmethod
    def up(cls, name: str) -> Pair:
        """Make a pair; one of that name that is there already is ended first."""
        pair = cls.open(name)
        pair.down()
        try:
            pair._make()
        except BaseException:
            pair.down()
            raise
        return pair

    @classmethod
    def open(cls, name: str) -> Pair:
        """The pair of that name as it was noted on disk (without machines when there is none)."""
        pair = cls(name)
        try:
            noted = json.loads((pair.state / "pair.json").read_text())
        except OSError:
            return pair
        for spec in noted:
            pair._add(MachineSpec(**spec))
        return pair

    def _add(self, spec: MachineSpec) -> None:
        self.machines[spec.name] = Machine(spec, self.state / spec.name, self.state / "keys")

    def _make(self) -> None:
        made = image()
        tool = layer_over(made.tree, "vm")
        self.state.mkdir(parents=True, mode=0o700)
        first, second = free_ports(2)
        specs = [MachineSpec("a", 1, first), MachineSpec("b", 2, second, client=True)]
        (self.state / "pair.json").write_text(json.dumps([asdict(spec) for spec in specs]))
        for spec in specs:
            self._add(spec)
        self._make_keys()
        for machine in self.machines.values():
            machine.state.mkdir()
            write_seed(machine.state / "seed.tar", self._files(machine), tool)
        for machine in self.machines.values():
            self.start(machine, made)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(_make_ready, self.machines.values()))

    def start(self, machine: Machine, made: VmImage | None = None) -> None:
        """Switch one of the machines on; it is not waited for."""
        (other,) = (m for m in self.machines.values() if m is not machine)
        machine.start(made or image(), other.socket)

    def _make_keys(self) -> None:
        keys = self.state / "keys"
        keys.mkdir()
        known = []
        for name in ["user", *(f"host-{name}" for name in self.machines)]:
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f",
                 str(keys / name)])  # fmt: skip
        for machine in self.machines.values():
            kind, key = (keys / f"host-{machine.name}.pub").read_text().split()[:2]
            known.append(f"{machine.name},{machine.address} {kind} {key}\n")
        (keys / "known_hosts").write_text("".join(known))

    def _files(self, machine: Machine) -> list[tuple[str, str, int]]:
        def key(name: str) -> str:
            return (self.state / "keys" / name).read_text()

        hosts = [f"{m.address} {m.name}\n" for m in (*self.machines.values(), self.client)]
        client = CLIENT if machine.spec.client else None
        return [
            ("/etc/hostname", f"{machine.name}\n", 0o644),
            ("/etc/hosts", f"127.0.0.1 localhost\n{''.join(hosts)}", 0o644),
            ("/etc/vm/network", network_script(machine.address, client), 0o644),
            ("/etc/ssh/ssh_host_ed25519_key", key(f"host-{machine.name}"), 0o600),
            ("/etc/ssh/ssh_host_ed25519_key.pub", key(f"host-{machine.name}.pub"), 0o644),
            ("/root/.ssh/id_ed25519", key("user"), 0o600),
            ("/root/.ssh/authorized_keys", key("user.pub"), 0o600),
            ("/root/.ssh/known_hosts", key("known_hosts"), 0o600),
        ]

    def link(self, *, delay_ms: float | None = None) -> None:
        """Make the wire slow: everything that a host sends comes `delay_ms` later; None heals it.

        Both machines and the client: a round trip takes twice that.
        """
        for host in (self.a, self.b, self.client):
            delay(host, delay_ms)

    def down(self) -> None:
        """End both machines and leave nothing: no process and no file."""
        failures: list[Exception] = []
        for machine in self.machines.values():
            try:
                machine.cut_power()
            except Exception as failure:  # noqa: BLE001 - the other must be ended all the same
                failures.append(failure)
        if failures:
            raise failures[0]
        self.machines.clear()
        shutil.rmtree(self.state, ignore_errors=True)


def _make_ready(machine: Machine) -> None:
    """Wait until it is up, and have `migrate setup` run there, as a user would."""
    machine.wait_for_boot()
    machine.sh("until docker info >/dev/null 2>&1; do sleep 1; done")
    machine.run(["migrate", "setup"])


def free_ports(count: int) -> list[int]:
    """Ports of this machine's loopback address that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


@contextmanager
def pair(name: str) -> Iterator[Pair]:
    """A pair for the length of a `with` block."""
    made = Pair.up(name)
    try:
        yield made
    finally:
        made.down()
