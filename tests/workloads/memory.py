"""Memory of every kind, written to all the time, which knows what must be in it.

    python3 memory.py MIB [RATE] [random|plain|zero]

What a page holds follows from its area, its number and how often it was written; the program
keeps count of the writes, and on SIGUSR1 compares every page. So a page that is lost, stale or in
the wrong place is found, by name.
MIB: of private anonymous memory; RATE: MiB/s that are written (default 1). Beside it, some MiB
each: shared anonymous memory and a memfd (written by a child), a private mapping of a file,
executable memory, a sparse mapping of 16 GiB, memory between guard pages, memory for which huge
pages are asked. Every half second a child is forked that compares its copy of it all and ends.
stdout: one JSON line per 100 ms, {"nonce", "tick", "writes", "children", "broken": []}, and after
SIGUSR1 {"checked": pages, "broken": [...], "tick"}. Ends on SIGTERM.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import mmap
import os
import random
import signal
import struct
import sys
import time
from array import array

PAGE = 4096
TICK = float(os.environ.get("PAUSE", "0.1"))  # seconds
MADV_HUGEPAGE = 14
SPARSE = 16 << 30
SMALL = 512  # pages of the smaller areas
SHARED = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
NORESERVE = 0x4000

libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def content(area: str, page: int, version: int, kind: str) -> bytes:
    """What a page holds after so many writes."""
    if kind == "random":
        return hashlib.shake_128(f"{area} {page} {version}".encode()).digest(PAGE)
    if kind == "zero" and version % 2 == 0:
        return bytes(PAGE)
    return struct.pack("<QQ", page << 8 | len(area), version) * (PAGE // 16)


class Area:
    """A mapping of which the pages `numbers` are used. `versions`: how often each was written; in
    shared memory, too, when another process writes."""

    def __init__(
        self,
        name: str,
        memory: mmap.mmap,
        numbers: range,
        kind: str,
        versions: mmap.mmap | None = None,
    ):
        self.name = name
        self.memory = memory
        self.numbers = numbers
        self.kind = kind
        self.versions = (
            memoryview(versions).cast("I")
            if versions
            else memoryview(array("I", bytes(4 * len(numbers))))
        )

    def fill(self) -> None:
        for i, page in enumerate(self.numbers):
            self.memory[page * PAGE : (page + 1) * PAGE] = content(
                self.name, page, self.versions[i], self.kind
            )

    def write(self, i: int) -> None:
        page = self.numbers[i]
        self.versions[i] += 1
        self.memory[page * PAGE : (page + 1) * PAGE] = content(
            self.name, page, self.versions[i], self.kind
        )

    def broken(self) -> list[str]:
        return [
            f"{self.name}: page {page}"
            for i, page in enumerate(self.numbers)
            if self.memory[page * PAGE : (page + 1) * PAGE]
            != content(self.name, page, self.versions[i], self.kind)
        ]


def guarded() -> mmap.mmap:
    """Memory of which the first page, and every 64th, cannot be touched."""
    made = mmap.mmap(-1, (SMALL + 2) * PAGE, flags=PRIVATE)
    base = ctypes.addressof(ctypes.c_char.from_buffer(made))
    for page in (0, SMALL + 1):
        if libc.mprotect(base + page * PAGE, PAGE, 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    return made


def huge(pages: int) -> mmap.mmap:
    made = mmap.mmap(-1, pages * PAGE, flags=PRIVATE)
    with contextlib.suppress(OSError):  # a kernel without
        made.madvise(MADV_HUGEPAGE)
    return made


def file_mapping() -> mmap.mmap:
    """A private mapping of a file, of which half the pages are overwritten in memory only."""
    with open("/memory.data", "wb") as file:
        file.write(b"file" * (SMALL * PAGE // 4))
    fd = os.open("/memory.data", os.O_RDONLY)
    return mmap.mmap(
        fd, SMALL * PAGE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE
    )


def areas(mib: int, kind: str) -> tuple[list[Area], list[Area]]:
    """The areas that this process writes to, and those that the child writes to."""
    memfd = os.memfd_create("workload")
    os.ftruncate(memfd, SMALL * PAGE)
    execute = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    own = [
        Area(
            "private",
            mmap.mmap(-1, max(mib, 1) << 20, flags=PRIVATE),
            range((max(mib, 1) << 20) // PAGE),
            kind,
        ),
        Area("file", file_mapping(), range(0, SMALL, 2), kind),
        Area(
            "executable",
            mmap.mmap(-1, SMALL * PAGE, flags=PRIVATE, prot=execute),
            range(SMALL),
            kind,
        ),
        Area(
            "sparse",
            mmap.mmap(-1, SPARSE, flags=PRIVATE | NORESERVE),
            range(7, SPARSE // PAGE, 9973),
            kind,
        ),
        Area("guarded", guarded(), range(1, SMALL), kind),
        Area("huge", huge(4 * SMALL), range(4 * SMALL), kind),
    ]

    def shared(name: str, memory: mmap.mmap) -> Area:
        return Area(name, memory, range(SMALL), kind, mmap.mmap(-1, SMALL * 4, flags=SHARED))

    theirs = [
        shared("shared", mmap.mmap(-1, SMALL * PAGE, flags=SHARED)),
        shared("memfd", mmap.mmap(memfd, SMALL * PAGE, flags=mmap.MAP_SHARED)),
    ]
    for area in own + theirs:
        area.fill()
    return own, theirs


def write_for_ever(theirs: list[Area], pause: float) -> None:
    """The child: writes to the shared areas until its parent has gone."""
    parent = os.getppid()
    chosen = random.Random(2)
    while os.getppid() == parent:
        area = chosen.choice(theirs)
        # Blocked: the parent may compare at any time, and a page is written after its version.
        area.write(chosen.randrange(len(area.numbers)))
        time.sleep(pause)


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def main() -> None:
    mib = int(sys.argv[1])
    rate = float(sys.argv[2]) if len(sys.argv) > 2 else 1.0
    kind = sys.argv[3] if len(sys.argv) > 3 else "random"
    own, theirs = areas(mib, kind)
    asked: list[int] = []
    signal.signal(signal.SIGUSR1, lambda *_: asked.append(1))
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    writer = os.fork()
    if writer == 0:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        write_for_ever(theirs, 0.02)
        os._exit(0)
    nonce = os.urandom(8).hex()
    broken: list[str] = []
    chosen = random.Random(1)
    writes = children = tick = 0
    weights = [len(area.numbers) for area in own]
    while True:
        begun = time.monotonic()
        for _ in range(int(rate * (1 << 20) / PAGE * TICK)):
            area = chosen.choices(own, weights)[0]
            area.write(chosen.randrange(len(area.numbers)))
            writes += 1
        if tick % 5 == 0:
            child = os.fork()
            if child == 0:
                signal.signal(signal.SIGUSR1, signal.SIG_IGN)
                # Not all of it: the private area is large.
                os._exit(1 if any(area.broken() for area in own[1:3]) else 0)
            _, status = os.waitpid(child, 0)
            children += 1
            if status:
                broken.append(f"a child ended with {status}")
        if asked:
            asked.clear()
            os.kill(writer, signal.SIGSTOP)
            os.waitid(os.P_PID, writer, os.WSTOPPED)
            # The writer may have been stopped between the version and the page.
            found = [line for area in own for line in area.broken()]
            for area in theirs:
                found += area.broken()[1:]
            os.kill(writer, signal.SIGCONT)
            checked = sum(len(area.numbers) for area in own + theirs)
            say(checked=checked, broken=found[:20] + broken, tick=tick)
        tick += 1
        say(nonce=nonce, tick=tick, writes=writes, children=children, broken=broken)
        time.sleep(max(0.0, TICK - (time.monotonic() - begun)))


if __name__ == "__main__":
    main()
