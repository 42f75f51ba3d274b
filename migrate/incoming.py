"""The checkpoint as it comes in: the private tmpfs that holds it, CRIU's images, the page store,
and the server of lazy pages when memory is filled in after the restore.

The directory of a session:
  images/   what the final dump has written; `parent` leads to the page store
  pages/    the page store (migrate/page_store.py), filled while the container runs at the source
  lazy/     the same as CRIU's server of lazy pages wants to see it
  work/     logs, the server's socket
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from migrate.image_stream import ImageReceiver
from migrate.lazy_pages import LazyPages
from migrate.messages import Filled
from migrate.page_batch import Buffer
from migrate.page_store import PageStore
from migrate.run import run
from migrate.runtime import DESCRIPTORS
from transport.errors import StreamCorrupt

IMAGES_SLACK = 256 << 20  # bytes for CRIU's small files beside the pages
LAZY = "lazy"
FILL_RATE = 20 << 20  # bytes a second: slower than any fill that was seen, for the time limit


class Incoming:
    """One checkpoint, from the first page to the last that is filled in."""

    def __init__(
        self, base: Path, *, memory: int, free: int, seed: int, lazy: bool,
        cached: Callable[[bytes], Buffer | None],
    ) -> None:  # fmt: skip
        """`base` is there and empty; its removal is for the caller to see to, before this is made.
        `memory`: bytes to expect; `free`: bytes of this host's memory; `seed`: of the session's
        digests; `cached`: gives the page of a digest from an earlier migration."""
        # A cap, no reservation: the container may grow while it is on its way.
        limit = max(2 * memory, free // 2) + IMAGES_SLACK
        self.base = base
        self.lazy = lazy
        self.seed = seed
        self._memory = memory
        # The images hold the container's memory: secrets. A tmpfs of our own, which is never
        # written to disk but by swap, and goes as a whole.
        run(["mount", "-t", "tmpfs", "-o", f"mode=0700,size={limit}", "migrate", str(base)])
        self.images, self.work = base / "images", base / "work"
        for directory in (self.images, self.work):
            directory.mkdir()
        self.files = ImageReceiver(self.images, limit)
        self.pages = PageStore(base, seed, limit, cached)
        self._server = LazyPages(base / LAZY, self.work) if lazy else None

    def write_descriptors(self, links: Sequence[str]) -> None:
        """runc's file about the standard streams, which it reads before the images are complete."""
        if len(links) != 3:
            raise StreamCorrupt("a process has three standard descriptors")
        (self.images / DESCRIPTORS).write_text(json.dumps(list(links)))

    @property
    def criu_options(self) -> list[str]:
        return ["lazy-pages"] if self.lazy else []

    def complete(self, files: int) -> None:
        """All `files` and pages have come: make of them what CRIU restores from."""
        self.files.complete(files)
        self.pages.adopt(self.images)
        if self._server:
            self.pages.lazy_directory(self.images, self.base / LAZY)
            self._server.serve()

    def commit(self, pid: int) -> None:
        """The restored init `pid` is about to run: the server must go on, whatever becomes of this
        process. Raises RestoreFailed when it cannot."""
        if self._server:
            self._server.commit(pid)

    def filled(self) -> Filled:
        """Wait until all memory is in its place. Raises MemoryLost when it never will be, and
        AgentFailed when that is not known in time."""
        if not self._server:
            return Filled(pages=0, seconds=0.0)
        limit = 60.0 + self._memory / FILL_RATE
        seconds = self._server.filled(limit)
        return Filled(pages=self.pages.lazy_pages, seconds=seconds)

    def release(self) -> None:
        """Nothing will be opened here any more. What the server holds open goes with it."""
        if os.path.ismount(self.base):
            run(["umount", "--lazy", str(self.base)])

    def close(self) -> None:
        self.files.close()
        self.pages.close()
        if self._server:
            self._server.close()
