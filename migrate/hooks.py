"""`--hook PHASE=COMMAND`: the user's own programs at certain moments, on the source.

For load balancers, DNS, routing daemons. No phase is inside the freeze. What a hook is told is in
its environment (README). A hook that fails before commit ends the migration; afterwards it is a
warning. Hooks are in the journal, so that they run although the process was killed in between.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import msgspec

from migrate.errors import CommandFailed, HookFailed
from migrate.run import run, tail

PREPARE, COMMIT, CONFIRM, ROLLBACK = "prepare", "commit", "confirm", "rollback"
PHASES = {
    PREPARE: "before the container stands still",
    COMMIT: "it runs at the destination",
    CONFIRM: "the copy here is gone",
    ROLLBACK: "the migration failed after `prepare`, and it runs on here",
}
TIMEOUT = 60.0


class Hook(msgspec.Struct, frozen=True):
    phase: str
    command: str


def parse(text: str) -> Hook:
    """`PHASE=COMMAND`, for argparse. Raises ValueError."""
    phase, equals, command = text.partition("=")
    if phase not in PHASES or not equals or not command.strip():
        raise ValueError(text)
    return Hook(phase, command)


def environment(facts: Mapping[str, str], phase: str) -> dict[str, str]:
    """What a hook is told, as variables; see README."""
    told = {f"MIGRATE_{name.upper()}": value for name, value in facts.items()}
    return {**os.environ, **told, "MIGRATE_PHASE": phase}


def run_hooks(hooks: Sequence[Hook], facts: Mapping[str, str], phase: str) -> None:
    """Run the hooks of a phase, in order. Raises HookFailed at the first one that fails."""
    for hook in hooks:
        if hook.phase != phase:
            continue
        try:
            result = run(
                ["sh", "-c", hook.command], env=environment(facts, phase), timeout=TIMEOUT,
                check=False,
            )  # fmt: skip
        except CommandFailed as late:
            raise HookFailed(f"the hook of `{phase}`: {late.message}") from late
        if not result.ok:
            raise HookFailed(
                f"the hook of `{phase}` (`{hook.command}`) ended with {result.returncode}: "
                f"{tail(result)}"
            )
