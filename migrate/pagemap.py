"""CRIU's pagemap images: which pages a process, or a shared memory segment, has.

    IMG_COMMON_MAGIC 4 | PAGEMAP_MAGIC 4 | (length 4 | message)...

(criu/image.c, criu/include/magic.h; numbers little-endian.) The first message is a pagemap_head,
the others are pagemap_entry (images/pagemap.proto): five fields, all varints. They are read and
written here without protobuf because the container stands still meanwhile: since Python 3.14
pycriu forces protobuf's implementation in Python, which takes 15 us to read an entry and 26 to
write one (this: 2 and 1), and importing pycriu takes 0.2 to 0.5 s.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from transport.errors import StreamCorrupt

PE_PARENT: Final = 1
"""The page is in the parent image directory (criu/include/pagemap.h)."""
PE_LAZY: Final = 2
"""The page may be filled in after the restore."""
PE_PRESENT: Final = 4
"""The page is in the pages image beside this."""

MAX_BYTES: Final = 64 << 20
"""The largest pagemap that is read: 3 million entries."""
_MAGIC: Final = struct.pack("<II", 0x54564319, 0x56084025)
_PAGE_SHIFT: Final = 12
_LENGTH = struct.Struct("<I")
_END: Final = 1 << 64  # of the address space: CRIU counts in unsigned longs
_MAX_FLAGS: Final = PE_PARENT | PE_LAZY | PE_PRESENT
_MESSAGE: Final = 64  # bytes; the longest message, five fields of at most 11 bytes


class Entry(NamedTuple):
    """`count` pages from number `page` (address / 4096) on; `flags`: PE_*."""

    page: int
    count: int  # type: ignore[assignment]  # nobody counts values in an entry
    flags: int


def read(path: Path) -> tuple[int, list[Entry]]:
    """The number of the pages image that belongs to it, and the entries in their order.

    Entries of old CRIUs come out as CRIU itself understands them (init_compat_pagemap_entry of
    criu/pagemap.c). Raises StreamCorrupt for what is no pagemap; an entry has at least one page
    and ends within 64 bits of address, no more is promised.
    """
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise StreamCorrupt(f"{path.name} is larger than any pagemap")
    try:
        return decode(data)
    except (ValueError, IndexError, struct.error) as problem:
        raise StreamCorrupt(f"{path.name} is no pagemap: {problem}") from problem


def write(path: Path, pages_id: int, entries: Iterable[Entry]) -> None:
    """Make or replace the file, for root only. OSErrors pass."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags, 0o600), "wb") as file:
        file.write(encode(pages_id, entries))


def decode(data: bytes) -> tuple[int, list[Entry]]:
    """As `read`, but raises ValueError, IndexError or struct.error."""
    if not data.startswith(_MAGIC):
        raise ValueError("it begins in another way")
    fields, at = _fields(data, len(_MAGIC))
    if fields[1] is None or not 0 <= fields[1] < 1 << 32:
        raise ValueError("it has no number of a pages image")
    pages_id, end = fields[1], len(data)
    entries: list[Entry] = []
    append, match, numbers = entries.append, _ENTRY.match, _Numbers()
    while at < end:
        # As in pagemap.proto: 1 vaddr, 2 compat_nr_pages (nr_pages until CRIU 4.1), 3 in_parent,
        # 4 flags, 5 nr_pages (64 bits, since 4.2, which leaves the other one 0).
        usual = match(data, at)
        if usual and usual.end() - at - 4 == data[at]:
            low, high, old, flag, new = usual.groups()
            address: int | None = numbers[low] | numbers[high] << 21
            compat: int | None = numbers[old]
            in_parent: int | None = None
            flags: int | None = flag[0]
            count = numbers[new] if new else None
            at = usual.end()
        else:
            (_, address, compat, in_parent, flags, count), at = _fields(data, at)
        if count is None:
            count = compat
        if in_parent:
            flags = (flags or 0) | PE_PARENT
        elif flags is None:
            flags = PE_PRESENT
        if address is None or address & 0xFFF or not count or flags & ~_MAX_FLAGS:
            raise ValueError(f"an entry makes no sense: {address}, {count} pages, {flags}")
        if address + (count << _PAGE_SHIFT) > _END:
            raise ValueError(f"an entry ends outside of the address space: {address}, {count}")
        append(Entry(address >> _PAGE_SHIFT, count, flags))
    return pages_id, entries


# An entry above 2 MiB as CRIU writes it: its length, then the address in two parts, of which the
# first is one of 512, and the second mostly that of the entry before; then the other fields.
_ENTRY: Final = re.compile(
    rb"[\0-\x40]\0{3}\x08([\x80-\xff]{3})([\x80-\xff]{0,6}[\0-\x7f])"
    rb"\x10([\x80-\xff]{0,9}[\0-\x7f])\x20([\0-\x07])(?:\x28([\x80-\xff]{0,9}[\0-\x7f]))?"
)


class _Numbers(dict[bytes, int]):
    """What parts of a protobuf number stand for; there are few different ones in a pagemap."""

    def __missing__(self, coded: bytes) -> int:
        value = sum((byte & 127) << 7 * i for i, byte in enumerate(coded))
        self[coded] = value
        return value


def _fields(data: bytes, at: int) -> tuple[list[int | None], int]:
    """The fields 1 to 5 of the message whose length is at `at`, and where the next one begins."""
    (length,) = _LENGTH.unpack_from(data, at)
    at += 4
    end = at + length
    if length > _MESSAGE or end > len(data):
        raise ValueError("a message ends outside of it")
    fields: list[int | None] = [None, None, None, None, None, None]
    while at < end:
        tag, value = data[at], data[at + 1]
        at += 2
        if tag & 7 or not 8 <= tag <= 40:  # protobuf: number << 3 | type, 0 is a varint
            raise ValueError(f"a message has a field that is not known ({tag})")
        if value > 127:
            value &= 127
            shift = 7
            while (byte := data[at]) > 127:
                value |= (byte & 127) << shift
                shift += 7
                at += 1
            value |= byte << shift
            at += 1
        fields[tag >> 3] = value
    if at != end:
        raise ValueError("a message ends in the middle of a number")
    return fields, at


def encode(pages_id: int, entries: Iterable[Entry]) -> bytes:
    """The content of a pagemap image that CRIU 3.16 and all later ones read."""
    head = b"\x08" + _varint(pages_id)
    parts = [_MAGIC, _LENGTH.pack(len(head)), head]
    append, small, low, pack = parts.append, _SMALL, _LOW, _LENGTH.pack
    region, upper = -1, b""
    for page, count, flags in entries:
        pages = small[count] if count < 4096 else _varint(count)
        # A count that does not fit the old field is only in the new one.
        old = pages if count < 1 << 32 else b"\x00"
        # Of an address the lowest 21 bits, 2 MiB, are three bytes; the rest mostly stays the same.
        if page >> 9 != region:
            region = page >> 9
            upper = _varint(region)
        address = low[page & 511] + upper if region else _varint(page << 12)
        message = b"\x08%b\x10%b\x20%b\x28%b" % (address, old, small[flags], pages)
        append(pack(len(message)) + message)
    return b"".join(parts)


def _varint(value: int) -> bytes:
    """A number in protobuf's coding: seven bits a byte, the lowest ones first."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


_SMALL: Final = [_varint(number) for number in range(4096)]
# The three bytes of the lowest 21 bits of an address, when there are higher ones.
_LOW: Final = [_varint(page << 12 | 1 << 21)[:3] for page in range(512)]
