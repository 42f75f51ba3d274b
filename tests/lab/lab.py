"""A lab: N hosts on one switch. Its state is on disk, so that any process can use or end it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from migrate.run import run
from tests.lab.host import HostSpec, LabHost
from tests.lab.network import Switch
from tests.lab.tool import layer
from tests.lab.tree import tree

STATE = Path(os.environ.get("MIGRATE_LAB_STATE", "/var/lib/migrate-lab"))
SUBNET = "10.77.0"
# Namespaces and cgroups are the machine's: labs of different state directories must not meet.
PREFIX = "ml" + hashlib.sha256(str(STATE).encode()).hexdigest()[:4]


class Lab:
    """The hosts of one lab by name. `Lab.up` makes one, `Lab.open` finds one that is up."""

    def __init__(self, name: str) -> None:
        if not name.isalnum() or len(name) > 8:
            raise ValueError(f"a lab name is 1-8 letters and digits, not {name!r}")
        self.name = name
        self.state = STATE / name
        self.switch = Switch(name, PREFIX)
        self.hosts: dict[str, LabHost] = {}

    def __getitem__(self, host: str) -> LabHost:
        return self.hosts[host]

    @classmethod
    def up(cls, name: str, specs: Iterable[HostSpec]) -> Lab:
        """Make a lab; one of that name that is there already is ended first."""
        lab = cls.open(name)
        lab.down()
        placed = [
            replace(spec, address=spec.address or f"{SUBNET}.{10 + number}/24")
            for number, spec in enumerate(specs, 1)
        ]
        try:
            lab._make(placed)
        except BaseException:
            lab.down()
            raise
        return lab

    @classmethod
    def open(cls, name: str) -> Lab:
        """The lab of that name as it was noted on disk (without hosts when there is none)."""
        lab = cls(name)
        try:
            noted = json.loads((lab.state / "lab.json").read_text())
        except OSError:
            return lab
        for spec in noted:
            lab._add(HostSpec(**spec))
        return lab

    def _add(self, spec: HostSpec) -> None:
        self.hosts[spec.name] = LabHost(self.name, spec, self.state / "hosts" / spec.name, PREFIX)

    def _make(self, specs: list[HostSpec]) -> None:
        # Trees and the installed tool first, each once, before anything is up.
        flavours = sorted({spec.flavour for spec in specs})
        with ThreadPoolExecutor(len(flavours)) as pool:
            list(pool.map(tree, flavours))
            list(pool.map(layer, sorted({s.flavour for s in specs if s.tool})))
        self.state.mkdir(parents=True, mode=0o700)
        (self.state / "lab.json").write_text(json.dumps([asdict(spec) for spec in specs]))
        self._make_keys(specs)
        lines = [f"{spec.address.partition('/')[0]} {spec.name}\n" for spec in specs]
        (self.state / "etc-hosts").write_text("".join(lines))
        self.switch.up()
        for spec in specs:
            self._add(spec)
            self.switch.plug(spec.name, self[spec.name].netns, spec.address)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(LabHost.start, self.hosts.values()))

    def _make_keys(self, specs: list[HostSpec]) -> None:
        keys = self.state / "keys"
        keys.mkdir()
        known = []
        for name in ["user", *(f"host-{spec.name}" for spec in specs)]:
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f",
                 str(keys / name)])  # fmt: skip
        for spec in specs:
            kind, key = (keys / f"host-{spec.name}.pub").read_text().split()[:2]
            known.append(f"{spec.name},{spec.address.partition('/')[0]} {kind} {key}\n")
        (keys / "known_hosts").write_text("".join(known))

    def down(self) -> None:
        """End every host and leave nothing: no process, mount, namespace, cgroup, veth or file."""
        failures: list[Exception] = []
        for host in self.hosts.values():
            try:
                host.stop()
            except Exception as failure:  # noqa: BLE001 - the other hosts must be ended all the same
                failures.append(failure)
            self.switch.unplug(host.netns)
        self.switch.down()
        if failures:
            raise failures[0]
        self.hosts.clear()
        shutil.rmtree(self.state, ignore_errors=True)


@contextmanager
def lab(name: str, *specs: HostSpec) -> Iterator[Lab]:
    """A lab for the length of a `with` block."""
    made = Lab.up(name, specs)
    try:
        yield made
    finally:
        made.down()
