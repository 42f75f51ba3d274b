"""Two virtual machines as the world that the end-to-end tests know (tests/e2e/world.py)."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.world import Hosts
from tests.lab.images import workload_image
from tests.vm.image import image
from tests.vm.machine import Client, Machine
from tests.vm.pair import Pair


class VmWorld(Hosts[Machine]):
    """Patient: these machines are 10 to 20 times slower than what runs on this machine. Workloads
    that ran at the lab's pace would take half of their time."""

    patience = 240.0
    move_timeout = 600.0
    pace = ("-e", "PAUSE=0.2")
    interval = 400

    def __init__(self, pair: Pair) -> None:
        self.pair = pair

    @property
    def a(self) -> Machine:
        return self.pair.a

    @property
    def b(self) -> Machine:
        return self.pair.b

    @property
    def client(self) -> Client:
        return self.pair.client

    def workload_image(self) -> Path:
        """Cut out of these machines' own tree, so that no lab's tree need be built."""
        return workload_image(image().tree)

    def cgroup(self, host: Machine, name: str) -> str:
        """Where the container's init is in the host's one hierarchy."""
        pid = self.inspect(host, name)["State"]["Pid"]
        return host.sh(f"cat /proc/{pid}/cgroup").removeprefix("0::")
