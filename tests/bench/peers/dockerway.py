"""Docker's own way: `docker checkpoint create`, rsync over ssh, `docker start --checkpoint`.

Experimental, and broken since Docker 28 (docs/criu-notes.md), so the hosts have Docker 26.
`docker start` accepts no --checkpoint-dir, so the images lie on Docker's disk.
"""

from __future__ import annotations

import shlex

from tests.bench.peers.base import NAME, Moved, Mover, Switch
from tests.bench.plan import Workload
from tests.bench.world import SSH_OPTIONS, container_command
from tests.lab.host import LabHost

NETWORK = "appnet"
SUBNET = "10.99.0.0/24"
ADDRESS = "10.99.0.10"
CRIU_CONF = "/etc/criu/runc.conf"


def create_words(workload: Workload, address: str) -> str:
    """What follows `docker create` or `docker run`."""
    words = ["--name", NAME, "--network", NETWORK, "--ip", address, workload.kind]
    return shlex.join([*words, *container_command(workload)])


class DockerWay(Mover):
    address = ADDRESS

    def prepare(self) -> None:
        for host in (self.world.a, self.world.b):
            host.sh(f"docker network inspect {NETWORK} >/dev/null 2>&1 ||"
                    f" docker network create --subnet {SUBNET} {NETWORK}")  # fmt: skip

    def start(self, workload: Workload) -> None:
        # docker has no option for it, and runc reads this file.
        for host in (self.world.a, self.world.b):
            host.write(CRIU_CONF, "tcp-established\nskip-in-flight\n")
        self.world.a.run(["sh", "-c", f"docker run -d {create_words(workload, ADDRESS)}"])

    def move(
        self, workload: Workload, source: LabHost, to: LabHost, switch: Switch | None, limit: float
    ) -> Moved:
        create = shlex.quote(f"docker create {create_words(workload, ADDRESS)}")
        upper = "docker inspect -f '{{.GraphDriver.Data.UpperDir}}' " + NAME
        # Docker moves no files of the writable layer; CRIU wants what is open to be there.
        files = f"""rsync -a -e 'ssh {SSH_OPTIONS}' $({upper})/ \\
                {to.name}:$(ssh {SSH_OPTIONS} {to.name} {shlex.quote(upper)})/"""
        script = f"""
            old=$(docker inspect -f '{{{{.Id}}}}' {NAME})
            mark create
            new=$(ssh {SSH_OPTIONS} {to.name} {create})
            mark checkpoint
            docker checkpoint create {NAME} cp >/dev/null
            mark copy
            rsync -a --whole-file --compress --zc=zstd --zl=1 -e 'ssh {SSH_OPTIONS}' \\
                /var/lib/docker/containers/$old/checkpoints/cp \\
                {to.name}:/var/lib/docker/containers/$new/checkpoints/
            {files if workload.writes_files else ""}
            mark restore
            ssh {SSH_OPTIONS} {to.name} docker start --checkpoint cp {NAME}
            mark running
            docker rm {NAME} >/dev/null
            mark end"""
        return self.run_script(source, script, switch, limit)

    def remove(self) -> None:
        for host in (self.world.a, self.world.b):
            host.sh(f"rm -f {CRIU_CONF}; docker rm -f {NAME}", check=False)
