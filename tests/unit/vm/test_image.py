"""tests.vm.image: the kernel out of its wrapping."""

from __future__ import annotations

import struct

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tests.vm.image import unpacked_kernel


def bzimage(payload: bytes, sectors: int) -> bytes:
    """A boot sector, setup code, and the payload somewhere behind it, with its size after it."""
    lead, packed = b"\x90" * 100, zstandard.ZstdCompressor().compress(payload)
    packed += struct.pack("<I", len(payload))
    head = bytearray((sectors or 4) * 512 + 512)
    head[0x1F1] = sectors
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", head, 0x248, len(lead), len(packed))
    return bytes(head) + lead + packed + b"rest"


@given(st.binary(min_size=1, max_size=4096), st.sampled_from([0, 4, 27, 64]))
def test_the_kernel_comes_out_whole(payload: bytes, sectors: int) -> None:
    assert unpacked_kernel(bzimage(payload, sectors)) == payload


def test_what_cannot_be_unpacked_is_said() -> None:
    with pytest.raises(ValueError, match="no bzImage"):
        unpacked_kernel(b"\x7fELF" + bytes(4096))
    packed = bzimage(b"kernel", 4).replace(b"\x28\xb5\x2f\xfd", b"\xfd7zX")
    with pytest.raises(ValueError, match="not packed with zstd"):
        unpacked_kernel(packed)
