"""Podman's way: `container checkpoint --export`, scp, `container restore --import`.

podman and crun of Debian 13, the graph on ext4. The archive is written to a tmpfs; the images
before it, podman puts beside the container, on its graph.
"""

from __future__ import annotations

import shlex

from tests.bench.meters import CONTROLLERS
from tests.bench.peers.base import NAME, Moved, Mover, Switch
from tests.bench.plan import Workload
from tests.bench.world import KINDS, SSH_OPTIONS, container_command
from tests.lab.host import LabHost

NETWORK = "podnet"
SUBNET = "10.98.0.0/24"
FILE = "/run/bench-podman.tar.zst"
QUIET = "export PODMAN_IGNORE_CGROUPSV1_WARNING=1;"


class PodmanWay(Mover):
    address = "10.98.0.10"

    @property
    def shared_cgroup(self) -> str:  # type: ignore[override]
        """podman keeps the cgroup's name in the checkpoint, and the hosts share one kernel."""
        return f"{self.world.a.netns.rpartition('-')[0]}-pod"

    def prepare(self) -> None:
        a, b = self.world.a, self.world.b
        for host in (a, b):
            host.sh(f"{QUIET} podman network exists {NETWORK} ||"
                    f" podman network create --subnet {SUBNET} {NETWORK}")  # fmt: skip
        for kind in KINDS:
            # Saved and loaded, since an import of the same tar there would have another id.
            self.world.command(
                a,
                f"{QUIET} podman image exists {kind} || docker save {kind} | podman load -q;"
                f" podman save -q {kind} | ssh {SSH_OPTIONS} b 'podman load -q'",
            )

    def start(self, workload: Workload) -> None:
        words = ["podman", "run", "-d", "--name", NAME, "--network", NETWORK, "--ip", self.address,
                 "--cgroup-parent", f"/{self.shared_cgroup}", workload.kind,
                 *container_command(workload)]  # fmt: skip
        self.world.command(self.world.a, f"{QUIET} {shlex.join(words)} </dev/null")

    def move(
        self, workload: Workload, source: LabHost, to: LabHost, switch: Switch | None, limit: float
    ) -> Moved:
        script = f"""{QUIET}
            mark checkpoint
            podman container checkpoint --export {FILE} --compress zstd --tcp-established {NAME}
            mark copy
            scp -q {SSH_OPTIONS} {FILE} {to.name}:{FILE}
            mark restore
            ssh {SSH_OPTIONS} {to.name} '{QUIET} podman container restore --import {FILE} \\
                --tcp-established'
            mark running
            podman rm {NAME} >/dev/null
            rm {FILE}
            mark end"""
        return self.run_script(source, script, switch, limit)

    def remove(self) -> None:
        for host in (self.world.a, self.world.b):
            host.sh(f"{QUIET} podman rm -f -t 0 {NAME}; rm -f {FILE}", check=False)
        for name in CONTROLLERS:
            self.world.a.sh(f"rmdir /sys/fs/cgroup/{name}/{self.shared_cgroup}", check=False)
