"""The undo steps of a migration: plain data that can be written down, and what they do.

Each is idempotent and knows the thing that it undoes well enough not to touch another that has
taken its place since (ids, not names; pids with their start times).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from migrate import announce, forward, forward_store, netlock
from migrate.agent_link import AgentLink
from migrate.container_spec import RUNTIME
from migrate.docker_host import DockerHost
from migrate.errors import Busy, ContainerNotFound, FrontendUnfit, PlacementFailed
from migrate.frontend_record import Lead
from migrate.held_restore import PENDING
from migrate.messages import Done, EndForward, SwitchFrontend
from migrate.proc_text import stat_fields
from migrate.protocol import call
from migrate.run import run
from migrate.runtime import abort

ANSWER = 60.0  # seconds that another host may take


class Thaw(msgspec.Struct, frozen=True, tag="thaw"):
    """Let the container run again. `freezer`: its freezer cgroup directory."""

    freezer: str


class UnlockNetwork(msgspec.Struct, frozen=True, tag="unlock-network"):
    pid: int
    start_time: int


class RemoveTree(msgspec.Struct, frozen=True, tag="remove-tree"):
    path: str


class Unmount(msgspec.Struct, frozen=True, tag="unmount"):
    """Unmount and remove the mount point."""

    path: str


class RemoveContainer(msgspec.Struct, frozen=True, tag="remove-container"):
    container: str


class RemoveUnborn(msgspec.Struct, frozen=True, tag="remove-unborn"):
    """Remove a container that we may have created without learning its id: of that name, of our
    runtime, never started, and created after `since` (seconds since the epoch)."""

    name: str
    since: float


class RemoveImage(msgspec.Struct, frozen=True, tag="remove-image"):
    """`layers`: the diff ids; what the image is called is not known before it is loaded."""

    layers: tuple[str, ...]


class RenameBack(msgspec.Struct, frozen=True, tag="rename-back"):
    """A stopped container that was moved out of the way gets its name again."""

    container: str
    name: str


class RemoveNetwork(msgspec.Struct, frozen=True, tag="remove-network"):
    name: str


class RemoveVolume(msgspec.Struct, frozen=True, tag="remove-volume"):
    """A volume that was made for the container. One with something in it stays: that can only have
    come from another container."""

    name: str


class EndPending(msgspec.Struct, frozen=True, tag="end-pending"):
    """Give up the pending restore of a container (migrate/runtime.py)."""

    directory: str


class RestoreRestartPolicy(msgspec.Struct, frozen=True, tag="restart-policy"):
    container: str
    policy: dict[str, str | int]


class EndDump(msgspec.Struct, frozen=True, tag="end-dump"):
    """Wait for a CRIU that dumps: at its end it freezes what it found frozen, so a thaw before
    that would be lost. `start_time`: of its process `pid`."""

    pid: int
    start_time: int


class RestoreCpuLimit(msgspec.Struct, frozen=True, tag="cpu-limit"):
    """The container gets back the CPU time that it was denied (migrate/throttle.py).

    `path`: the file of its cgroup that holds the limit, `content`: what was in it. The path has the
    container's id in it, so it is never that of another one.
    """

    path: str
    content: str


class RemoveForward(msgspec.Struct, frozen=True, tag="remove-forward"):
    ident: str


class LeadAway(msgspec.Struct, frozen=True, tag="lead-away"):
    """A forward of which the container was to come home goes on to lead to its target."""

    ident: str


class EndForwardAt(msgspec.Struct, frozen=True, tag="end-forward-at"):
    """A forward that was laid at a third host, which is called `peer` in SSH."""

    peer: str
    ident: str


class SwitchFrontendBack(msgspec.Struct, frozen=True, tag="switch-frontend-back"):
    """The front ends at a host, which is called `peer` in SSH, lead to where they led before.
    `leads`: as they were to be changed."""

    peer: str
    leads: tuple[Lead, ...]


class StayHere(msgspec.Struct, frozen=True, tag="stay-here"):
    """Addresses that were to move with process `pid` of the container do not (announce.py)."""

    pid: int
    start_time: int
    stations: tuple[announce.Station, ...]


Step = (
    Thaw
    | UnlockNetwork
    | RemoveTree
    | Unmount
    | RemoveContainer
    | RemoveUnborn
    | RemoveImage
    | RenameBack
    | RemoveNetwork
    | RemoveVolume
    | EndPending
    | RestoreRestartPolicy
    | EndDump
    | RestoreCpuLimit
    | RemoveForward
    | LeadAway
    | EndForwardAt
    | SwitchFrontendBack
    | StayHere
)


def shared(step: Step) -> str:
    """What of a host a step takes away that other migrations may count on, "" for their own."""
    match step:
        case RemoveImage(layers):
            return shared_image(layers)
        case RemoveNetwork(name):
            return shared_network(name)
    return ""


def shared_image(layers: Sequence[str]) -> str:
    return "image " + " ".join(layers)


def shared_network(name: str) -> str:
    return f"network {name}"


def start_time(pid: int) -> int | None:
    """Clock ticks from boot to the start of a process, None when it is gone (proc_pid_stat(5))."""
    fields = stat_fields(pid)
    return int(fields[19]) if fields else None


def undo(step: Step) -> None:
    """Do one undo step; a thing that is gone already is no failure."""
    match step:
        case Thaw(freezer):
            thaw(freezer)
        case UnlockNetwork(pid, started):
            if start_time(pid) == started:
                netlock.unlock(pid)
        case RemoveTree(path):
            shutil.rmtree(path, ignore_errors=True)
        case Unmount(path):
            if os.path.ismount(path):
                run(["umount", "--lazy", path])
            shutil.rmtree(path, ignore_errors=True)
        case RemoveContainer(container):
            remove_container(DockerHost(), container, volumes=True)
            shutil.rmtree(PENDING / container, ignore_errors=True)  # what _end_pending has left
        case RemoveUnborn(name, since):
            _remove_unborn(name, since)
        case RemoveImage(layers):
            _remove_image(layers)
        case RenameBack(container, name):
            _rename_back(DockerHost(), container, name)
        case RemoveNetwork(name):
            _remove_network(name)
        case RemoveVolume(name):
            _remove_volume(name)
        case EndPending(directory):
            _end_pending(Path(directory))
        case RestoreRestartPolicy(container, policy):
            with contextlib.suppress(ContainerNotFound):
                DockerHost().set_restart_policy(container, policy)
        case EndDump(pid, started):
            _end_dump(pid, started)
        case RestoreCpuLimit(path, content):
            _restore_cpu_limit(Path(path), content)
        case RemoveForward(ident):
            forward.remove(ident)
        case LeadAway(ident):
            if record := forward_store.find(ident):
                forward.stay_away(record)
        case EndForwardAt(peer, ident):
            with AgentLink(peer) as link:
                link.greet()
                call(link.channel, EndForward(ident), Done, ANSWER)
        case SwitchFrontendBack(peer, leads):
            _lead_back(peer, leads)
        case StayHere(pid, started, stations):
            if start_time(pid) == started:
                announce.stay(pid, stations)


def _lead_back(peer: str, leads: tuple[Lead, ...]) -> None:
    """All at once. One that was removed or led elsewhere meanwhile is nothing of ours any more, and
    must not keep the others where they are."""
    try:
        with AgentLink(peer) as link:
            link.greet()
            back = tuple(lead.back() for lead in leads)
            call(link.channel, SwitchFrontend(back), Done, ANSWER)
    except FrontendUnfit:
        for lead in leads if len(leads) > 1 else ():
            _lead_back(peer, (lead,))


def _restore_cpu_limit(path: Path, content: str) -> None:
    """A cgroup that has gone meanwhile (ENODEV: just now) needs no limit, and gets no file."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_TRUNC)
    except FileNotFoundError:
        return
    try:
        os.write(fd, content.encode())
    except OSError as problem:
        if problem.errno != errno.ENODEV:
            raise
    finally:
        os.close(fd)


def _end_dump(pid: int, started: int, patience: float = 60.0) -> None:
    """Killed only when it hangs: then it leaves its own lock of the network (netlock.unlock)."""
    deadline = time.monotonic() + patience
    while start_time(pid) == started and not _is_zombie(pid):
        if time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            deadline += 5.0
        time.sleep(0.01)


def _is_zombie(pid: int) -> bool:
    fields = stat_fields(pid)
    return fields is None or fields[0] == "Z"


def thaw(freezer: str) -> None:
    """Let a frozen cgroup run: `freezer.state` of v1, `cgroup.freeze` of v2."""
    for name, word in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
        path = Path(freezer, name)
        if path.exists():
            path.write_text(word)


def is_frozen(freezer: str) -> bool:
    """Whether somebody has frozen a cgroup, as `docker pause` does."""
    for name, word in (("freezer.state", "FROZEN"), ("cgroup.freeze", "1")):
        with contextlib.suppress(OSError):
            return Path(freezer, name).read_text().strip() == word
    return False


def freeze(freezer: str, timeout: float = 10.0) -> bool:
    """Freeze a cgroup and wait until all of its tasks stand still; False when they do not."""
    v1, v2 = Path(freezer, "freezer.state"), Path(freezer, "cgroup.freeze")
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if v1.exists():
            v1.write_text("FROZEN")
            if v1.read_text().strip() == "FROZEN":
                return True
        elif v2.exists():
            v2.write_text("1")
            if "frozen 1" in Path(freezer, "cgroup.events").read_text():
                return True
        else:
            return False
        time.sleep(0.0005)
    return False


def remove_container(
    docker: DockerHost, container: str, *, volumes: bool = False, timeout: float = 20.0
) -> None:
    """Remove a container, running or not, and wait for a removal that is under way already: that of
    `docker run --rm`, which Docker does itself as soon as it has ended."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            docker.remove(container, force=True, volumes=volumes)
        except Busy:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def _remove_unborn(name: str, since: float) -> None:
    docker = DockerHost()
    try:
        found = docker.inspect_container(name)
    except ContainerNotFound:
        return
    ours = found["HostConfig"].get("Runtime") == RUNTIME and found["State"]["Status"] == "created"
    if ours and created_at(found) >= since - 1:
        remove_container(docker, found["Id"], volumes=True)


def created_at(inspected: Mapping[str, Any]) -> float:
    """When a container was created, in seconds since the epoch (Docker gives RFC 3339, ns)."""
    text = str(inspected["Created"])
    return datetime.fromisoformat(re.sub(r"(\.\d{1,6})\d*", r"\1", text)).timestamp()


def _rename_back(docker: DockerHost, container: str, name: str) -> None:
    """Docker refuses to give a container the name that it has (moby, daemon/rename.go)."""
    with contextlib.suppress(ContainerNotFound):
        if docker.inspect_container(container)["Name"] != f"/{name}":
            docker.rename(container, name)


def _remove_volume(name: str) -> None:
    docker = DockerHost()
    with contextlib.suppress(PlacementFailed):  # there is none
        if docker.volume_is_empty(name):
            docker.remove_volume(name)


def _remove_network(name: str) -> None:
    """Docker itself takes a network away from containers that are created and not started."""
    docker = DockerHost()
    if not any(name in networks_of(one) for one in docker.containers()):
        with contextlib.suppress(Busy):  # it has come into use just now
            docker.remove_network(name)


def networks_of(listed: Mapping[str, Any]) -> Mapping[str, Any]:
    """The networks, by name, of a container as `GET /containers/json` lists it."""
    networks: Mapping[str, Any] = (listed.get("NetworkSettings") or {}).get("Networks") or {}
    return networks


def _remove_image(layers: tuple[str, ...]) -> None:
    docker = DockerHost()
    for image in docker.images_view():
        if image.layers == layers:
            docker.remove_image(image.id)


def _end_pending(directory: Path) -> None:
    if directory.exists():
        abort(directory, may_come=True)
