"""What the user asked for when a container is to move."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass

from migrate.freeze import MAX_FREEZE
from migrate.hooks import Hook
from migrate.network_mode import FRONTEND
from migrate.switchover import MAX_DOWNTIME, MAX_ROUNDS
from transport.bucket import RateLimit
from transport.errors import BadTarget


@dataclass(frozen=True)
class Options:
    """`tcp`: `established` or `close`; `max_freeze`, `max_downtime`: seconds; `memory_source`: one
    of `outgoing.SOURCES`; `restore`: `auto`, `eager` or `lazy`; `cache`: use and keep memory for
    the way back; `network`: one of `network_mode.WANTED`, or `frontend`; `frontend`: the host
    that has the front ends; `buffer`: packets that are held in the freeze, 0 for none.

    `bwlimit` holds for all but the freeze, of which the bytes are made up for by whoever shares it.
    """

    container: str
    host: str
    tcp: str = "established"
    keep: bool = False
    force: bool = False
    max_freeze: float = MAX_FREEZE
    max_downtime: float = MAX_DOWNTIME
    max_rounds: int = MAX_ROUNDS
    throttle: bool = False
    memory_source: str = "auto"
    restore: str = "auto"
    cache: bool = True
    network: str = "auto"
    frontend: str | None = None
    buffer: int = 0
    bwlimit: RateLimit | None = None
    hooks: tuple[Hook, ...] = ()


def options_of(given: Namespace, host: str) -> Options:
    """From the words of the command line (migrate/arguments.py: `add_one`, `add_way`).

    Raises BadTarget when a front end is wanted and none is named, or the other way round.
    """
    if given.frontend and given.network_mode == "auto":
        given.network_mode = FRONTEND
    if bool(given.frontend) != (given.network_mode == FRONTEND):
        raise BadTarget(
            f"--network-mode {given.network_mode} with{'' if given.frontend else 'out'} --frontend",
            "--frontend HOST names the front end, and alone is enough",
        )
    return Options(
        container=given.container, host=host, tcp=given.tcp, keep=given.keep, force=given.force,
        max_freeze=given.max_freeze, max_downtime=given.max_downtime,
        max_rounds=given.max_rounds, throttle=given.throttle,
        memory_source=given.memory_source, restore=given.restore, cache=not given.no_cache,
        network=given.network_mode, frontend=given.frontend, buffer=given.buffer,
        bwlimit=given.bwlimit,
        hooks=tuple(Hook(*one) for one in given.hook),
    )  # fmt: skip
