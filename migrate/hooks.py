"""`--hook PHASE=COMMAND`: the user's own programs at certain moments, on the source.

For load balancers, DNS, routing daemons. `prepare` is before the container stands still, `commit`
when it runs at the destination, `confirm` when the copy here is gone, `rollback` when the migration
failed after `prepare` and it runs on here. No phase is inside the freeze. What a hook is told is in
its environment (README). A hook that fails before commit ends the migration; afterwards it is a
warning. Hooks are in the journal, so that they run although the process was killed in between.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from migrate.container_spec import ContainerSpec
from migrate.errors import HookFailed
from migrate.forward_record import published, way_endpoint
from migrate.run import run, tail

PREPARE, COMMIT, CONFIRM, ROLLBACK = "prepare", "commit", "confirm", "rollback"
TIMEOUT = 60.0


class Hook(msgspec.Struct, frozen=True):
    phase: str
    command: str


def facts_of(
    spec: ContainerSpec, *, source: str, destination: str, address: str | None, network_mode: str,
    session: str,
) -> dict[str, str]:  # fmt: skip
    """What hooks are told (README). `address`: of the destination, when it is known."""
    endpoint = way_endpoint(spec)
    return {
        "container": spec.name,
        "container_address": (endpoint.ipv4 or endpoint.had_ipv4) if endpoint else "",
        "ports": " ".join(
            f"{port.host_ip or '0.0.0.0'}:{port.host_port}/{port.protocol}"
            for port in published(spec)
        ),
        "source": source,
        "destination": destination,
        "destination_address": address or "",
        "network_mode": network_mode,
        "session": session,
    }


class Told(Protocol):
    """What is known of the hooks: the header of the journal."""

    @property
    def hooks(self) -> tuple[Hook, ...]: ...
    @property
    def told(self) -> dict[str, str]: ...


class Noted(Protocol):
    """The journal, which says what was done already."""

    @property
    def header(self) -> Told: ...

    phases: list[str]

    def phase(self, name: str) -> None: ...


def environment(facts: Mapping[str, str], phase: str) -> dict[str, str]:
    """What a hook is told, as variables; see README."""
    told = {f"MIGRATE_{name.upper()}": value for name, value in facts.items()}
    return {**os.environ, **told, "MIGRATE_PHASE": phase}


def run_hooks(hooks: Sequence[Hook], facts: Mapping[str, str], phase: str) -> None:
    """Run the hooks of a phase, in order. Raises HookFailed at the first one that fails."""
    for hook in hooks:
        if hook.phase != phase:
            continue
        # coreutils' timeout ends the whole process group: a child that keeps our pipes open, too.
        limited = ["timeout", "-k", "5", f"{TIMEOUT:g}", "sh", "-c", hook.command]
        result = run(limited, env=environment(facts, phase), timeout=TIMEOUT + 30, check=False)
        if result.returncode == 124:
            raise HookFailed(
                f"the hook of `{phase}` (`{hook.command}`) did not end within {TIMEOUT:g} s"
            )
        if not result.ok:
            raise HookFailed(
                f"the hook of `{phase}` (`{hook.command}`) ended with {result.returncode}: "
                f"{tail(result)}"
            )


def run_phase(journal: Noted, phase: str) -> None:
    """Run the hooks of a phase unless that was begun before. Raises HookFailed."""
    hooks = journal.header.hooks
    if mark(phase) in journal.phases or not any(hook.phase == phase for hook in hooks):
        return
    journal.phase(mark(phase))
    run_hooks(hooks, journal.header.told, phase)


def mark(phase: str) -> str:
    """The journal's word for hooks that were begun."""
    return f"hook-{phase}"
