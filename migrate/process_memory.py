"""Reads the memory of a container's processes, running or frozen, without stopping anything."""

from __future__ import annotations

import ctypes
import mmap
import os
import select
from collections.abc import Callable
from pathlib import Path

from migrate.address_spaces import PageMap
from migrate.page_batch import PAGE
from migrate.page_compare import AREA

CHUNK = AREA  # bytes read at once: what stays in the processor's cache until it is hashed

# Takes the number of a page and the content of pages of one area.
Sink = Callable[[int, memoryview], None]


_LIBC = ctypes.CDLL(None, use_errno=True)
_READV = getattr(_LIBC, "process_vm_readv", None)  # not in every libc


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class Gone(Exception):
    """The process has ended, or is no process of the container."""


class ProcessMemory:
    """The memory of one process. `cgroup`: what /proc/PID/cgroup must name.

    Without that check a pid that was given anew meanwhile would send another process's memory to
    another host. The descriptors stay with the address space they were opened on.

    Read by process_vm_readv(2), which copies once what /proc/PID/mem copies twice and page by page
    (mm/process_vm_access.c, fs/proc/base.c: mem_rw): 7.2 against 5.4 GB/s here. What it does not
    give (memory without PROT_READ, holes) is read there.
    """

    def __init__(self, pid: int, cgroup: str) -> None:
        self._buffer = mmap.mmap(-1, CHUNK)
        self._view = memoryview(self._buffer)
        self._pid = pid
        self._into = _Iovec(ctypes.addressof(ctypes.c_char.from_buffer(self._buffer)), 0)
        self._from = _Iovec(0, 0)
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
            self._pidfd = os.pidfd_open(pid)
        except OSError as problem:
            os.close(self._mem)
            self.map.close()
            raise Gone from problem
        self._ended = select.poll()
        self._ended.register(self._pidfd, select.POLLIN)
        try:
            within = cgroup in Path(f"/proc/{pid}/cgroup").read_text()
        except OSError:
            within = False
        if not within:
            self.close()
            raise Gone

    def close(self) -> None:
        os.close(self._mem)
        os.close(self._pidfd)
        self.map.close()

    def _fast(self, start: int, size: int) -> int:
        """Read what is at `start` into the buffer; gives how many bytes, 0 when that is no way."""
        if _READV is None:
            return 0
        self._from.base = start
        self._from.length = self._into.length = size
        got = _READV(self._pid, ctypes.byref(self._into), 1, ctypes.byref(self._from), 1, 0)
        # It takes a pid, which may have become another process's: not as long as this one lives.
        return 0 if got < PAGE or self._ended.poll(0) else got // PAGE * PAGE

    def _slow(self, start: int, size: int) -> int:
        try:
            got = os.preadv(self._mem, [self._view[:size]], start)
        except OSError:
            return 0  # a hole (EIO)
        if got < PAGE:  # the end of the file is that of the process
            raise ProcessLookupError
        return got // PAGE * PAGE

    def read(self, start: int, end: int, page: int, sink: Sink) -> None:
        """Give the pages of an address range to `sink`, from page number `page` on, never across
        the areas of the object. What vanishes meanwhile is left out. Raises ProcessLookupError
        when the process has ended.
        """
        while start < end:
            # Up to an area's end, so that the next reads are whole areas.
            want = min(end - start, CHUNK - page * PAGE % CHUNK)
            got = self._fast(start, want) or self._slow(start, want)
            if got:
                sink(page, self._view[:got])
                page += got // PAGE
            start += got
            if not got:  # a hole, by now
                start += PAGE
                page += 1
