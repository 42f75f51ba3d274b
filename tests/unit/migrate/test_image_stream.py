"""migrate.image_stream: a directory arrives as it is, but for the memory; hostile ones do not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate.errors import NoSpace
from migrate.image_stream import MAX_FILES, PIECE, SMALL, ImageReceiver, ImageSender
from migrate.protocol import (
    FILE_PIECE,
    MESSAGE,
    NAME,
    CloseFile,
    OpenFile,
    SmallFile,
    SmallFiles,
    decode_request,
)
from tests.unit.migrate.memory_channel import MemoryChannel, pair
from transport.errors import StreamCorrupt

DIGEST = xxhash.xxh3_64_intdigest


@pytest.fixture
def images(tmp_path: Path) -> Path:
    path = tmp_path / "images"
    path.mkdir()
    return path


@pytest.fixture
def arrived(tmp_path: Path) -> Path:
    path = tmp_path / "arrived"
    path.mkdir()
    return path


def take(channel: MemoryChannel, receiver: ImageReceiver) -> None:
    """Give the receiver everything that is in the queue, as the agent would."""
    while not channel.inbox.empty():
        frame = channel.receive()
        if frame.kind == FILE_PIECE:
            receiver.piece(frame.stream, frame.payload)
            continue
        assert frame.kind == MESSAGE
        message = decode_request(frame.payload)
        if isinstance(message, OpenFile):
            receiver.open(message)
        elif isinstance(message, SmallFiles):
            receiver.small_files(message)
        else:
            assert isinstance(message, CloseFile)
            receiver.close_file(message)


def content(top: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in top.iterdir()}


# -- sender to receiver ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, SMALL, SMALL + 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE])
def test_files_of_all_sizes_arrive(images: Path, arrived: Path, size: int) -> None:
    (images / "core-1.img").write_bytes(os.urandom(size))
    (images / "inventory.img").write_bytes(b"x")
    here, there = pair()
    counted: list[int] = []
    sender = ImageSender(here, images, counted.append)
    assert sender.send() == sender.files == 2
    receiver = ImageReceiver(arrived, limit=4 * PIECE)
    take(there, receiver)
    receiver.complete(2)
    assert content(arrived) == content(images)
    assert sender.bytes == sum(counted) == size + 1


def test_the_memory_and_the_parent_do_not_go_this_way(images: Path, arrived: Path) -> None:
    for name in ("pages-1.img", "pages-shmem-3.img", "pagemap-1.img"):
        (images / name).write_bytes(b"x" * (SMALL + 1))
    (images / "parent").symlink_to("../pre-1")
    here, there = pair()
    assert ImageSender(here, images).send() == 1
    receiver = ImageReceiver(arrived, limit=PIECE)
    take(there, receiver)
    receiver.complete(1)
    assert list(content(arrived)) == ["pagemap-1.img"]


def test_many_files_need_few_descriptors(images: Path, arrived: Path) -> None:
    for number in range(300):
        (images / f"core-{number}.img").write_bytes(b"x" * number)
    here, there = pair()
    sender = ImageSender(here, images)
    before = len(os.listdir("/proc/self/fd"))
    assert sender.send() == 300
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    receiver = ImageReceiver(arrived, limit=PIECE)
    take(there, receiver)
    receiver.complete(300)
    assert content(arrived) == content(images)
    assert len(os.listdir("/proc/self/fd")) <= before + 2


# -- hostile --------------------------------------------------------------------------------------


@given(st.text(max_size=30))
def test_no_name_leads_out(name: str) -> None:
    if NAME.fullmatch(name):
        assert os.path.basename(name) == name
        assert name not in ("", ".", "..")
        assert not name.startswith((".", "-"))


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "/etc/passwd", "a\0b", "a\nb", "x\n", "parent", "-x", "x" * 300,
     ".hidden", "ü.img"],
)  # fmt: skip
def test_odd_names_are_refused(arrived: Path, name: str) -> None:
    receiver = ImageReceiver(arrived, limit=PIECE)
    with pytest.raises(StreamCorrupt):
        receiver.open(OpenFile(number=1, name=name))
    assert list(arrived.iterdir()) == []


@pytest.mark.parametrize("number", [-1, 0, MAX_FILES + 1, 65536])
def test_odd_numbers_are_refused(arrived: Path, number: int) -> None:
    with pytest.raises(StreamCorrupt):
        ImageReceiver(arrived, limit=PIECE).open(OpenFile(number=number, name="a.img"))


@pytest.mark.parametrize("name", ["../x", "/x", "", "parent", ".x", "a/b", "x\0"])
def test_small_files_are_checked_like_others(arrived: Path, name: str) -> None:
    receiver = ImageReceiver(arrived, limit=10)
    with pytest.raises(StreamCorrupt):
        receiver.small_files(SmallFiles([SmallFile(name, b"x")]))
    assert not list(arrived.parent.rglob("x"))


def test_small_files_come_once_and_within_the_limit(arrived: Path) -> None:
    receiver = ImageReceiver(arrived, limit=10)
    receiver.small_files(SmallFiles([SmallFile("a", b"12345")]))
    with pytest.raises(StreamCorrupt):
        receiver.small_files(SmallFiles([SmallFile("a", b"1")]))
    with pytest.raises(NoSpace):
        receiver.small_files(SmallFiles([SmallFile("b", b"123456")]))


def test_many_small_files_travel_in_few_messages(images: Path, arrived: Path) -> None:
    for number in range(150):
        (images / f"core-{number}.img").write_bytes(b"%d" % number)
    here, there = pair()
    assert ImageSender(here, images).send() == 150
    assert there.inbox.qsize() == 3
    receiver = ImageReceiver(arrived, limit=PIECE)
    take(there, receiver)
    receiver.complete(150)
    assert content(arrived) == content(images)


def test_a_file_comes_once(arrived: Path) -> None:
    receiver = ImageReceiver(arrived, limit=PIECE)
    receiver.open(OpenFile(number=1, name="a.img"))
    with pytest.raises(StreamCorrupt, match="twice"):
        receiver.open(OpenFile(number=2, name="a.img"))
    with pytest.raises(StreamCorrupt, match="out of order"):
        receiver.open(OpenFile(number=1, name="b.img"))
    receiver.close_file(CloseFile(number=1, size=0, digest=DIGEST(b"")))
    with pytest.raises(StreamCorrupt, match="out of order"):
        receiver.open(OpenFile(number=1, name="b.img"))
    receiver.close()


def test_a_link_that_lies_in_wait_is_not_followed(arrived: Path, tmp_path: Path) -> None:
    (arrived / "a.img").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StreamCorrupt):
        ImageReceiver(arrived, limit=PIECE).open(OpenFile(number=1, name="a.img"))
    assert not (tmp_path / "elsewhere").exists()


def test_pieces_and_ends_of_no_file_are_refused(arrived: Path) -> None:
    receiver = ImageReceiver(arrived, limit=PIECE)
    with pytest.raises(StreamCorrupt):
        receiver.piece(1, b"x")
    with pytest.raises(StreamCorrupt):
        receiver.close_file(CloseFile(number=1, size=0, digest=0))
    receiver.open(OpenFile(number=1, name="a.img"))
    receiver.close_file(CloseFile(number=1, size=0, digest=DIGEST(b"")))
    with pytest.raises(StreamCorrupt):
        receiver.piece(1, b"x")


@settings(deadline=None)
@given(data=st.binary(max_size=100), size=st.integers(-1, 101), flip=st.integers(0, 2**64 - 1))
def test_only_the_right_size_and_digest_pass(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, size: int, flip: int
) -> None:
    receiver = ImageReceiver(tmp_path_factory.mktemp("images"), limit=PIECE)
    receiver.open(OpenFile(number=5, name="a.img"))
    receiver.piece(5, data)
    end = CloseFile(number=5, size=size, digest=DIGEST(data) ^ flip)
    if size == len(data) and flip == 0:
        receiver.close_file(end)
        receiver.complete(1)
    else:
        with pytest.raises(StreamCorrupt, match="as it was sent"):
            receiver.close_file(end)
        with pytest.raises(StreamCorrupt):
            receiver.complete(1)


def test_no_more_is_taken_than_was_set_aside(arrived: Path) -> None:
    receiver = ImageReceiver(arrived, limit=10)
    for number in (1, 2):
        receiver.open(OpenFile(number=number, name=f"{number}.img"))
    receiver.piece(1, b"x" * 6)
    receiver.piece(2, b"x" * 4)
    with pytest.raises(NoSpace):
        receiver.piece(1, b"x")
    receiver.close()


def test_a_full_disk_is_said(arrived: Path) -> None:
    receiver = ImageReceiver(arrived, limit=PIECE)
    receiver.open(OpenFile(number=1, name="a.img"))
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, receiver._open[1].fd)
    os.close(full)
    with pytest.raises(NoSpace, match="No space left"):
        receiver.piece(1, b"x")
    receiver.close()


def test_what_is_missing_or_not_ended_is_noticed(arrived: Path) -> None:
    receiver = ImageReceiver(arrived, limit=PIECE)
    receiver.open(OpenFile(number=1, name="a.img"))
    with pytest.raises(StreamCorrupt, match="0 of 1"):
        receiver.complete(1)
    receiver.close_file(CloseFile(number=1, size=0, digest=DIGEST(b"")))
    with pytest.raises(StreamCorrupt, match="1 of 2"):
        receiver.complete(2)
    receiver.complete(1)
