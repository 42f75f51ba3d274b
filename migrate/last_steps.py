"""What a restored container needs beside running, done after the freeze."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from migrate.docker_host import DockerHost
from migrate.errors import AgentFailed
from migrate.journal import restarts
from transport.errors import Failure

Step = tuple[str, Callable[[], object]]
"""What it does, to follow "could not ..."; and does it. Done twice it is done once."""


def steps(
    docker: DockerHost, container: str, policy: Mapping[str, Any], replaced: Iterable[str]
) -> Iterator[Step]:
    """The restart policy that it was not created with, and the end of what it replaces."""
    if restarts(policy):
        what = f"give it its restart policy (docker update --restart {policy['Name']})"
        yield what, partial(docker.set_restart_policy, container, policy)
    for old in replaced:
        yield f"remove what it replaces (docker rm {old[:12]})", partial(docker.remove, old)


class LastSteps:
    """Steps that do not depend on each other: one that fails keeps no other from being done."""

    def __init__(self) -> None:
        self._left: list[Step] = []

    def plan(self, steps: Iterable[Step]) -> None:
        """Add steps to those that are left."""
        self._left += steps

    def run(self) -> None:
        """Do all that are left. Those that fail stay for the next call, and raise AgentFailed."""
        steps, self._left = self._left, []
        failed = []
        for what, step in steps:
            try:
                step()
            except Failure as failure:
                self._left.append((what, step))
                failed.append(f"the destination could not {what}: {failure.message}")
        if failed:
            raise AgentFailed("; ".join(failed), "it runs there; do what is missing by hand")
