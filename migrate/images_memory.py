"""The memory in a CRIU image directory, page by page."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from migrate.page_batch import PAGE
from migrate.page_compare import AREA_PAGES
from migrate.pagemap import PE_PRESENT, Entry
from transport.errors import StreamCorrupt


def object_of(path: Path) -> str:
    """The object that a pagemap image is of: `27` for pagemap-27.img, or `shmem-9`."""
    return path.name.removeprefix("pagemap-").removesuffix(".img")


def image_pages(
    path: Path,
    entries: Iterable[Entry],
    share: Callable[[int, int], Iterable[tuple[int, int]]] = lambda page, count: [(page, count)],
) -> Iterator[tuple[int, memoryview]]:
    """The present pages of a pagemap: (page number, content), within areas of 1 MiB.

    `path`: its pages image, in which they follow each other in the order of the entries
    (criu/page-xfer.c); `share`: the parts of a range that are wanted. A view is only good until
    the next is asked for. Raises StreamCorrupt when the image is too short.
    """
    present = [e for e in entries if e.flags & PE_PRESENT]
    if not present:
        return
    with path.open("rb") as file:
        size = sum(entry.count for entry in present) * PAGE
        if os.fstat(file.fileno()).st_size < size:
            raise StreamCorrupt(f"{path.name} is shorter than its pagemap says")
        view = memoryview(mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ))
        offset = 0
        for entry in present:
            for page, count in share(entry.page, entry.count):
                end = page + count
                while page < end:
                    length = min(AREA_PAGES - page % AREA_PAGES, end - page)
                    at = offset + (page - entry.page) * PAGE
                    yield page, view[at : at + length * PAGE]
                    page += length
            offset += entry.count * PAGE
