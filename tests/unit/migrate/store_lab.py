"""A page store on a tmpfs, and words to fill it."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from migrate.page_batch import CACHED, LITERAL, PAGE, ZERO, PageRun, digest, encode
from migrate.page_store import PageStore
from migrate.pagemap import Entry, write
from tests.unit.migrate.criu_reader import eager

SEED = 0x1234_5678_9ABC_DEF0
STACK = 0x7FFF_FFFF_E000 // PAGE
NOTHING = bytes(PAGE)


class Lab:
    """A store on a tmpfs (other file systems have no files of 2^47 bytes), and words for it."""

    def __init__(self, root: Path, limit: int = 64 << 20) -> None:
        self.root = root
        self.images = root / "images"
        self.images.mkdir()
        self.cache: dict[bytes, bytes] = {}
        self.store = PageStore(root, SEED, limit, self.cache.get)

    def literal(self, number: int, page: int, *content: bytes) -> None:
        run = PageRun(number, page, len(content), LITERAL)
        self.store.apply(encode([run], b"", b"".join(content)))

    def zero(self, number: int, page: int, count: int = 1) -> None:
        self.store.apply(encode([PageRun(number, page, count, ZERO)], b"", b""))

    def copy(self, run: PageRun, *content: bytes) -> None:
        self.store.apply(encode([run], b"".join(digest(page, SEED) for page in content), b""))

    def cached(self, number: int, page: int, *content: bytes) -> None:
        self.copy(PageRun(number, page, len(content), CACHED), *content)

    def pages(self, number: int) -> Path:
        return self.root / "pages" / f"pages-{number}.img"

    def page(self, number: int, page: int) -> bytes:
        with self.pages(number).open("rb") as file:
            return os.pread(file.fileno(), PAGE, page * PAGE)

    def allocated(self, number: int) -> int:
        return self.pages(number).stat().st_blocks * 512

    def dump(self, name: str, pages_id: int, *entries: Entry) -> None:
        write(self.images / f"pagemap-{name}.img", pages_id, entries)

    def eager(self, name: str) -> dict[int, bytes]:
        return eager(self.images, name)


@contextmanager
def store_lab() -> Iterator[Lab]:
    root = Path(tempfile.mkdtemp(prefix="migrate-test-", dir="/dev/shm"))
    made = Lab(root)
    try:
        yield made
    finally:
        made.store.close()
        shutil.rmtree(root)


def page(number: int) -> bytes:
    return random.Random(number).randbytes(PAGE)
