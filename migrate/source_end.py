"""The end of the source's copy, once the destination runs it: it must never execute again."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from migrate import hooks
from migrate.docker_host import DockerHost
from migrate.errors import ContainerNotFound, HookFailed
from migrate.journal import Journal
from migrate.network_move import Ending
from migrate.undo import remove_container, thaw


def kill_frozen(freezer: str) -> int:
    """Send SIGKILL to every task of a frozen cgroup, so that none executes when it is thawed.

    (`docker kill` signals only init; its children would run on until init's death reaches them.)
    Gives the number of processes.
    """
    killed = 0
    for directory, _, files in os.walk(freezer):
        if "cgroup.procs" in files:
            for pid in Path(directory, "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
                    killed += 1
    return killed


def end_source_copy(journal: Journal) -> list[str]:
    """Kill the frozen copy, then remove the container, or leave it stopped when it is to be kept.

    Its clients' connections are held over that (migrate/network_move.py). Idempotent. Gives
    warnings: what the user's hooks said.
    """
    warnings = run_hooks(journal, hooks.COMMIT)  # unless they ran already
    network = Ending(journal.header)
    network.hold()
    _end(journal)
    network.settle()
    return warnings + run_hooks(journal, hooks.CONFIRM)


def run_hooks(journal: Journal, phase: str) -> list[str]:
    """Run the user's hooks of a phase in which a failure can only be said any more."""
    try:
        hooks.run_phase(journal, phase)
    except HookFailed as failure:
        return [failure.message]
    return []


def _end(journal: Journal) -> None:
    """A restart policy is switched off first: Docker would bring the killed copy up again."""
    container, keep = journal.header.container, journal.header.keep
    docker = DockerHost()
    try:
        found = docker.inspect_container(container)
    except ContainerNotFound:
        return
    policy = (found["HostConfig"].get("RestartPolicy") or {}).get("Name", "no")
    if policy not in ("", "no") and not found["HostConfig"].get("AutoRemove"):
        docker.set_restart_policy(container, {"Name": "no"})
    if found["State"].get("Running"):
        kill_frozen(journal.header.freezer)
        thaw(journal.header.freezer)  # a frozen task does not even die (v1 freezer)
        if keep:
            docker.kill(container)
    if not keep:
        # With its anonymous volumes: they are empty, or it would not have been moved.
        remove_container(docker, container, volumes=True)
