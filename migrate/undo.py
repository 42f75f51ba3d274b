"""The undo steps of a migration: plain data that can be written down, and what they do.

Each is idempotent and knows the thing that it undoes well enough not to touch another that has
taken its place since (ids, not names; pids with their start times).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import msgspec

from migrate import netlock
from migrate.docker_host import DockerHost
from migrate.errors import ContainerNotFound
from migrate.run import run


class Unpause(msgspec.Struct, frozen=True, tag="unpause"):
    """Let the container run again. `freezer`: its freezer cgroup directory, or ''."""

    container: str
    freezer: str = ""


class UnlockNetwork(msgspec.Struct, frozen=True, tag="unlock-network"):
    pid: int
    start_time: int


class RemoveTree(msgspec.Struct, frozen=True, tag="remove-tree"):
    path: str


class Unmount(msgspec.Struct, frozen=True, tag="unmount"):
    """Unmount and remove the mount point."""

    path: str


class RemoveContainer(msgspec.Struct, frozen=True, tag="remove-container"):
    """`name`: with `container` empty (it died before the id was known) the label decides."""

    container: str
    session: str


class RemoveNetwork(msgspec.Struct, frozen=True, tag="remove-network"):
    name: str


class EndPending(msgspec.Struct, frozen=True, tag="end-pending"):
    """Give up the pending restore of a container (migrate/runtime.py)."""

    directory: str


class RestoreRestartPolicy(msgspec.Struct, frozen=True, tag="restart-policy"):
    container: str
    policy: dict[str, str | int]


class KillProcess(msgspec.Struct, frozen=True, tag="kill-process"):
    pid: int
    start_time: int


Step = (
    Unpause
    | UnlockNetwork
    | RemoveTree
    | Unmount
    | RemoveContainer
    | RemoveNetwork
    | EndPending
    | RestoreRestartPolicy
    | KillProcess
)

SESSION_LABEL = "migrate.session"


def start_time(pid: int) -> int | None:
    """Clock ticks since boot at which a process started, None when it is gone (proc_pid_stat(5))."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(fields[19])


def undo(step: Step) -> None:
    """Do one undo step; a thing that is gone already is no failure."""
    match step:
        case Unpause(container, freezer):
            _unpause(container, freezer)
        case UnlockNetwork(pid, started):
            if start_time(pid) == started:
                netlock.unlock(pid)
        case RemoveTree(path):
            shutil.rmtree(path, ignore_errors=True)
        case Unmount(path):
            if os.path.ismount(path):
                run(["umount", "--lazy", path])
            shutil.rmtree(path, ignore_errors=True)
        case RemoveContainer(container, session):
            _remove_container(container, session)
        case RemoveNetwork(name):
            DockerHost().remove_network(name)
        case EndPending(directory):
            _end_pending(Path(directory))
        case RestoreRestartPolicy(container, policy):
            _forgiving(lambda: DockerHost().set_restart_policy(container, policy))
        case KillProcess(pid, started):
            if start_time(pid) == started:
                os.kill(pid, signal.SIGKILL)


def _forgiving(action: object) -> None:
    try:
        action()  # type: ignore[operator]
    except ContainerNotFound:
        pass


def _unpause(container: str, freezer: str) -> None:
    docker = DockerHost()
    try:
        state = docker.inspect_container(container)["State"]
    except ContainerNotFound:
        return
    if state.get("Paused"):
        docker.unpause(container)
    elif freezer:
        thaw(freezer)


def thaw(freezer: str) -> None:
    """Let a frozen cgroup run: `freezer.state` of v1, `cgroup.freeze` of v2."""
    for name, word in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
        path = Path(freezer, name)
        if path.exists():
            path.write_text(word)


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


def _remove_container(container: str, session: str) -> None:
    docker = DockerHost()
    victims = [container] if container else []
    for listed in docker.containers():
        if (listed.get("Labels") or {}).get(SESSION_LABEL) == session:
            victims.append(str(listed["Id"]))
    for victim in dict.fromkeys(victims):
        try:
            docker.remove(victim, force=True, volumes=True)
        except ContainerNotFound:
            continue


def _end_pending(directory: Path) -> None:
    """As the runtime's `kill` does it; in a process of its own, for it waits for the supervisor."""
    if directory.exists():
        code = "import sys; from pathlib import Path; from migrate.runtime import abort; abort(Path(sys.argv[1]))"
        import sys

        subprocess.run([sys.executable, "-I", "-c", code, str(directory)], check=False, timeout=30)
