"""A picture of a screen: from what Xvfb keeps in its file (`-fbdir`, the format of xwd) to PNG.

By hand, because the file can be read at any moment without calling a program on the host, which
would take time from the very migration that is looked at.
"""

from __future__ import annotations

import struct
import zlib

HEADER = struct.Struct(">25I")  # XWDFile.h: 25 numbers, always big-endian, then the window's name
VERSION, Z_PIXMAP = 7, 2
COLOUR = 12  # bytes of one entry of the colour table, which comes before the pixels


class BadFrame(ValueError):
    """These bytes are no screen of 24-bit colours."""


def png(dump: bytes) -> bytes:
    """The whole screen as a PNG file. Raises BadFrame."""
    width, height, rows = _rows(dump)
    # Each row begins with the number of its filter: 0, none.
    body = zlib.compress(b"".join(b"\0" + row for row in rows), 6)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", body), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _rows(dump: bytes) -> tuple[int, int, list[bytes]]:
    """Width, height, and each row as red, green, blue."""
    if len(dump) < HEADER.size:
        raise BadFrame(f"{len(dump)} bytes are no screen")
    head = HEADER.unpack_from(dump)
    size, version, kind, _, width, height = head[:6]
    low_first, bits, stride, colours = head[7] == 0, head[11], head[12], head[19]
    if (version, kind, bits, low_first) != (VERSION, Z_PIXMAP, 32, True):
        raise BadFrame(f"version {version}, format {kind}, {bits} bits per pixel")
    begin = size + colours * COLOUR
    if not width or not height or stride < width * 4 or len(dump) < begin + stride * height:
        raise BadFrame(f"{len(dump)} bytes do not hold {width} x {height} pixels")
    rows = []
    for number in range(height):
        at = begin + number * stride
        line = dump[at : at + width * 4]
        row = bytearray(width * 3)
        # In memory a pixel is blue, green, red, nothing.
        row[0::3], row[1::3], row[2::3] = line[2::4], line[1::4], line[0::4]
        rows.append(bytes(row))
    return width, height, rows
