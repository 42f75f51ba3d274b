"""Xvfb's screen as PNG: read back by a small decoder that knows only PNG."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.quake.screen import COLOUR, HEADER, BadFrame, png

Pixel = tuple[int, int, int]
PIXELS = st.tuples(*[st.integers(0, 255)] * 3)


def dump(rows: list[list[Pixel]], *, pad: int = 0, colours: int = 3, bits: int = 32) -> bytes:
    """A screen as Xvfb would write it, with a window's name and `pad` bytes after each row."""
    width = len(rows[0])
    name = b"Xvfb\0"
    head = HEADER.pack(
        HEADER.size + len(name), 7, 2, 24, width, len(rows), 0, 0, 32, 0, 32, bits,
        width * 4 + pad, 4, 0xFF0000, 0xFF00, 0xFF, 8, 256, colours, width, len(rows), 0, 0, 0,
    )  # fmt: skip
    body = b"".join(
        b"".join(bytes((blue, green, red, 0x7F)) for red, green, blue in row) + b"\xee" * pad
        for row in rows
    )
    return head + name + b"\xcc" * colours * COLOUR + body


def pixels(file: bytes) -> list[list[Pixel]]:
    """The pixels of a PNG of 8-bit colours without filters; checks every checksum."""
    assert file[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(file):
        (length,) = struct.unpack_from(">I", file, at)
        kind, data = file[at + 4 : at + 8], file[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", file, at + 8 + length)[0] == zlib.crc32(kind + data)
        chunks[kind] = data
        at += length + 12
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert rest == [8, 2, 0, 0, 0]
    body = zlib.decompress(chunks[b"IDAT"])
    assert len(body) == height * (width * 3 + 1)
    rows = []
    for number in range(height):
        row = body[number * (width * 3 + 1) :][: width * 3 + 1]
        assert row[0] == 0
        rows.append([(row[i], row[i + 1], row[i + 2]) for i in range(1, len(row), 3)])
    return rows


@given(
    st.integers(1, 6).flatmap(
        lambda width: st.lists(
            st.lists(PIXELS, min_size=width, max_size=width), min_size=1, max_size=5
        )
    ),
    st.integers(0, 9),
    st.integers(0, 4),
)
def test_every_pixel_keeps_its_place_and_colour(
    rows: list[list[Pixel]], pad: int, colours: int
) -> None:
    assert pixels(png(dump(rows, pad=pad, colours=colours))) == rows


ONE = dump([[(1, 2, 3), (4, 5, 6)]])


@pytest.mark.parametrize(
    "broken", [b"", ONE[:50], ONE[:-1], dump([[(1, 2, 3)]], bits=16), b"\0" * len(ONE)]
)
def test_what_is_no_screen_is_refused(broken: bytes) -> None:
    with pytest.raises(BadFrame):
        png(broken)


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_but_be_refused(noise: bytes) -> None:
    with pytest.raises(BadFrame):
        png(noise)
