"""The figures that `migrate report` draws: what `migrate move --json` has printed, in any of its
versions, read as if a stranger had written it."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from migrate.errors import ReportFailed

MAX_SIZE = 16 << 20  # bytes; a report of a thousand rounds has a quarter of one MiB

# Limits that keep every sum and product finite, and the picture to a size that can be looked at.
Seconds = Annotated[float, Meta(ge=0, le=1e8)]
Amount = Annotated[int, Meta(ge=0, le=1 << 60)]
Pages = Annotated[int, Meta(ge=0, le=1 << 40)]
Count = Annotated[int, Meta(ge=0, le=1000)]
Rate = Annotated[float, Meta(ge=0, le=1e18)]
Name = Annotated[str, Meta(max_length=1000)]
Times = Annotated[dict[Name, Seconds], Meta(max_length=24)]


class RoundFigures(Struct):
    """One round of pre-copy (migrate/switchover.py, `shown`). Amounts in pages, `sent` in bytes."""

    seconds: Seconds
    number: Count = 0
    started: Seconds = 0.0
    scanned: Pages = 0
    dirty: Pages = 0
    zero: Pages = 0
    duplicate: Pages = 0
    cached: Pages = 0
    literal: Pages = 0
    sent: Amount = 0
    dirty_rate: Rate | None = None
    predicted: Seconds | None = None


class SwitchoverFigures(Struct):
    reason: Name = ""
    predicted: Seconds | None = None
    measured: Seconds | None = None


class LazyFigures(Struct):
    pages: Pages = 0
    seconds: Seconds = 0.0


class Figures(Struct):
    """The part of `Summary.to_json` that is drawn; older versions lack what has a default."""

    container: Name
    source: Name
    destination: Name
    downtime: Seconds
    total: Seconds
    raw: Amount = 0
    sent: Amount = 0
    memory: Amount = 0
    image_sent: bool = False
    parts: Times = {}
    phases: Times = {}
    rounds: Annotated[list[RoundFigures], Meta(max_length=1000)] = []
    switchover: SwitchoverFigures | None = None
    memory_source: Name | None = None
    page_size: Annotated[int, Meta(ge=1, le=1 << 21)] = 4096
    lazy: LazyFigures | None = None


class _Failure(Struct):
    """What `--json` prints of a migration that failed."""

    error: Name
    message: Any = ""


def parse(content: bytes, name: str) -> Figures:
    """The figures of one migration. `name`: of the file, for the sentence of the failure.

    Raises ReportFailed for whatever else it is.
    """
    if len(content) > MAX_SIZE:
        raise ReportFailed(f"{name} is larger than any report ({MAX_SIZE >> 20} MiB)")
    if not content.strip():
        raise ReportFailed(f"{name} is empty")
    try:
        figures = msgspec.json.decode(content, type=Figures)
    except (
        msgspec.ValidationError,
        msgspec.DecodeError,
        UnicodeDecodeError,
        RecursionError,
    ) as why:
        raise ReportFailed(f"{name} is not a report: {_reason(content, why)}") from why
    return figures


def _reason(content: bytes, why: Exception) -> str:
    try:
        failed = msgspec.json.decode(content, type=_Failure)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "it is nested too deeply" if isinstance(why, RecursionError) else str(why)
    return f"that migration failed ({failed.error}), so there is nothing to draw"
