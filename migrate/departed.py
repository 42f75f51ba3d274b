"""The memory of a container that has moved away, read from its frozen copy for the cache
(migrate/page_cache.py): when it comes back, most of it need not be sent again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from migrate.address_spaces import Objects, Region, container_pids
from migrate.container_spec import ContainerSpec
from migrate.host_setup import Places
from migrate.page_batch import PAGE
from migrate.page_cache import PageCache, cache_key
from migrate.process_memory import CHUNK, Gone, ProcessMemory


def keep_memory(spec: ContainerSpec, init: int, freezer: str) -> int:
    """Put the memory of a frozen container into this host's cache; gives the bytes kept."""
    key = cache_key(spec.name, spec.image.layers)
    return PageCache(Places().cache).save(key, pages_of(init, freezer)) * PAGE


def pages_of(init: int, freezer: str) -> Iterator[bytes]:
    """All pages of the container with that first process, some at a time."""
    regions = Objects(init).regions(container_pids(freezer), frozen=False)
    for pid in dict.fromkeys(region.pid for region in regions):
        try:
            memory = ProcessMemory(pid, Path(freezer).name)
        except Gone:
            continue
        try:
            for region in regions:
                if region.pid == pid:
                    yield from _region(memory, region)
        except ProcessLookupError:
            continue
        finally:
            memory.close()


def _region(memory: ProcessMemory, region: Region) -> Iterator[bytes]:
    found: list[bytes] = []

    def sink(_: int, content: memoryview) -> None:
        found.append(bytes(content))

    for begin, end in memory.map.populated(region.start, region.end, shared=region.shared):
        for start in range(begin, end, CHUNK):
            # Page numbers only matter for where it is cut, which is all the same here.
            memory.read(start, min(end, start + CHUNK), 0, sink)
            yield from found
            found.clear()
