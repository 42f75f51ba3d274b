"""Which memory of a container the rounds read: its processes, their mappings, the pages in them.

What is left out here is not lost: the final dump lists every page that counts (page_compare.py,
`unseen`). Sources: proc_pid_maps(5), proc_pid_pagemap(5), Documentation/admin-guide/mm/pagemap.rst
(PAGEMAP_SCAN, Linux >= 6.7).
"""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from migrate.page_batch import PAGE
from migrate.proc_text import lines, text

# include/uapi/linux/fs.h
PAGEMAP_SCAN = 0xC0606610
IS_FILE, IS_PRESENT, IS_SWAPPED, IS_PFNZERO, IS_SOFT_DIRTY = 1 << 2, 1 << 3, 1 << 4, 1 << 5, 1 << 7
SCAN_ARG = struct.Struct("12Q")
SCAN_REGIONS = 2048  # ranges that one call reports
ENTRIES = 1 << 16  # pages of one read of pagemap
# Bits of a pagemap entry: present, swapped, file-mapped or shared, written to since the last clear.
PRESENT, SWAPPED, FILE, SOFT_DIRTY = 1 << 63, 1 << 62, 1 << 61, 1 << 55
NOT_MEMORY = ("[vvar", "[vsyscall]", "[vdso]", "[uprobes]")


class Region(msgspec.Struct, array_like=True, frozen=True):
    """A part of an object, readable at `start`..`end` of process `pid`; `page`: the object's page
    number at `start`; `shared`: the pages are a shared segment's."""

    object: int
    pid: int
    start: int
    end: int
    page: int
    shared: bool


@dataclass(frozen=True)
class Mapping:
    """One line of /proc/PID/maps that holds memory to be moved. `inode`: of a shared segment."""

    start: int
    end: int
    offset: int
    shared: bool
    inode: int
    executable: bool


def parse_maps(content: str) -> list[Mapping]:
    """The mappings of /proc/PID/maps that CRIU dumps pages of."""
    found = []
    for line in lines(content):
        fields = line.split(maxsplit=5)
        if len(fields) < 5:
            continue
        name = fields[5] if len(fields) > 5 else ""
        if name.startswith(NOT_MEMORY):
            continue
        shared = fields[1][3] == "s"
        # Shared mappings of files hold no memory of the container's own; anonymous ones do, which
        # the kernel shows as deleted files of its internal tmpfs (mm/shmem.c: shmem_zero_setup).
        if shared and not name.startswith(("/dev/zero", "/memfd:", "[anon_shmem:", "/SYSV")):
            continue
        start, end = (int(part, 16) for part in fields[0].split("-"))
        offset, inode = int(fields[2], 16), int(fields[4])
        found.append(Mapping(start, end, offset, shared, inode, fields[1][2] == "x"))
    return found


def container_pids(freezer: str) -> list[int]:
    """The processes (thread groups) of a container: all of its freezer cgroup and those below."""
    pids: list[int] = []
    for directory, _, files in os.walk(freezer):
        if "cgroup.procs" in files:
            try:
                listed = text(Path(directory, "cgroup.procs"))
            except OSError:
                continue
            pids += [int(word) for word in listed.split()]
    return sorted(set(pids))


def inner_pid(status: str, level: int) -> int:
    """The pid within the container, from /proc/PID/status (`NSpid`); 0 when there is none.

    `level`: of its pid namespace below the one of /proc; a process may be in a deeper one.
    """
    for line in lines(status):
        if line.startswith("NSpid:"):
            pids = line.split()[1:]
            return int(pids[level]) if level < len(pids) else 0
    return 0


def pid_level(status: str) -> int:
    """The level of a container's pid namespace, from its init's status."""
    for line in lines(status):
        if line.startswith("NSpid:"):
            return len(line.split()) - 2
    return 0


class Objects:
    """Numbers for the objects of a container, and the regions in which they can be read now."""

    def __init__(self, init: int, proc: Path = Path("/proc")) -> None:
        """`init`: the container's first process. `pids`: where each address space was read last;
        `executable`: regions that the last look has left out."""
        self._proc = proc
        self._level = pid_level(text(proc / str(init) / "status"))
        self._numbers: dict[str, int] = {}
        self._fresh: list[tuple[int, str]] = []
        self._next = 1
        self._present: set[str] = set()
        self.pids: dict[str, int] = {}
        self.executable: list[Region] = []

    def number(self, name: str) -> int:
        """The number of an object, a new one when it is not known yet."""
        if name not in self._numbers:
            self._numbers[name] = self._next
            self._next += 1
            self._fresh.append((self._numbers[name], name))
        return self._numbers[name]

    def take_new(self) -> list[tuple[int, str]]:
        """The objects (number, name) that have come since this was asked last."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def saw(self, names: Iterable[str]) -> None:
        """These objects are there now, and no others (`regions` says so by itself)."""
        self._present = set(names)

    def take_gone(self) -> list[int]:
        """The objects that were not there at the last look; their numbers are not used again."""
        gone = [name for name in self._numbers if name not in self._present]
        return [self._numbers.pop(name) for name in gone]

    def regions(self, pids: Iterable[int], *, frozen: bool) -> list[Region]:
        """What to read now. Processes that end meanwhile are left out; `frozen`: executable memory,
        too, since CRIU's code is there for moments (compel/src/lib/infect.c: the system calls
        that it makes the tasks do). It is read when CRIU has written its list of pages
        (`executable`).
        """
        proc = self._proc
        self.pids = {}
        self.executable = []
        names: set[str] = set()
        found: list[Region] = []
        shared: dict[int, list[tuple[int, int]]] = {}
        for pid in pids:
            try:
                inner = inner_pid(text(proc / str(pid) / "status"), self._level)
                mappings = parse_maps(text(proc / str(pid) / "maps"))
            except (FileNotFoundError, ProcessLookupError):
                continue
            if not inner or not mappings:  # a zombie has no memory
                continue
            space = self.number(str(inner))
            self.pids[str(inner)] = pid
            names.add(str(inner))
            for m in mappings:
                into = self.executable if frozen and m.executable else found
                if not m.shared:
                    into.append(Region(space, pid, m.start, m.end, m.start // PAGE, False))
                    continue
                first, last = m.offset // PAGE, (m.offset + m.end - m.start) // PAGE
                # A segment that several processes map is read once.
                if any(a <= first and last <= b for a, b in shared.get(m.inode, ())):
                    continue
                shared.setdefault(m.inode, []).append((first, last))
                names.add(f"shmem-{m.inode}")
                number = self.number(f"shmem-{m.inode}")
                into.append(Region(number, pid, m.start, m.end, first, True))
        self.saw(names)
        return found


class PageMap:
    """Asks the kernel which pages of a process hold content of its own."""

    def __init__(self, pid: int) -> None:
        self._fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        self._scan = True

    def close(self) -> None:
        os.close(self._fd)

    def populated(
        self, start: int, end: int, *, shared: bool, written: bool = False
    ) -> Iterator[tuple[int, int]]:
        """Address ranges between `start` and `end` with pages in memory or in swap, without the
        zero page, and in private mappings without pages of the file. `written`: only those that
        were written to since the soft-dirty bits were cleared last."""
        if self._scan:
            try:
                yield from self._by_scan(start, end, shared, written)
                return
            except OSError as problem:
                if problem.errno not in (errno.ENOTTY, errno.EINVAL, errno.EOPNOTSUPP):
                    raise
                self._scan = False  # Linux < 6.7
        yield from self._by_entries(start, end, shared, written)

    def _by_scan(
        self, start: int, end: int, shared: bool, written: bool
    ) -> Iterator[tuple[int, int]]:
        vector = array.array("Q", bytes(24 * SCAN_REGIONS))
        unwanted = IS_PFNZERO | (0 if shared else IS_FILE)
        wanted = unwanted | (IS_SOFT_DIRTY if written else 0)
        while start < end:
            arg = bytearray(
                SCAN_ARG.pack(
                    SCAN_ARG.size, 0, start, end, 0, vector.buffer_info()[0], SCAN_REGIONS, 0,
                    unwanted, wanted, IS_PRESENT | IS_SWAPPED, IS_PRESENT,
                )
            )  # fmt: skip
            count = fcntl.ioctl(self._fd, PAGEMAP_SCAN, arg, True)
            for i in range(0, 3 * count, 3):
                yield vector[i], vector[i + 1]
            reached = SCAN_ARG.unpack(arg)[4]
            if reached <= start:
                return
            start = reached

    def _by_entries(
        self, start: int, end: int, shared: bool, written: bool
    ) -> Iterator[tuple[int, int]]:
        begun = None
        for at in range(start, end, ENTRIES * PAGE):
            count = min(ENTRIES, (end - at) // PAGE)
            data = os.pread(self._fd, 8 * count, at // PAGE * 8)
            if not data:
                raise ProcessLookupError  # it has ended
            # Nothing there, as in most of a sparse mapping: not worth a loop.
            if begun is None and not data.strip(b"\0"):
                continue
            for i, entry in enumerate(memoryview(data).cast("Q")):
                ours = (
                    entry & (PRESENT | SWAPPED)
                    and (shared or not entry & FILE)
                    and (not written or entry & SOFT_DIRTY)
                )
                if ours and begun is None:
                    begun = at + i * PAGE
                elif not ours and begun is not None:
                    yield begun, at + i * PAGE
                    begun = None
        if begun is not None:
            yield begun, end


def transparent_huge_pages() -> str:
    """The kernel's setting, such as `always [madvise] never`; '' when it has none."""
    try:
        return Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text().strip()
    except OSError:
        return ""


def tracks_writes() -> bool:
    """Whether this kernel has soft-dirty bits (CONFIG_MEM_SOFT_DIRTY): a page that has just been
    written to has one then (Documentation/admin-guide/mm/soft-dirty.rst)."""
    with mmap.mmap(-1, PAGE) as page:
        page[0] = 1
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            pagemap.seek(address // PAGE * 8)
            (entry,) = struct.unpack("Q", pagemap.read(8))
    return bool(entry & SOFT_DIRTY)
