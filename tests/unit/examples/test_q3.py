"""examples.quake: the Quake 3 protocol without a server."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.quake import build_image
from examples.quake.q3chan import FRAGMENT_SIZE, Channel, hash_command, scramble
from examples.quake.q3game import SVC_COMMAND, SVC_EOF, SVC_SNAPSHOT, Game
from examples.quake.q3msg import (
    CODES,
    LONGEST,
    AdaptiveTree,
    BadMessage,
    Reader,
    Writer,
    compress,
)
from examples.quake.q3oob import parse_info

WIDTHS = st.sampled_from([1, 3, 5, 8, 10, 13, 16, 19, 24, 32])


@given(st.lists(WIDTHS.flatmap(lambda n: st.tuples(st.integers(0, (1 << n) - 1), st.just(n)))))
def test_numbers_of_any_width_come_back(fields: list[tuple[int, int]]) -> None:
    writer = Writer()
    for value, width in fields:
        writer.bits(value, width)
    reader = Reader(writer.data())
    assert [reader.bits(width) for _, width in fields] == [value for value, _ in fields]


def test_known_bytes() -> None:
    # Made with ioquake3's own huffman.c and msg_hData: a long -2, a byte 0, a string "q3 ..".
    writer = Writer()
    writer.long(-2)
    writer.byte(0)
    writer.string("q3 %\xe9")
    assert writer.data().hex() == "2f922465bc7cd3a72f"
    reader = Reader(writer.data())
    assert (reader.long(), reader.byte(), reader.string()) == (-2, 0, "q3 ..")


def test_negative_numbers_are_read_as_such() -> None:
    writer = Writer()
    writer.bits(-5, 16)
    writer.long(-70000)
    reader = Reader(writer.data())
    assert (reader.short(), reader.long()) == (-5, -70000)


def test_the_fixed_code_is_a_prefix_code() -> None:
    assert len(set(CODES)) == 256
    lengths = [code.bit_length() - 1 for code in CODES]
    # One code of full length is left over: it stands for "not yet seen", which never happens.
    assert sum(1 << (LONGEST - length) for length in lengths) == (1 << LONGEST) - 1


def test_a_message_that_ends_early_is_noticed() -> None:
    writer = Writer()
    writer.long(0x12345678)
    with pytest.raises(BadMessage, match="ends"):
        Reader(writer.data()[:2]).long()


def decompress(data: bytes) -> bytes:
    """The receiver of `compress`, written the slow way: by trying every byte's code."""
    tree, out = AdaptiveTree(), bytearray()
    bits = [byte >> shift & 1 for byte in data[2:] for shift in range(8)]
    while len(out) < int.from_bytes(data[:2], "big"):
        byte = next(b for b in range(256) if bits[: len(tree.code(b))] == tree.code(b))
        del bits[: len(tree.code(byte))]
        tree.add(byte)
        out.append(byte)
    return bytes(out)


@given(st.binary(max_size=60))
def test_the_adaptive_code_comes_back(data: bytes) -> None:
    assert decompress(compress(data)) == data


def test_the_adaptive_code_is_the_games_own() -> None:
    # Made by ioquake3's own huffman.c, Huff_Compress.
    text = rb'"\name\migrant\protocol\71\qport\4711\challenge\-123456\rate\99999"'
    assert (
        compress(text)
        .hex()
        .startswith(
            "00434474b08b216cc79486e5311f4e99e272e1a0c49edfc778079b3aec016315c7a0ab1b2cdec23d61013e927b9f3d68b5c1c4617e13ac01b611ab1cc3c984"
        )
    )


@given(st.binary(max_size=80), st.integers(0, 12), st.integers(0, 2**32), st.text(max_size=9))
def test_scrambling_twice_is_nothing(data: bytes, plain: int, key: int, text: str) -> None:
    once = scramble(data, plain, key, text)
    assert once[:plain] == data[:plain]
    assert scramble(once, plain, key, text) == data


def test_the_scrambling_key_moves_with_the_text() -> None:
    # key 1; then ^ "a", ^ "b" << 1, ^ "a", ^ "b" << 1: worked out by hand from cl_net_chan.c
    assert scramble(bytes(6), 2, 1, "ab") == bytes([0, 0, 0x60, 0xA4, 0xC5, 0x01])
    assert scramble(bytes(3), 0, 7, "") == bytes([7, 7, 7])


def test_command_hash() -> None:
    assert hash_command("") == 0
    total = ord("c") * 119 + ord("s") * 120
    assert hash_command("cs") == total ^ total >> 10 ^ total >> 20
    assert hash_command("x" * 32) == hash_command("x" * 40)


CHALLENGE = 0x5EED


def from_server(sequence: int, body: bytes) -> list[bytes]:
    """The datagrams of a server that has seen no command of the player (net_chan.c)."""
    body = scramble(body, 4, CHALLENGE ^ sequence, "")
    if len(body) < FRAGMENT_SIZE:
        return [struct.pack("<I", sequence) + body]
    parts = [body[at : at + FRAGMENT_SIZE] for at in range(0, len(body) + 1, FRAGMENT_SIZE)]
    return [
        struct.pack("<IHH", sequence | 1 << 31, index * FRAGMENT_SIZE, len(part)) + part
        for index, part in enumerate(parts)
    ]


def message(size: int) -> bytes:
    writer = Writer()
    writer.long(0)
    return writer.data() + random.Random(size).randbytes(size - len(writer.data()))


@pytest.mark.parametrize("size", [10, 1299, 1300, 1301, 2600, 5000])
def test_fragments_make_one_message(size: int) -> None:
    channel = Channel(CHALLENGE, 1)
    *first, last = from_server(1, message(size))
    assert [channel.decode(part) for part in first] == [None] * len(first)
    assert channel.incoming == 0
    assert channel.decode(last) == message(size)
    assert (channel.incoming, channel.lost) == (1, 0)


def test_a_lost_fragment_loses_the_message() -> None:
    channel = Channel(CHALLENGE, 1)
    parts = from_server(1, message(4000))
    assert [channel.decode(part) for part in parts[:1] + parts[2:]] == [None] * (len(parts) - 1)
    assert channel.decode(from_server(2, message(50))[0]) == message(50)
    assert channel.lost == 1


def test_lost_repeated_and_late_datagrams() -> None:
    channel = Channel(CHALLENGE, 1)
    packets = {number: from_server(number, message(30))[0] for number in range(1, 9)}
    taken = [number for number in (1, 2, 2, 5, 4, 8) if channel.decode(packets[number])]
    assert taken == [1, 2, 5, 8]
    assert channel.lost == 4  # 3, 4, 6 and 7: 4 came when it was of no use any more


def test_garbage_is_no_message() -> None:
    channel = Channel(CHALLENGE, 1)
    assert [channel.decode(junk) for junk in (b"", b"abc", b"\1\0\0\x80\0\0")] == [None] * 3
    assert channel.incoming == 0


def server_message(*fields: tuple[int, int] | str) -> bytes:
    writer = Writer()
    writer.long(0)
    for one in fields:
        if isinstance(one, str):
            writer.string(one)
        else:
            writer.bits(*one)
    return writer.data()


def test_a_server_command_is_acknowledged_once() -> None:
    channel = Channel(CHALLENGE, 77)
    game = Game(channel)
    for _ in range(2):  # the server repeats it until it is acknowledged
        news = game.take(
            server_message((SVC_COMMAND, 8), (1, 32), 'disconnect "Server quit"', (SVC_EOF, 8))
        )
        if _ == 0:
            assert news.dropped == "Server quit"
    assert news.dropped is None
    sequence, qport = struct.unpack_from("<IH", game.message())
    assert (sequence, qport) == (1, 77)
    reply = Reader(scramble(game.message()[6:], 12, CHALLENGE, 'disconnect "Server quit"'))
    assert (reply.long(), reply.long(), reply.long()) == (0, 0, 1)


def test_a_snapshot_before_the_player_is_in_the_game() -> None:
    game = Game(Channel(CHALLENGE, 1))
    head = [(SVC_SNAPSHOT, 8), (1234, 32), (0, 8)]
    for flags, active in ((2, False), (0, True)):
        news = game.take(server_message(*head, (flags, 8), (0, 8), (0, 8)))
        assert news.snapshot is not None
        assert (news.snapshot.server_time, game.active) == (1234, active)


def test_unknown_operations_are_refused() -> None:
    with pytest.raises(BadMessage, match="operation 77"):
        Game(Channel(CHALLENGE, 1)).take(server_message((77, 8)))


def test_info_strings() -> None:
    assert parse_info(r"\a\1\b\two words") == {"a": "1", "b": "two words"}


def test_the_image_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []

    def write(out: Path, contents: object) -> None:
        made.append(out)
        out.write_bytes(b"tar")

    monkeypatch.setattr(build_image, "_download", lambda into: [])
    monkeypatch.setattr(build_image, "_contents", lambda unpacked: {})
    monkeypatch.setattr(build_image, "_write_tar", write)
    for name in ("one.tar", "sub/two.tar"):
        out = build_image.build(tmp_path / name, tmp_path / "cache")
        assert out.read_bytes() == b"tar"
    assert len(made) == 1


def test_the_servers_call() -> None:
    argv = build_image.command("secret", bots=("liz",))
    assert argv[argv.index("rconpassword") + 1] == "secret"
    assert argv[-3:] == ["+addbot", "liz", "4"]
    assert build_image.COMMAND[0] == build_image.ENGINE
