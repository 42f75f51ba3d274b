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
from migrate.host_facts import HostFacts
from migrate.pairing import Candidate
from migrate.source_view import SourceView, check_here, look, open_connections, tasks
from transport.errors import Failure

COMPOSE = "com.docker.compose."
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
    """A container that was meant and cannot leave this host, whatever other hosts there are."""

    name: str
    failure: Failure
    project: str = ""


def choose(listed: Sequence[Mapping[str, Any]], wish: Wish) -> list[str]:
    """The names of the running containers that are meant, of `GET /containers/json`; sorted."""
    return sorted(
        name_of(item) for item in listed
        if item.get("State") in ("running", "paused", "restarting") and _meant(item, wish)
    )  # fmt: skip


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

    `tcp` as in `migrate move`. Raises DockerUnavailable.
    """
    views: list[SourceView] = []
    immovable: list[Immovable] = []
    for name in names:
        try:
            view = look(docker, name)
            check_here(here, view, tcp)
            views.append(view)
        except Failure as failure:
            immovable.append(Immovable(name, failure, _project(docker, name)))
    began = time.monotonic()
    before = [busy(view) for view in views]
    if views:
        time.sleep(SAMPLE)
    spent = time.monotonic() - began
    return [
        candidate(view, (busy(view) - ticks) / _TICK / spent if spent else 0.0)
        for view, ticks in zip(views, before, strict=True)
    ], immovable


def _project(docker: DockerHost, name: str) -> str:
    try:
        labels = docker.inspect_container(name)["Config"].get("Labels") or {}
    except Failure:
        return ""
    return str(labels.get(COMPOSE + "project") or "")


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
    return sum(cpu_ticks(Path(f"/proc/{pid}/stat")) for pid in pids)


def cpu_ticks(stat: Path) -> int:
    """utime and stime of a process (proc_pid_stat(5)); 0 when it is gone."""
    try:
        fields = stat.read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])
