"""migrate.pagemap: CRIU's pagemaps, read and written without protobuf."""

from __future__ import annotations

import io
import os
import stat
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.pagemap import (
    MAX_BYTES,
    PE_LAZY,
    PE_PARENT,
    PE_PRESENT,
    Entry,
    decode,
    encode,
    read,
    write,
)
from transport.errors import StreamCorrupt

MAGIC = bytes.fromhex("19435654 25400856")

entries = st.lists(
    st.builds(
        lambda page, count, flags: Entry(page, min(count, (1 << 52) - page), flags),
        st.integers(0, (1 << 52) - 1),
        st.one_of(st.integers(1, 10_000), st.integers(1, 1 << 40)),
        st.integers(0, 7),
    ),
    max_size=20,
)


def message(*fields: tuple[int, int]) -> bytes:
    """A protobuf message of varints, with its length before it."""
    content = b"".join(varint(number << 3) + varint(value) for number, value in fields)
    return struct.pack("<I", len(content)) + content


def varint(value: int) -> bytes:
    if value < 128:
        return bytes([value])
    return bytes([value & 127 | 128]) + varint(value >> 7)


def image(*messages: bytes) -> bytes:
    return MAGIC + message((1, 7)) + b"".join(messages)


@given(pages_id=st.integers(0, (1 << 32) - 1), listed=entries)
def test_it_comes_back(pages_id: int, listed: list[Entry]) -> None:
    assert decode(encode(pages_id, listed)) == (pages_id, listed)


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "pagemap-1.img"
    write(path, 3, [Entry(1, 2, PE_PRESENT), Entry(9, 1, PE_PARENT)])
    write(path, 3, [Entry(1, 2, PE_PRESENT)])
    assert read(path) == (3, [Entry(1, 2, PE_PRESENT)])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "pagemap-1.img").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="symbolic"):
        write(tmp_path / "pagemap-1.img", 3, [])


def test_the_bytes_are_those_of_protobuf() -> None:
    expected = image(message((1, 0x400000), (2, 300), (4, PE_PRESENT | PE_LAZY), (5, 300)))
    assert encode(7, [Entry(0x400, 300, PE_PRESENT | PE_LAZY)]) == expected


def test_a_count_that_old_crius_cannot_hold() -> None:
    expected = image(message((1, 0), (2, 0), (4, PE_PRESENT), (5, 1 << 32)))
    assert encode(7, [Entry(0, 1 << 32, PE_PRESENT)]) == expected


@pytest.mark.parametrize(
    ("fields", "flags"),
    [
        ([(1, 4096), (2, 5)], PE_PRESENT),  # before CRIU 3.0
        ([(1, 4096), (2, 5), (3, 1)], PE_PARENT),
        ([(1, 4096), (2, 5), (3, 0)], PE_PRESENT),
        ([(1, 4096), (2, 5), (4, 6)], PE_PRESENT | PE_LAZY),
        ([(1, 4096), (2, 0), (4, 2), (5, 5)], PE_LAZY),  # CRIU 4.2
        ([(1, 4096), (2, 9), (4, 1), (5, 5)], PE_PARENT),
        ([(5, 5), (4, 4), (2, 0), (1, 4096)], PE_PRESENT),
    ],
)
def test_as_crius_old_and_new_write_it(fields: list[tuple[int, int]], flags: int) -> None:
    assert decode(image(message(*fields))) == (7, [Entry(1, 5, flags)])


@pytest.mark.parametrize(
    "content",
    [
        b"", MAGIC, MAGIC[::-1] + message((1, 7)), MAGIC + message((2, 7)),
        MAGIC + message((1, 1 << 32)), image(b"\0"), image(message((1, 4096))),
        image(message((2, 1))), image(message((1, 4097), (2, 1))),
        image(message((1, 4096), (2, 0))), image(message((1, 4096), (2, 1), (4, 8))),
        image(message((1, 4096), (2, 1), (6, 1))), image(message((1, 4096), (2, 1), (0, 1))),
        image(message((1, (1 << 64) - 4096), (5, 2))), image(message((1, 4096), (5, 1 << 64))),
        image(struct.pack("<I", 5) + b"\x08\x80\x20\x10\x81"),
        image(struct.pack("<I", 3) + b"\x08\x80\x20"),
        image(struct.pack("<I", 6) + b"\x0d\x00\x10\x00\x00\x00"),
        image(struct.pack("<I", 65) + bytes(65)), image(struct.pack("<I", 10) + b"\x08\x00"),
    ],
)  # fmt: skip
def test_what_is_no_pagemap(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "pagemap-1.img"
    path.write_bytes(content)
    with pytest.raises(StreamCorrupt):
        read(path)


@given(listed=entries, data=st.data())
def test_a_mutated_one_is_refused_or_sane(listed: list[Entry], data: st.DataObject) -> None:
    content = bytearray(encode(1, listed))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(len(content) // 2, len(content))) :]
    try:
        _, found = decode(bytes(content))
    except (ValueError, IndexError, struct.error):  # what `read` turns into StreamCorrupt
        return
    for entry in found:
        assert entry.count > 0
        assert entry.page >= 0
        assert entry.page + entry.count <= 1 << 52
        assert 0 <= entry.flags <= 7


def test_one_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "pagemap-1.img"
    path.write_bytes(MAGIC)
    os.truncate(path, MAX_BYTES + 1)
    with pytest.raises(StreamCorrupt, match="larger"):
        read(path)


def test_pycriu_reads_what_we_write() -> None:
    images = pytest.importorskip("pycriu.images")
    shown = images.load(
        io.BytesIO(encode(7, [Entry(0x400, 300, PE_PRESENT | PE_LAZY), Entry(0x800, 1, PE_PARENT)]))
    )
    head, first, second = shown["entries"]
    assert head["pages_id"] == 7
    assert (first["vaddr"], first["nr_pages"], first["flags"]) == (0x400000, 300, 6)
    assert (second["vaddr"], second["nr_pages"], second["flags"]) == (0x800000, 1, 1)


def test_we_read_what_pycriu_writes() -> None:
    images = pytest.importorskip("pycriu.images")
    shown = {
        "magic": "PAGEMAP",
        "entries": [
            {"pages_id": 7},
            {"vaddr": 0x400000, "compat_nr_pages": 0, "nr_pages": 300, "flags": 6},
            {"vaddr": 0x800000, "compat_nr_pages": 1, "in_parent": True},
        ],
    }
    file = io.BytesIO()
    images.dump(shown, file)
    assert decode(file.getvalue()) == (7, [Entry(0x400, 300, 6), Entry(0x800, 1, PE_PARENT)])
