"""Podman's way: `container checkpoint --export`, scp, `container restore --import`.

podman and crun of Debian 13, the graph on ext4. The archive is written to a tmpfs; the images
before it, podman puts beside the container, on its graph.

crun refuses "hybrid" cgroups as long as the v2 hierarchy has a controller, so podman gets a mount
namespace without that hierarchy. Its container must not be in the v2 root for that: CRIU would dump
the cgroups of the whole machine with it, and restore them all, twice as many each time.
"""

from __future__ import annotations

import shlex

from tests.bench.peers.base import NAME, Moved, Mover, Switch
from tests.bench.plan import Workload
from tests.bench.world import KINDS, SSH_OPTIONS, container_command
from tests.lab.host import LabHost

NETWORK = "podnet"
SUBNET = "10.98.0.0/24"
FILE = "/run/bench-podman.tar.zst"
PODMAN = "/usr/local/bin/bench-podman"
MOUNTS = "/run/bench-podman.pid"
UNIFIED = "/sys/fs/cgroup/unified"
WRAPPER = f"""#!/bin/sh
export PODMAN_IGNORE_CGROUPSV1_WARNING=1
[ ! -d {UNIFIED}/@PARENT@ ] || echo $$ > {UNIFIED}/@PARENT@/cgroup.procs
exec nsenter -t $(cat {MOUNTS}) -m -- podman "$@"
"""
HOLDER = f"! mountpoint -q {UNIFIED} || umount {UNIFIED}; echo $$ > {MOUNTS}; exec sleep infinity"


class PodmanWay(Mover):
    address = "10.98.0.10"

    @property
    def shared_cgroup(self) -> str:  # type: ignore[override]
        """podman keeps the cgroup's name in the checkpoint, and the hosts share one kernel."""
        return f"{self.world.a.netns.rpartition('-')[0]}-pod"

    def prepare(self) -> None:
        a, b = self.world.a, self.world.b
        for host in (a, b):
            host.write(PODMAN, WRAPPER.replace("@PARENT@", self.shared_cgroup), mode=0o755)
            namespace = ["unshare", "-m", "--propagation", "private", "sh", "-ec", HOLDER]
            host.spawn(namespace, "podman-mounts")
            host.sh(f"""for n in $(seq 100); do [ ! -s {MOUNTS} ] || break; sleep 0.1; done
                {PODMAN} network exists {NETWORK} ||
                    {PODMAN} network create --subnet {SUBNET} {NETWORK}""")
        for kind in KINDS:
            # Saved and loaded, since an import of the same tar there would have another id.
            self.world.command(
                a,
                f"{PODMAN} image exists {kind} || docker save {kind} | {PODMAN} load -q;"
                f" {PODMAN} save -q {kind} | ssh {SSH_OPTIONS} b '{PODMAN} load -q'",
            )

    def _make_cgroup(self) -> str:
        """Shell: the v2 cgroup that the wrapper joins."""
        return f"! mountpoint -q {UNIFIED} || mkdir -p {UNIFIED}/{self.shared_cgroup};"

    def start(self, workload: Workload) -> None:
        words = [PODMAN, "run", "-d", "--name", NAME, "--network", NETWORK, "--ip", self.address,
                 "--cgroup-parent", f"/{self.shared_cgroup}", workload.kind,
                 *container_command(workload)]  # fmt: skip
        self.world.command(self.world.a, f"{self._make_cgroup()} {shlex.join(words)} </dev/null")

    def move(
        self, workload: Workload, source: LabHost, to: LabHost, switch: Switch | None, limit: float
    ) -> Moved:
        script = f"""
            mark checkpoint
            {PODMAN} container checkpoint --export {FILE} --compress zstd --tcp-established {NAME}
            mark copy
            scp -q {SSH_OPTIONS} {FILE} {to.name}:{FILE}
            mark restore
            ssh {SSH_OPTIONS} {to.name} '{PODMAN} container restore --import {FILE} \\
                --tcp-established'
            mark running
            {PODMAN} rm {NAME} >/dev/null
            rm {FILE}
            mark end"""
        return self.run_script(source, script, switch, limit)

    def remove(self) -> None:
        for host in (self.world.a, self.world.b):
            host.sh(f"{PODMAN} rm -f -t 0 {NAME}; rm -f {FILE}", check=False)
        # Not the lab's to clean up: it bears no host's name.
        self.world.a.sh(
            f"for d in /sys/fs/cgroup/*/{self.shared_cgroup}; do"
            " find $d -depth -type d -exec rmdir {} +; done",
            check=False,
        )
