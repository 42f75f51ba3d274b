"""migrate.last_steps: one that fails keeps no other from being done, and is tried again."""

from __future__ import annotations

from typing import Any

import pytest

from migrate.errors import AgentFailed, DockerUnavailable
from migrate.last_steps import LastSteps, steps


class Docker:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.fails: list[str] = []

    def set_restart_policy(self, container: str, policy: dict[str, Any]) -> None:
        self._note("policy", container, policy["Name"])

    def remove(self, container: str) -> None:
        self._note("remove", container)

    def _note(self, *call: str) -> None:
        self.calls.append(call)
        if call[0] in self.fails:
            self.fails.remove(call[0])
            raise DockerUnavailable("dockerd is busy")


@pytest.mark.parametrize(
    ("policy", "replaced", "calls"),
    [
        ({"Name": "no"}, [], []),
        ({"Name": "always"}, ["old"], [("policy", "new", "always"), ("remove", "old")]),
    ],
)
def test_all_are_done_once(
    policy: dict[str, Any], replaced: list[str], calls: list[tuple[str, ...]]
) -> None:
    docker: Any = Docker()
    last = LastSteps()
    last.plan(steps(docker, "new", policy, replaced))
    last.run()
    last.run()
    assert docker.calls == calls


def test_one_that_fails_is_told_of_and_tried_again() -> None:
    """Else a dockerd that was busy for a moment cost the container its restart policy for good."""
    docker: Any = Docker()
    docker.fails = ["policy", "policy"]
    last = LastSteps()
    last.plan(steps(docker, "new", {"Name": "always"}, ["old"]))
    for _ in range(2):
        with pytest.raises(AgentFailed, match=r"--restart always\): dockerd is busy"):
            last.run()
    last.run()
    assert [call[0] for call in docker.calls] == ["policy", "remove", "policy", "policy"]
