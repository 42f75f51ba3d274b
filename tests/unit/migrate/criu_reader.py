"""How CRIU finds pages in image directories: criu/pagemap.c and criu/uffd.c, as far as it matters.

Written from these sources, so that tests can say what CRIU would read. Stricter than CRIU: where
it would loop for ever at the end of a file, or stop with BUG(), this raises.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from migrate.page_batch import PAGE
from migrate.pagemap import PE_LAZY, PE_PARENT, PE_PRESENT, Entry, read

INT_MAX = (1 << 31) - 1


@dataclass
class PageReader:
    """struct page_read of one object, with its parents."""

    entries: list[Entry]
    fd: int
    parent: PageReader | None
    at: int = field(default=-1)  # curr_pme
    page: int = 0  # cvaddr
    offset: int = 0  # pi_off, in pages

    @classmethod
    def open(cls, directory: Path, name: str) -> PageReader | None:
        """open_page_read_at: the parent first, then the pages image, which must be there."""
        path = directory / f"pagemap-{name}.img"
        if not path.exists():
            return None
        pages_id, entries = read(path)
        assert all(entry.count <= INT_MAX for entry in entries)  # int p_nr, before CRIU 4.2
        link = directory / "parent"
        parent = cls.open(link, name) if os.path.lexists(link) else None
        return cls(entries, os.open(directory / f"pages-{pages_id}.img", os.O_RDONLY), parent)

    def close(self) -> None:
        os.close(self.fd)
        if self.parent:
            self.parent.close()

    def reset(self) -> None:
        self.at, self.page, self.offset = -1, 0, 0
        if self.parent:
            self.parent.reset()

    def advance(self) -> bool:
        self.at += 1
        if self.at >= len(self.entries):
            return False
        self.page = self.entries[self.at].page
        return True

    def skip(self, count: int) -> None:
        if self.entries[self.at].flags & PE_PRESENT:
            self.offset += count
        self.page += count

    def seek(self, page: int) -> bool:
        if self.at < 0 and not self.advance():
            return False
        while self.at < len(self.entries):
            entry = self.entries[self.at]
            end = entry.page + entry.count
            if page < self.page:
                return False
            if entry.page <= page < end:
                self.skip(page - self.page)
                return True
            if end <= page:
                self.skip(end - self.page)
            if not self.advance():
                return False
        return False

    def read(self, page: int, count: int) -> tuple[bytes, bool]:
        """read_pagemap_page, after a seek; whether `io_complete` of this reader would be called."""
        entry = self.entries[self.at]
        assert entry.page <= page
        assert page + count <= entry.page + entry.count  # else BUG()
        local = not entry.flags & PE_PARENT
        if local:
            content = os.pread(self.fd, count * PAGE, self.offset * PAGE)
            assert len(content) == count * PAGE  # else an error, or an endless loop
            self.offset += count
        else:
            content = self._from_parent(page, count)
        self.page += count
        return content, local

    def _from_parent(self, page: int, count: int) -> bytes:
        assert self.parent, "No parent for snapshot pagemap"
        content = b""
        while count:
            assert self.parent.seek(page), "Missing in parent pagemap"
            entry = self.parent.entries[self.parent.at]
            some = min(count, entry.page + entry.count - page)
            content += self.parent.read(page, some)[0]
            page, count = page + some, count - some
        return content


def eager(directory: Path, name: str, *, lazy_pages: bool = False) -> dict[int, bytes]:
    """What `criu restore` reads of an object; with `lazy_pages` it leaves the lazy ones out
    (mem.c, restore_priv_vma_content)."""
    reader = PageReader.open(directory, name)
    assert reader
    found: dict[int, bytes] = {}
    while reader.advance():
        entry = reader.entries[reader.at]
        if lazy_pages and entry.flags & PE_LAZY:
            reader.skip(entry.count)
            continue
        content, _ = reader.read(entry.page, entry.count)
        for i in range(entry.count):
            found[entry.page + i] = content[i * PAGE : (i + 1) * PAGE]
    reader.close()
    return found


def filled_in(directory: Path, name: str) -> dict[int, bytes]:
    """What `criu lazy-pages` puts into the process (uffd.c: collect_iovs, uffd_handle_pages)."""
    reader = PageReader.open(directory, name)
    assert reader
    wanted = []
    while reader.advance():
        entry = reader.entries[reader.at]
        if entry.flags & PE_LAZY:
            assert entry.count * PAGE <= INT_MAX  # int max_iov_len
            wanted.append(entry)
    found: dict[int, bytes] = {}
    for entry in reversed(wanted):  # faults come in any order
        reader.reset()
        assert reader.seek(entry.page)
        content, complete = reader.read(entry.page, entry.count)
        for i in range(entry.count if complete else 0):
            found[entry.page + i] = content[i * PAGE : (i + 1) * PAGE]
    reader.close()
    return found
