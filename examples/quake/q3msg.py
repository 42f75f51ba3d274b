"""Messages of Quake 3's network protocol: bits, numbers and strings, and its two Huffman codes.

Written from reading ioquake3's code/qcommon/msg.c and huffman.c; no line is copied. A message is a
stream of bits, the lowest bit of each byte first. A number of n bits is written as its n % 8 lowest
bits plainly, then its whole bytes, each as a Huffman code (MSG_WriteBits). The code is the same in
every game: CODES is protocol data, what the adaptive coder of huffman.c has learnt after the byte
frequencies `msg_hData` of msg.c. The same coder, starting from nothing, compresses the one text
that is sent before there is a connection ("connect", NET_OutOfBandData): that is `compress`.
"""

from __future__ import annotations

# One number per byte value: its code, the bit sent first lowest, under a 1 that marks its length.
_CODE_WORDS = """
    6 3b c8 ec 1a1 111 90 7f 35 b4 e9 8b 93 6d 139 2ac a5 258 3f0 3f8 5dd 7f3 62b 723 2f4 58d
    4ab 763 5eb 143 24f 1d4 77 4d3 244 6cd 7c5 7f9 70d 7cd 294 5ac 433 414 671 6f0 3f4 178 a7
    1c3 1ef 397 153 1b1 20d 361 207 2f1 399 591 523 2bc 344 5f3 1cf d0 fc 84 121 151 280 270 33d
    463 6d7 771 39d 6ab 5c7 733 32c 49d 56b 76b 5d3 571 5e3 633 4d7 6cb 370 2a8 2c7 305 2eb 1d8
    2f3 13c 3ab 38f 297 b0 141 34f 5c 128 2bd 2c4 198 28f 10c 1b3 185 18c 147 179 d9 c0 117 119
    14b 1e1 1a3 173 16f e8 88 e5 5f a9 cc fd 10f 183 101 187 167 1e7 157 174 3cb 3c4 281 24d 331
    563 380 7d7 42b 545 46b 43d 72b 4f9 4e3 645 52b 431 7eb 5b9 314 5f9 533 42c 6dd 5c1 71d 5d1
    338 461 6e3 745 66b 4cd 4cb 54d 238 7c1 63d 7bc 4c5 7ac 7e3 699 7d3 614 603 5bc 69d 781 663
    48d 154 303 15d 60 89 7c7 707 1b8 3f1 62c 445 403 51d 5c5 74d 41d 200 7b9 4dd 581 50d 4b9
    5cd 794 5bd 594 78d 558 7bd 4c1 7dd 4f8 2d1 291 499 6f8 423 471 6d3 791 c9 631 507 661 623
    118 605 6c1 5d7 4f0 6c5 700 7d1 7a8 61d d00 405 758 6f9 5a8 6b9 68d af 64
    """
CODES = [int(word, 16) for word in _CODE_WORDS.split()]
LONGEST = max(code.bit_length() for code in CODES) - 1  # bits


def _lookup() -> list[tuple[int, int]]:
    """For every value of the next LONGEST bits: the byte they begin with and its code's length.

    A length of 0 is the one code that stands for no byte ("not yet transmitted", in huffman.c).
    """
    table = [(0, 0)] * (1 << LONGEST)
    for byte, marked in enumerate(CODES):
        length = marked.bit_length() - 1
        code = marked ^ (1 << length)
        for rest in range(1 << (LONGEST - length)):
            table[code | rest << length] = (byte, length)
    return table


_TABLE = _lookup()


class BadMessage(ValueError):
    """A message ends too early or holds what no server would send."""


class Reader:
    """Reads the fields of one message in order; raises BadMessage when it has ended."""

    def __init__(self, data: bytes) -> None:
        self._stream = int.from_bytes(data, "little")
        self._left = len(data) * 8

    def bits(self, count: int) -> int:
        """An unsigned number of `count` bits."""
        plain = count & 7
        value = self._stream & ((1 << plain) - 1)
        self._drop(plain)
        for shift in range(plain, count, 8):
            byte, length = _TABLE[self._stream & ((1 << LONGEST) - 1)]
            if not length:
                raise BadMessage("a code that stands for no byte")
            self._drop(length)
            value |= byte << shift
        return value

    def byte(self) -> int:
        return self.bits(8)

    def short(self) -> int:
        return _signed(self.bits(16), 16)

    def long(self) -> int:
        return _signed(self.bits(32), 32)

    def string(self) -> str:
        text = bytearray()
        while byte := self.byte():
            text.append(byte)
        return _harmless(bytes(text)).decode("ascii")

    def _drop(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise BadMessage("the message ends inside a field")
        self._stream >>= count


class Writer:
    """Writes the fields of one message in order."""

    def __init__(self) -> None:
        self._stream = 0
        self._length = 0

    def bits(self, value: int, count: int) -> None:
        """The lowest `count` bits of `value` (negative numbers in two's complement)."""
        plain = count & 7
        self._put(value & ((1 << plain) - 1), plain)
        for shift in range(plain, count, 8):
            marked = CODES[value >> shift & 0xFF]
            length = marked.bit_length() - 1
            self._put(marked ^ (1 << length), length)

    def byte(self, value: int) -> None:
        self.bits(value, 8)

    def long(self, value: int) -> None:
        self.bits(value, 32)

    def string(self, text: str) -> None:
        for byte in _harmless(text.encode("latin-1", "replace")) + b"\0":
            self.byte(byte)

    def data(self) -> bytes:
        # A byte more than needed when the bits end with a byte: so does MSG_WriteBits.
        return self._stream.to_bytes((self._length >> 3) + 1, "little")

    def _put(self, code: int, length: int) -> None:
        self._stream |= code << self._length
        self._length += length


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def _harmless(text: bytes) -> bytes:
    """As both ends do: "%" and bytes above 127 become "." (old clients printf their messages)."""
    return bytes(ord(".") if byte > 127 or byte == ord("%") else byte for byte in text)


class _Node:
    """A node of the growing tree; `byte` is None in inner nodes and in the empty leaf."""

    __slots__ = ("byte", "left", "parent", "right", "weight")

    def __init__(self, byte: int | None, weight: int) -> None:
        self.byte = byte
        self.weight = weight
        self.left: _Node | None = None
        self.right: _Node | None = None
        self.parent: _Node | None = None


class AdaptiveTree:
    """The tree that sender and receiver grow alike, byte by byte (FGK; Sayood, "Data Compression").

    Nodes are ranked by weight in `_order`. The exact order of swaps is part of the protocol, where
    it leaves the textbook too: in `_count`, ranks are swapped even with the parent, and put right
    again afterwards.
    """

    def __init__(self) -> None:
        self._empty = _Node(None, 0)  # the leaf of every byte not seen yet
        self._order = [self._empty]
        self._leaves: dict[int, _Node] = {}

    def code(self, byte: int) -> list[int]:
        """The bits that stand for `byte` now: its path, or the empty leaf's and the byte itself."""
        leaf = self._leaves.get(byte)
        if leaf is None:
            return self._path(self._empty) + [byte >> shift & 1 for shift in range(7, -1, -1)]
        return self._path(leaf)

    def add(self, byte: int) -> None:
        """Count one more `byte`."""
        leaf = self._leaves.get(byte)
        if leaf is not None:
            self._count(leaf)
            return
        inner, leaf = _Node(None, 1), _Node(byte, 1)
        above = self._empty.parent
        inner.left, inner.right, inner.parent = self._empty, leaf, above
        if above is not None:
            above.left = inner  # the empty leaf is always a left one
        self._empty.parent = leaf.parent = inner
        self._order[1:1] = [leaf, inner]
        self._leaves[byte] = leaf
        if above is not None:
            self._count(above)

    @staticmethod
    def _path(node: _Node) -> list[int]:
        path = []
        while node.parent is not None:
            path.append(int(node.parent.right is node))
            node = node.parent
        return path[::-1]

    def _count(self, node: _Node) -> None:
        order = self._order
        rank = top = order.index(node)
        while top + 1 < len(order) and order[top + 1].weight == node.weight:
            top += 1
        if top != rank:
            if order[top] is not node.parent:
                self._trade_places(order[top], node)
            order[top], order[rank] = node, order[top]
        node.weight += 1
        if node.parent is not None:
            self._count(node.parent)
            rank = order.index(node)
            if order[rank - 1] is node.parent:
                order[rank - 1], order[rank] = node, order[rank - 1]

    @staticmethod
    def _trade_places(one: _Node, other: _Node) -> None:
        above_one, above_other = one.parent, other.parent
        # One after the other, not at once: between two children of one node nothing changes.
        for above, old, new in ((above_one, one, other), (above_other, other, one)):
            if above is not None and above.left is old:
                above.left = new
            elif above is not None:
                above.right = new
        one.parent, other.parent = above_other, above_one


def compress(data: bytes) -> bytes:
    """`data` with its length in front, as the server's Huff_Decompress takes it."""
    tree = AdaptiveTree()
    stream = length = 0
    for byte in data:
        for bit in tree.code(byte):
            stream |= bit << length
            length += 1
        tree.add(byte)
    return len(data).to_bytes(2, "big") + stream.to_bytes((length >> 3) + 1, "little")
