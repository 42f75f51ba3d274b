"""The page store as CRIU reads it: the parent of the final images, and a directory for lazy pages.

How CRIU finds a page (criu/pagemap.c, seek_pagemap): its offset in the pages image is the number
of *present* pages that the pagemap lists before it. In the store's files the offset is the address;
so the store's pagemaps are present from page 0 on, without a gap.

Why the lazy-pages daemon needs its own directory: it copies a page into the process from the
`io_complete` of its page reader (criu/uffd.c), and the reader of the parent directory has none
(criu/pagemap.c, read_parent_page): pages in a parent are read, and go nowhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from migrate.page_batch import MAX_PAGE
from migrate.pagemap import PE_LAZY, PE_PARENT, PE_PRESENT, Entry, read, write
from transport.errors import StreamCorrupt

PAGES: Final = "pages"
"""The store's directory, beside the images."""
PARENT: Final = "parent"
"""CRIU's name of the link to the parent directory (criu/include/image.h, CR_PARENT_LINK)."""
MAX_ENTRY: Final = 1 << 30
"""Pages of one entry. CRIU before 4.2 counts them in an int (read_parent_page)."""
MAX_LAZY: Final = 1 << 14
"""Pages of one lazy entry: the daemon allocates a buffer of the longest, whose size is an int
(uffd.c, collect_iovs), for each process."""

_LAZY: Final = PE_LAZY | PE_PRESENT
_PAGEMAP: Final = re.compile(r"pagemap-(.+)\.img")
_CONTENT: Final = re.compile(r"pages-.*\.img")
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def pages_image(directory: Path, number: int) -> str:
    """The path of a pages image. Without a header: it has RAW_IMAGE_MAGIC (magic.h)."""
    return f"{directory}/pages-{number}.img"


# -- pure ----------------------------------------------------------------------------------------


def in_parent(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The same pages, with their content in the parent directory."""
    return (Entry(page, count, PE_PARENT | flags & PE_LAZY) for page, count, flags in entries)


def present(page: int, end: int) -> Iterator[Entry]:
    """All pages of a range as present."""
    for at in range(page, end, MAX_ENTRY):
        yield Entry(at, min(MAX_ENTRY, end - at), PE_PRESENT)


def lazy(entries: Iterable[Entry]) -> list[Entry]:
    """What the daemon is to fill in, with what lies between as plain present pages, which it skips
    (collect_iovs). Neighbours become one: it looks for each page from the first entry on."""
    found: list[Entry] = []
    at = begin = end = 0
    for page, count, flags in entries:
        if not flags & PE_LAZY:
            continue
        if page != end:
            _add_lazy(found, at, begin, end)
            at, begin = end, page
        end = page + count
    _add_lazy(found, at, begin, end)
    return found


def _add_lazy(found: list[Entry], at: int, begin: int, end: int) -> None:
    if 0 < begin - at <= MAX_ENTRY and end - begin <= MAX_LAZY:  # nearly all
        found += (Entry(at, begin - at, PE_PRESENT), Entry(begin, end - begin, _LAZY))
        return
    found += present(at, begin)
    found += [Entry(page, min(MAX_LAZY, end - page), _LAZY) for page in range(begin, end, MAX_LAZY)]


# -- directories ---------------------------------------------------------------------------------


def pagemaps(images: Path) -> Iterator[tuple[str, Path]]:
    """The pagemaps of an image directory, with the names of their objects."""
    for name in sorted(os.listdir(images)):
        if found := _PAGEMAP.fullmatch(name):
            yield found[1], images / name


def listed(path: Path) -> tuple[int, list[Entry]]:
    """As `pagemap.read`; the entries come in order, too, and none overlap: CRIU writes no others,
    and reads them from first to last."""
    pages_id, entries = read(path)
    end = 0
    for entry in entries:
        if entry.page < end:
            raise StreamCorrupt(f"{path.name} is not in order at page {entry.page:#x}")
        end = entry.page + entry.count
    if end > MAX_PAGE:
        raise StreamCorrupt(f"{path.name} ends outside of any address space")
    return pages_id, entries


def adopt(path: Path, pages_id: int, entries: list[Entry], store: Path, number: int) -> None:
    """Let this pagemap refer to object `number` of the store, which is the parent directory."""
    write(path, pages_id, in_parent(entries))
    end = entries[-1].page + entries[-1].count if entries else 0
    write(store / path.name, number, present(0, end))
    # CRIU opens the pages image also when it has nothing to read from it (open_page_read_at). It
    # stays empty: what is there already was sent against the protocol.
    _make(Path(pages_image(path.parent, pages_id)))


def _make(path: Path) -> None:
    try:
        os.close(os.open(path, _CREATE, 0o600))
    except OSError as problem:
        if not isinstance(problem, FileExistsError):
            raise
        raise StreamCorrupt(f"the checkpoint has a file {path.name} of its own") from problem


def link_parent(images: Path) -> None:
    """Make the store the parent of these images."""
    try:
        os.symlink(f"../{PAGES}", images / PARENT)
    except FileExistsError as problem:
        raise StreamCorrupt(f"the checkpoint has a file {PARENT} of its own") from problem


def lazy_directory(
    images: Path, directory: Path, store: Path, numbers: Mapping[str, int],
    final: Mapping[str, list[Entry]],
) -> None:  # fmt: skip
    """Make `directory`: links to the images, but pagemaps of its own, right on the store's files.

    `numbers`: of the objects in the store; `final`: what the dump lists of them.
    """
    directory.mkdir(mode=0o700)
    below = os.path.relpath(images, directory)
    for name in os.listdir(images):
        if name != PARENT and not _PAGEMAP.fullmatch(name) and not _CONTENT.fullmatch(name):
            os.symlink(f"{below}/{name}", directory / name)
    below = os.path.relpath(store, directory)
    for name, entries in final.items():
        if name.startswith("shmem-"):
            continue  # the daemon only opens those of processes
        number = numbers[name]
        write(directory / f"pagemap-{name}.img", number, lazy(entries))
        os.symlink(pages_image(Path(below), number), pages_image(directory, number))
