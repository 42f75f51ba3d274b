"""Ends the forward to a container that has ended. Started by our OCI runtime (bin/migrate-runc),
which containerd calls whenever a container of ours ends: no process has to watch.

    python3 -m migrate.forward_end CONTAINER_ID
"""

from __future__ import annotations

import fcntl
import os
import sys
import time

from migrate.cli import with_sbin
from migrate.docker_host import DockerHost
from migrate.errors import ContainerNotFound
from migrate.forward import WATCHED
from migrate.forward_upkeep import end_both, forward_to
from migrate.guard import LOG

GRACE = 3.0  # seconds: `docker restart` ends a container and starts it again
POLL = 1.0


def comes_back(container: str, docker: DockerHost) -> bool:
    """Whether it runs again, or will: Docker restarts some with pauses of up to a minute."""
    while True:
        try:
            state = docker.inspect_container(container)["State"]
        except ContainerNotFound:
            return False
        if not state.get("Restarting"):
            return bool(state.get("Running"))
        time.sleep(POLL)


def main() -> int:
    container = sys.argv[1]
    os.environ["PATH"] = with_sbin(os.environ.get("PATH", os.defpath))
    try:
        watched = (WATCHED / container).open("r+")
    except FileNotFoundError:
        return 0
    with watched:
        try:
            fcntl.flock(watched, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0  # another one of us is at it: it has been restarted many times
        time.sleep(GRACE)
        record = forward_to(container)
        if record and not comes_back(container, DockerHost()):
            said = f"forward {record.id} ended with its container {record.name}; {end_both(record)}"
            with LOG.open("a") as log:
                log.write(f"{time.strftime('%F %T')} {said.rstrip('; ')}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
