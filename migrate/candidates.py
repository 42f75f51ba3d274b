"""The containers of this host that are to leave: which ones are meant, and what each of them needs.

`choose` is pure; `look_at` looks, at each as `migrate move` will.
"""

from __future__ import annotations

import fnmatch
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migrate.docker_host import DockerHost
from migrate.errors import (
    CommandFailed,
    ContainerNotFound,
    ContainerNotRunning,
)
from migrate.host_facts import HostFacts
from migrate.pairing import Candidate
from migrate.proc_text import PROC, stat_fields
from migrate.source_view import SourceView, check_here, look, open_connections, tasks
from transport.errors import Failure

COMPOSE = "com.docker.compose."
# What looking can end with when the container goes: our failures, and those of reading /proc.
_LOOKING = (Failure, OSError, IndexError, ValueError)
SAMPLE = 0.5  # seconds over which the use of the CPUs is measured
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Wish:
    """Which containers: all, or those that some option names; never what `exclude` names.

    `names`, `exclude`: patterns of the shell; `labels`: `KEY` or `KEY=VALUE`; `projects`: of
    compose. Several options of one kind are alternatives, several kinds must all hold.
    """

    names: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    projects: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class Immovable:
    """A container that was meant and cannot leave this host, whatever other hosts there are.

    `gone`: because it has ended, or was removed, while it was looked at.
    """

    name: str
    failure: Failure
    project: str = ""
    gone: bool = False


def choose(listed: Sequence[Mapping[str, Any]], wish: Wish) -> list[str]:
    """The names of the running containers that are meant, of `GET /containers/json`; sorted."""
    return sorted(
        name_of(item) for item in listed
        if item.get("State") in ("running", "paused", "restarting") and _meant(item, wish)
    )  # fmt: skip


def unmatched(listed: Sequence[Mapping[str, Any]], wish: Wish) -> list[str]:
    """A sentence about each option of the wish that no running container matches, or about all of
    them together when each has its own; `listed` as in `choose`."""
    kinds = {
        "--name": [(one, Wish(names=(one,))) for one in wish.names],
        "--label": [(one, Wish(labels=(one,))) for one in wish.labels],
        "--project": [(one, Wish(projects=(one,))) for one in wish.projects],
    }
    said = [
        f"no running container matches {option} {value}"
        for option, wishes in kinds.items() for value, alone in wishes if not choose(listed, alone)
    ]  # fmt: skip
    given = [option for option, wishes in kinds.items() if wishes]
    given += ["--exclude"] * bool(wish.exclude)
    if not said and len(given) > 1 and not choose(listed, wish):
        said.append(f"no running container is left by {', '.join(given)} together")
    return said


def name_of(item: Mapping[str, Any]) -> str:
    """A container's own name; those with a second slash are links seen from others."""
    names = [str(name).removeprefix("/") for name in item.get("Names") or ()]
    return next((name for name in names if "/" not in name), str(item["Id"]))


def _meant(item: Mapping[str, Any], wish: Wish) -> bool:
    name = name_of(item)
    labels = {str(key): str(value) for key, value in (item.get("Labels") or {}).items()}
    if any(fnmatch.fnmatchcase(name, pattern) for pattern in wish.exclude):
        return False
    if wish.names and not any(fnmatch.fnmatchcase(name, pattern) for pattern in wish.names):
        return False
    if wish.projects and labels.get(COMPOSE + "project") not in wish.projects:
        return False
    return not wish.labels or any(_has(labels, wanted) for wanted in wish.labels)


def _has(labels: Mapping[str, str], wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


def dependencies(labels: Mapping[str, str]) -> tuple[str, ...]:
    """The services of `com.docker.compose.depends_on`: `db:service_started:false,...`."""
    text = str(labels.get(COMPOSE + "depends_on") or "")
    return tuple(sorted({part.partition(":")[0].strip() for part in text.split(",")} - {""}))


def look_at(
    docker: DockerHost, here: HostFacts, names: Iterable[str], tcp: str
) -> tuple[list[Candidate], list[Immovable]]:
    """Look at those containers, and for how long each keeps a CPU busy (takes `SAMPLE`).

    `tcp` as in `migrate move`. One that ends meanwhile is among the immovable ones, as `gone`.
    """
    seen: list[tuple[str, SourceView, int]] = []
    immovable: list[Immovable] = []
    for name in names:
        try:
            view = look(docker, name)
            check_here(here, view, tcp)
            seen.append((name, view, busy(view)))
        except _LOOKING as why:
            immovable.append(_immovable(docker, name, why))
    began = time.monotonic()
    if seen:
        time.sleep(SAMPLE)
    candidates: list[Candidate] = []
    for name, view, ticks in seen:
        spent = time.monotonic() - began
        try:
            candidates.append(candidate(view, (busy(view) - ticks) / _TICK / spent))
        except _LOOKING as why:
            immovable.append(_immovable(docker, name, why))
    return candidates, immovable


def _immovable(docker: DockerHost, name: str, why: Exception) -> Immovable:
    """What came of looking at a container: it has gone meanwhile, or stays for that reason."""
    failure = why
    if not isinstance(failure, Failure):  # of /proc, where it is not to be expected of a live one
        failure = CommandFailed(f"container `{name}` cannot be looked at: {why!r}")
    try:
        found = docker.inspect_container(name)
    except ContainerNotFound:
        return Immovable(name, ContainerNotFound(f"`{name}` was removed meanwhile", ""), gone=True)
    except Failure:  # Docker does not say
        return Immovable(name, failure)
    labels = found["Config"].get("Labels") or {}
    project = str(labels.get(COMPOSE + "project") or "")
    state = found["State"]
    if not state.get("Running") and not state.get("Restarting"):
        return Immovable(
            name, ContainerNotRunning(f"`{name}` has ended meanwhile", ""), project, gone=True
        )
    return Immovable(name, failure, project)


def candidate(view: SourceView, cpu: float) -> Candidate:
    """What the planner has to know of a container that was looked at."""
    labels = view.spec.config.get("Labels") or {}
    return Candidate(
        spec=view.spec,
        usage=view.usage,
        cpu=max(0.0, cpu),
        connections=open_connections(view.target.pid),
        project=str(labels.get(COMPOSE + "project") or ""),
        service=str(labels.get(COMPOSE + "service") or ""),
        depends_on=dependencies(labels),
    )


def busy(view: SourceView) -> int:
    """Ticks that the container's processes have had of the CPUs; those that ended are missing."""
    pids = tasks(view.target.freezer) or [view.target.pid]
    return sum(cpu_ticks(pid) for pid in pids)


def cpu_ticks(pid: int, proc: Path = PROC) -> int:
    """utime and stime of a process (proc_pid_stat(5)); 0 when it is gone."""
    fields = stat_fields(pid, proc)
    return int(fields[11]) + int(fields[12]) if fields else 0
