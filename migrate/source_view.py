"""What the source must know of its container before it moves: read-only."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migrate.container_limits import obstacles, refuse, remaps_users
from migrate.container_spec import ContainerSpec, make_spec
from migrate.criu import DumpTarget, find_target
from migrate.criu_options import parse_mountinfo, upper_directory
from migrate.docker_host import DockerHost, is_empty
from migrate.errors import Busy, ContainerNotFound, ContainerNotRunning, Unsupported
from migrate.host_facts import HostFacts
from migrate.host_findings import findings
from migrate.preflight import Usage
from migrate.quiet_moment import between_health_checks
from migrate.undo import start_time

SHORT_ID = 12  # digits


@dataclass(frozen=True)
class SourceView:
    """A container that can be moved. `upper`: its writable layer; `started`: of `target.pid`;
    `volumes`: directories on this host of its volumes, all of them empty."""

    inspect: dict[str, Any]
    spec: ContainerSpec
    target: DumpTarget
    upper: Path
    started: int
    usage: Usage
    volumes: tuple[str, ...] = ()

    def check_volumes(self) -> None:
        """Raise Unsupported when one that was empty is so no more: its content does not move.

        Asked in the freeze, beside the dump: about 10 us for each.
        """
        for directory in self.volumes:
            if not is_empty(directory):
                raise Unsupported(
                    f"something was written into the volume at {directory} meanwhile, and volumes "
                    "do not move yet",
                    "it runs on as before; empty the volume, or let the container do without it",
                )


def look(docker: DockerHost, name: str) -> SourceView:
    """Look at a container on this host.

    Raises ContainerNotFound, ContainerNotRunning or Unsupported, whichever is the first reason why
    it cannot be moved.
    """
    try:
        return _look(docker, name)
    except (FileNotFoundError, ProcessLookupError, Unsupported) as gone:
        try:
            runs = bool(docker.inspect_container(name)["State"].get("Running"))
        except ContainerNotFound:  # it was run with --rm
            runs = False
        if isinstance(gone, Unsupported) and runs:
            raise
        raise ContainerNotRunning(f"the container `{name}` has just ended") from gone


def _look(docker: DockerHost, name: str) -> SourceView:
    container = between_health_checks(docker, name)
    if container["Name"] != f"/{name}" and len(name) < SHORT_ID:
        # Docker takes any start of an id, so that `db` would mean another one when `db` is gone.
        raise ContainerNotFound(
            f"no container is called `{name}`",
            f"an id needs {SHORT_ID} digits at least, as `docker ps` shows them",
        )
    networks = [
        docker.inspect_network(network)
        for network in (container["NetworkSettings"].get("Networks") or {})
    ]
    mounts = container.get("Mounts") or ()
    volumes = [m["Name"] for m in mounts if m.get("Type") == "volume"]
    empty = [volume for volume in volumes if docker.volume_is_empty(volume)]
    pid = int(container["State"].get("Pid") or 0)
    refuse(
        obstacles(
            container, networks, empty_volumes=empty, shm_used=_shm_used(container, pid),
            userns_remap=remaps_users(docker.info()),
        )
    )  # fmt: skip
    started = start_time(pid)
    if started is None:
        raise ContainerNotRunning(f"the container `{name}` has just ended")
    image = docker.inspect_image(container["Image"])
    spec = make_spec(container, image, networks, empty_volumes=empty)
    target = find_target(container["Id"], pid)
    upper = upper_directory(parse_mountinfo(Path(f"/proc/{pid}/mountinfo").read_text()))
    if upper is None:
        raise Unsupported(
            f"the root of container `{spec.name}` is no overlayfs",
            "use Docker's overlay2 storage driver or containerd's overlayfs snapshotter",
        )
    memory, swapped = memory_of(tasks(target.freezer) or [pid])
    memory += tmpfs_used(pid)
    return SourceView(
        inspect=container,
        spec=spec,
        target=target,
        upper=Path(upper),
        started=started,
        usage=Usage(
            memory=memory,
            swapped=swapped,
            images=memory + swapped,
            files=_size(Path(upper)),
            image=int(image.get("Size") or 0),
        ),
        volumes=tuple(str(m["Source"]) for m in mounts if m.get("Type") == "volume"),
    )


def check_here(here: HostFacts, view: SourceView, tcp: str) -> None:
    """Whether this host can send the container away, `tcp` connections `established` or `close`.

    Raises the failure of the first finding that is not ok, Busy, or Unsupported.
    """
    for finding in findings(here):
        # This host needs no runtime to send a container away.
        if not finding.ok and finding.code != "RuntimeMissing":
            raise finding.failure()
    if waits_for_pages(tasks(view.target.freezer)):
        # Neither CRIU nor we would see a page that has not come yet: it would arrive as zeros.
        raise Busy(
            f"the memory of container `{view.spec.name}` is still being filled in after its last "
            "move",
            "try again in some seconds",
        )
    count = open_connections(view.target.pid) if view.spec.address_may_change else 0
    if tcp == "established" and count:
        raise Unsupported(
            f"container `{view.spec.name}` has {count} open TCP connections on Docker's "
            "default bridge, where it cannot keep its address",
            "put it into a network of its own (docker network create), or give "
            "--tcp close to drop them",
        )


def tasks(freezer: str | None) -> list[int]:
    """The processes of a cgroup and those below it."""
    pids: list[int] = []
    for directory, _, files in os.walk(freezer or ""):
        if "cgroup.procs" in files:
            pids += [int(p) for p in Path(directory, "cgroup.procs").read_text().split()]
    return pids


def memory_of(pids: Iterable[int]) -> tuple[int, int]:
    """Bytes that some processes have in memory and in swap, as far as they move: without the pages
    of files. What was shared by fork counts for each process, since the destination keeps it for
    each; a shared segment counts once, however many map it.

    Sources: proc_pid_status(5), RssAnon and VmSwap; proc_pid_smaps(5), Pss_Shmem.
    """
    resident = swapped = 0
    for pid in pids:
        try:
            status = _kilobytes(f"/proc/{pid}/status")
            rollup = _kilobytes(f"/proc/{pid}/smaps_rollup")
        except (FileNotFoundError, ProcessLookupError):
            continue
        resident += status.get("RssAnon", 0) + rollup.get("Pss_Shmem", 0) << 10
        swapped += status.get("VmSwap", 0) << 10
    return resident, swapped


def _kilobytes(path: str) -> dict[str, int]:
    lines = (line.split() for line in Path(path).read_text().splitlines())
    return {words[0][:-1]: int(words[1]) for words in lines if words[-1] == "kB"}


def waits_for_pages(pids: Iterable[int]) -> bool:
    """Whether a userfaultfd is to give one of these processes pages that it does not have yet
    (proc_pid_smaps(5): `um` of VmFlags)."""
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{pid}/smaps") as smaps:
            if any(line.startswith("VmFlags:") and "um" in line.split() for line in smaps):
                return True
    return False


def tmpfs_used(pid: int) -> int:
    """Bytes that lie in the tmpfs of a process's mounts: CRIU puts them among its images. What is
    mapped as well counts twice."""
    used: dict[int, int] = {}
    for mount in parse_mountinfo(Path(f"/proc/{pid}/mountinfo").read_text()):
        if mount.fstype == "tmpfs":
            with suppress(OSError):  # over-mounted, or gone
                path = f"/proc/{pid}/root{mount.mountpoint}"
                stat = os.statvfs(path)
                used[os.stat(path).st_dev] = (stat.f_blocks - stat.f_bfree) * stat.f_frsize
    return sum(used.values())


def _shm_used(container: dict[str, Any], pid: int) -> int:
    """Bytes in /dev/shm, where it is a mount of the host's (a shareable IPC namespace)."""
    path = container.get("HostConfig", {}).get("IpcMode") == "shareable" and pid
    if not path:
        return 0
    stat = os.statvfs(f"/proc/{pid}/root/dev/shm")
    return (stat.f_blocks - stat.f_bfree) * stat.f_frsize


def _size(top: Path) -> int:
    total = 0
    for directory, _, files in os.walk(top):
        for name in files:
            try:
                total += os.lstat(os.path.join(directory, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total


def open_connections(pid: int) -> int:
    """Established TCP connections of a network namespace, but those within it (proc_net_tcp(5))."""
    count = 0
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        except FileNotFoundError:
            continue
        for line in lines:
            local, state = line.split()[1].partition(":")[0], line.split()[3]
            # Addresses are words in host byte order: 127.x ends in 7F, ::1 in 01000000.
            ipv4 = local.removeprefix("0" * 16 + "FFFF0000")
            loopback = (len(ipv4) == 8 and ipv4[6:] == "7F") or local == "0" * 24 + "01000000"
            count += state == "01" and not loopback
    return count
