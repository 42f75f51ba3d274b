"""What the C library does with the memory of frames that were freed.

glibc gives large blocks back to the kernel as soon as they are freed, and a frame is one: for each
that comes in, the kernel then clears a megabyte of pages anew. That took 40 % of the time of a
receiver (perf, docs/memory.md).
"""

from __future__ import annotations

import ctypes

# malloc.h; mallopt(3)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
KEPT = 64 << 20  # bytes that this process may hold in reserve
LARGEST = 32 << 20  # the most that glibc takes on 64 bits (malloc.c: HEAP_MAX_SIZE / 2)


def keep_freed_memory() -> bool:
    """Let this process use the memory of freed frames again. Gives whether its C library can."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, LARGEST) and mallopt(_M_TRIM_THRESHOLD, KEPT))
