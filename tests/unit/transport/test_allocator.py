"""transport.allocator: what is freed is used again, without the kernel's help."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, resource, sys
from transport import allocator
if sys.argv[1] == "kept" and not allocator.keep_freed_memory():
    sys.exit(3)
if sys.argv[1] == "musl":
    allocator.ctypes.CDLL = lambda _: object()
    assert allocator.keep_freed_memory() is False
for size in (1 << 20, 3 << 20):
    bytes(bytearray(size))
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
for _ in range(50):
    for size in (1 << 20, 3 << 20):
        bytes(bytearray(size))
print(faults() - before)
"""


@pytest.mark.parametrize("how", ["kept", "not", "musl"])
def test_freed_memory_is_used_again(how: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=False
    )
    if ran.returncode == 3:
        pytest.skip("this C library has no mallopt")
    assert ran.returncode == 0, ran.stderr
    # Without it, each of the 200 buffers of 2 MiB is cleared by the kernel, page by page.
    assert (int(ran.stdout) < 1000) == (how == "kept")
