"""migrate.protocol: messages go through as they are; anything else is refused, and said."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import migrate.errors
import transport.errors
from migrate import protocol
from migrate.errors import AgentFailed, RestoreFailed
from migrate.messages import (
    Abandon,
    AskCache,
    AskOutcome,
    AskTurn,
    CacheDigests,
    CloseFile,
    Commit,
    Done,
    DropObjects,
    Failed,
    Filled,
    Finish,
    Hello,
    MemoryObject,
    MemoryRound,
    Message,
    OpenFile,
    Outcome,
    Prepare,
    Prepared,
    Ready,
    Reply,
    Request,
    Restore,
    RootfsPass,
    Running,
    TurnGiven,
    Welcome,
)
from migrate.protocol import (
    FILE_PIECE,
    MESSAGE,
    SESSION,
    call,
    decode_items,
    decode_reply,
    decode_request,
    encode,
    encode_items,
    expect,
    from_failure,
    send,
    to_failure,
)
from migrate.rootfs_items import BeginFile, Data, End, EndFile, Hole, Item, MakeDir, Meta, Remove
from tests.unit.migrate.memory_channel import pair
from transport.errors import ConnectionLost, Failure, StreamCorrupt

PREPARE = Prepare(descriptors=["/dev/null", "pipe:[1]", "pipe:[2]"], seed=2**64 - 1, lazy=True)
REQUESTS: list[Message] = [
    Hello(protocol=1, version="0.1"), PREPARE, RootfsPass(), OpenFile(number=1, name="a.img"),
    CloseFile(number=1, size=2, digest=2**64 - 1), Restore(files=3), Commit(), Abandon(), Finish(),
    AskOutcome(session="a" * 16), AskCache(), MemoryObject(number=1, name="shmem-7"),
    DropObjects(numbers=[1, 2**31]), MemoryRound(), AskTurn(),
]  # fmt: skip
REPLIES: list[Message] = [
    Welcome(save="", warnings=("a",)), Prepared(container="c", seconds=0.5), Done(),
    Ready(timing={"ready": 0.1}), Running(container="c", timing={}), Outcome(owner="busy"),
    CacheDigests(digests=bytes(range(32))), Filled(pages=2**40, seconds=1.5),
    TurnGiven(ours=True),
    Failed(code="NoSpace", message="m", remedy="r", log="l"),
]  # fmt: skip


def named(message: Any) -> str:
    return type(message).__name__


@pytest.mark.parametrize("message", REQUESTS, ids=named)
def test_requests_come_out_as_they_went_in(message: Message) -> None:
    assert decode_request(encode(message)) == message
    with pytest.raises(StreamCorrupt):
        decode_reply(encode(message))


@pytest.mark.parametrize("message", REPLIES, ids=named)
def test_replies_come_out_as_they_went_in(message: Message) -> None:
    assert decode_reply(encode(message)) == message
    with pytest.raises(StreamCorrupt):
        decode_request(encode(message))


def test_every_message_is_a_request_or_a_reply() -> None:
    known = {*Request.__args__, *Reply.__args__}
    assert known == set(Message.__subclasses__())


@given(st.binary(max_size=200))
def test_noise_is_refused_in_an_orderly_way(noise: bytes) -> None:
    for decode in (decode_request, decode_reply, decode_items):
        try:
            decode(noise)
        except StreamCorrupt:
            continue


@pytest.mark.parametrize(
    "content",
    [
        {"type": "Nonsense"},
        {"type": "OpenFile", "number": "1", "name": "a"},
        {"type": "OpenFile", "number": 1},
        {"type": "Restore", "files": 1.5},
        {"type": "AskOutcome", "session": None},
        {"type": ["OpenFile"]},
        {},
        None,
        [1],
    ],
)
def test_a_message_of_the_wrong_shape_is_refused(content: Any) -> None:
    with pytest.raises(StreamCorrupt, match="something unknown"):
        decode_request(msgspec.msgpack.encode(content))


def test_text_that_is_no_text_is_refused() -> None:
    good = encode(AskOutcome(session="x"))
    with pytest.raises(StreamCorrupt, match="something unknown"):
        decode_request(good.replace(b"\xa1x", b"\xa1\xff"))


def test_items_come_out_as_they_went_in() -> None:
    meta = Meta(0o100644, 1, 2, -3, ((b"user.x", b"\0"),))
    items: list[Item] = [
        MakeDir(b"d", Meta(0o40755, 0, 0, 0)), BeginFile(b"\xff\n", 2**40, True), Data(0, b"\0"),
        Hole(1, 2), EndFile(meta), Remove(b""), End(6),
    ]  # fmt: skip
    assert decode_items(encode_items(items)) == items


@pytest.mark.parametrize(
    ("session", "good"),
    [
        ("a" * 16, True), ("0123456789abcdef", True), ("a" * 7, False), ("a" * 33, False),
        ("../../etc", False), ("A" * 16, False), ("a" * 15 + "\n", False), ("", False),
    ],
)  # fmt: skip
def test_what_a_session_is_called(session: str, good: bool) -> None:
    assert bool(SESSION.fullmatch(session)) == good


# -- asking ---------------------------------------------------------------------------------------


def test_a_call_gives_the_reply() -> None:
    here, there = pair()
    send(there, Prepared(container="c", seconds=1.0))
    assert call(here, PREPARE, Prepared, 1.0).container == "c"
    assert decode_request(there.receive().payload) == PREPARE


def test_no_answer_in_time_is_a_lost_connection() -> None:
    here, _ = pair()
    with pytest.raises(ConnectionLost, match="did not answer"):
        expect(here, Done, 0.01)


def test_another_reply_or_frame_is_corrupt() -> None:
    here, there = pair()
    send(there, Done())
    with pytest.raises(StreamCorrupt, match="Done where Prepared was due"):
        expect(here, Prepared, 1.0)
    there.send(FILE_PIECE, b"x")
    with pytest.raises(StreamCorrupt, match="kind"):
        expect(here, Done, 1.0)
    there.send(MESSAGE, encode(Commit()))
    with pytest.raises(StreamCorrupt):
        expect(here, Done, 1.0)


def test_a_failure_is_raised_where_the_reply_was_due() -> None:
    here, there = pair()
    send(there, from_failure(RestoreFailed("no luck", "try"), "the log"))
    with pytest.raises(RestoreFailed, match="no luck") as caught:
        expect(here, Ready, 1.0)
    assert caught.value.reported
    assert (caught.value.remedy, caught.value.remote_log) == ("try", "the log")


def failures() -> list[type[Failure]]:
    found, rest = [], [Failure]
    while rest:
        kind = rest.pop()
        rest += kind.__subclasses__()
        if kind.__module__ in (migrate.errors.__name__, transport.errors.__name__):
            found.append(kind)
    return found


@pytest.mark.parametrize("kind", failures(), ids=lambda kind: kind.__name__)
def test_every_failure_survives_the_wire(kind: type[Failure]) -> None:
    sent = kind("what", "what to do")
    message = decode_reply(encode(from_failure(sent)))
    assert isinstance(message, Failed)
    came = to_failure(message)
    assert type(came) is kind
    assert (came.message, came.remedy, came.exit_code) == ("what", "what to do", kind.exit_code)
    assert came.reported
    assert not sent.reported


@pytest.mark.parametrize("code", ["", "Nonsense", "annotations", "__name__", "__builtins__", "str"])
def test_an_unknown_code_becomes_a_failure_of_the_agent(code: str) -> None:
    failure = to_failure(Failed(code=code, message="m", remedy=""))
    assert type(failure) is AgentFailed
    assert failure.message == "m"


def test_the_names_of_frames_are_distinct() -> None:
    kinds = [protocol.MESSAGE, protocol.IMAGE_PIECE, protocol.FILE_PIECE, protocol.ROOTFS_ITEMS]
    assert len(set(kinds)) == len(kinds)
    assert 0 not in kinds
