"""The hand-made way: `runc checkpoint`, `tar | zstd | ssh`, `runc restore`, no engine at all.

What a person who knows CRIU would write: images on tmpfs, a network namespace with the same address
made at the other host beforehand.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

from tests.bench.images import image
from tests.bench.peers.base import NAME, Moved, Mover, Switch
from tests.bench.plan import Workload
from tests.bench.world import KINDS, SSH_OPTIONS, container_command
from tests.lab.host import LabHost

NETNS = "benchapp"
GATEWAY = "10.97.0.1"
BUNDLES = "/var/lib/docker/bench-bundles"  # ext4, as the others' file systems
IMAGES = "/run/bench-images"
RUN = "</dev/null >/dev/null 2>/run/bench-runc.log"
# runc's own words name only CRIU's log.
EXPLAIN = f"cat /run/bench-runc.log >&2; grep -h -m 2 Error {IMAGES}/*.log >&2; exit 1"


class RuncWay(Mover):
    address = "10.97.0.10"

    def prepare(self) -> None:
        for host in (self.world.a, self.world.b):
            for kind in KINDS:
                host.sh(f"mkdir -p {BUNDLES}/{kind}/rootfs")
                with image(kind).open("rb") as tar:
                    subprocess.run(
                        host.enter(["tar", "-C", f"{BUNDLES}/{kind}/rootfs", "-x"]),
                        stdin=tar, check=True, timeout=60,
                    )  # fmt: skip

    def _make_netns(self, host: LabHost) -> None:
        """For each container anew: CRIU's network lock stays in one that outlives its process."""
        host.sh(
            f"""set -e
            ip netns add {NETNS}
            ip link add bench0 type veth peer name eth0 netns {NETNS}
            ip address add {GATEWAY}/24 dev bench0
            ip link set bench0 up
            ip -n {NETNS} address add {self.address}/24 dev eth0
            ip -n {NETNS} link set eth0 up
            ip -n {NETNS} link set lo up
            ip -n {NETNS} route add default via {GATEWAY}"""
        )

    def _bundle(self, host: LabHost, workload: Workload) -> str:
        """Write the container's config.json on a host; gives the bundle's path."""
        bundle = f"{BUNDLES}/{workload.kind}"
        host.sh(f"cd {bundle} && rm -f config.json && runc spec")
        spec = json.loads(host.path(f"{bundle}/config.json").read_text())
        host.write(f"{bundle}/config.json", json.dumps(configured(spec, workload, host.cgroup)))
        return bundle

    def start(self, workload: Workload) -> None:
        for host in (self.world.a, self.world.b):
            self._make_netns(host)
        bundles = [self._bundle(host, workload) for host in (self.world.a, self.world.b)]
        # No file of the host on its fds: CRIU could not find it again.
        run = f"runc run --detach --bundle {bundles[0]} {NAME} </dev/null >/dev/null 2>&1"
        self.world.command(self.world.a, run)

    def move(
        self, workload: Workload, source: LabHost, to: LabHost, switch: Switch | None, limit: float
    ) -> Moved:
        bundle = f"{BUNDLES}/{workload.kind}"
        files = f"rsync -a -e 'ssh {SSH_OPTIONS}' {bundle}/rootfs/ {to.name}:{bundle}/rootfs/"
        script = f"""
            mkdir -p {IMAGES}
            mark checkpoint
            runc checkpoint --tcp-established --file-locks --image-path {IMAGES} \\
                --work-path {IMAGES} {NAME} {RUN} || {{ {EXPLAIN}; }}
            mark copy
            tar -C {IMAGES} -c . | zstd -q -1 -T0 | ssh {SSH_OPTIONS} {to.name} \\
                'mkdir -p {IMAGES} && zstd -q -d | tar -C {IMAGES} -x'
            {files if workload.writes_files else ""}
            mark restore
            ssh {SSH_OPTIONS} {to.name} 'runc restore --detach --tcp-established --file-locks \\
                --image-path {IMAGES} --work-path {IMAGES} --bundle {bundle} {NAME} {RUN} \\
                || {{ {EXPLAIN}; }}'
            mark running
            rm -r {IMAGES}
            runc delete --force {NAME}
            mark end"""
        return self.run_script(source, script, switch, limit)

    def remove(self) -> None:
        for host in (self.world.a, self.world.b):
            host.sh(
                f"runc delete --force {NAME}; rm -rf {IMAGES}; ip netns delete {NETNS}", check=False
            )


def configured(spec: dict[str, Any], workload: Workload, cgroup: str) -> dict[str, Any]:
    """`runc spec`'s configuration, made to run the workload in the network namespace."""
    spec["process"]["terminal"] = False
    spec["process"]["args"] = container_command(workload)
    # The game server writes to its home; the others would not mind.
    spec["root"] = {"path": "rootfs", "readonly": False}
    spec["linux"]["cgroupsPath"] = f"/{cgroup}/{NAME}"
    for namespace in spec["linux"]["namespaces"]:
        if namespace["type"] == "network":
            namespace["path"] = f"/run/netns/{NETNS}"
    return spec
