"""Reads the memory of a container's processes, running or frozen, without stopping anything."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from pathlib import Path

from migrate.address_spaces import PageMap
from migrate.page_batch import PAGE
from migrate.page_compare import AREA

CHUNK = AREA  # bytes read at once: what stays in the processor's cache until it is hashed

# Takes the number of a page and the content of pages of one area.
Sink = Callable[[int, memoryview], None]


class Gone(Exception):
    """The process has ended, or is no process of the container."""


class ProcessMemory:
    """The memory of one process. `cgroup`: what /proc/PID/cgroup must name.

    Without that check a pid that was given anew meanwhile would send another process's memory to
    another host. The descriptors stay with the address space they were opened on.
    """

    def __init__(self, pid: int, cgroup: str) -> None:
        self._buffer = mmap.mmap(-1, CHUNK)
        self._view = memoryview(self._buffer)
        try:
            self._mem = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as problem:
            raise Gone from problem
        try:
            self.map = PageMap(pid)
        except OSError as problem:
            os.close(self._mem)
            raise Gone from problem
        try:
            within = cgroup in Path(f"/proc/{pid}/cgroup").read_text()
        except OSError:
            within = False
        if not within:
            self.close()
            raise Gone

    def close(self) -> None:
        os.close(self._mem)
        self.map.close()

    def read(self, start: int, end: int, page: int, sink: Sink) -> None:
        """Give the pages of an address range to `sink`, from page number `page` on, never across
        the areas of the object. What vanishes meanwhile is left out. Raises ProcessLookupError
        when the process has ended.
        """
        while start < end:
            # Up to an area's end, so that the next reads are whole areas.
            want = min(end - start, CHUNK - page * PAGE % CHUNK)
            try:
                got = os.preadv(self._mem, [self._view[:want]], start) // PAGE * PAGE
            except OSError:
                got = 0
            else:
                if not got:  # a hole is an error (EIO); the end of the file is that of the process
                    raise ProcessLookupError
            if got:
                sink(page, self._view[:got])
                page += got // PAGE
            start += got
            if not got:  # a hole, by now
                start += PAGE
                page += 1
