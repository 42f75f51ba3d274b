"""What the user asked for when a container is to move."""

from __future__ import annotations

from dataclasses import dataclass

from migrate.freeze import MAX_FREEZE
from migrate.switchover import MAX_DOWNTIME, MAX_ROUNDS


@dataclass(frozen=True)
class Options:
    """`tcp`: `established` or `close`; `max_freeze`, `max_downtime`: seconds; `memory_source`: one
    of `outgoing.SOURCES`; `restore`: `auto`, `eager` or `lazy`; `cache`: use and keep memory for the
    way back.
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
