"""`migrate cache [list|clear [NAME]]`: what is kept of the memory of containers that left here."""

from __future__ import annotations

import argparse
import time

import msgspec

from migrate.errors import ContainerNotFound
from migrate.host_setup import Places
from migrate.page_cache import CacheEntry, PageCache


class CacheReport(msgspec.Struct, frozen=True):
    """What `--json` prints. `entries`: those listed, or removed; `limit`: bytes of them all."""

    action: str
    entries: list[CacheEntry]
    limit: int


def run_command(given: argparse.Namespace, places: Places | None = None) -> int:
    """Do it, say it."""
    cache = PageCache((places or Places()).cache)
    entries = [entry for entry in cache.entries() if given.name in (None, entry.name)]
    if given.name is not None and not entries:
        raise ContainerNotFound(
            f"nothing is kept of a container {given.name}", "`migrate cache` lists what there is"
        )
    if given.action == "clear":
        for entry in entries:
            cache.clear(entry.key)
    if given.json:
        report = CacheReport(given.action, entries, cache.limit())
        print(msgspec.json.encode(report).decode())
        return 0
    for entry in entries:
        saved = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.saved))
        print(f"{entry.name}  {_size(entry.bytes)}  saved {saved}")
    total = _size(sum(entry.bytes for entry in entries))
    if given.action == "clear":
        print(f"removed {total}")
    else:
        print(f"{total} of at most {_size(cache.limit())}")
    return 0


def _size(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB" if count < 1 << 30 else f"{count / (1 << 30):.1f} GiB"
