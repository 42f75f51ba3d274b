"""How the two agents talk: typed messages (migrate/messages.py) over transport's frames.

The source asks, the destination answers each request with one reply, or with `Failed`. Between
requests the source sends content, which is not answered: pieces of the image, files of the
checkpoint, batches of changed files. What comes in is hostile until msgspec has shaped it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import msgspec

import migrate.errors
import transport.errors
from migrate.messages import Failed, Message, Reply, Request
from migrate.rootfs_items import Item
from transport.channel import Channel
from transport.errors import Failure, StreamCorrupt

PROTOCOL_VERSION = 6

# Kinds of frames; 0 is transport's own.
MESSAGE = 1  # one of migrate/messages.py, msgpack
IMAGE_PIECE = 2  # a piece of `docker save`; an empty one ends it
FILE_PIECE = 3  # a piece of the checkpoint file that `OpenFile` announced, stream = its number
ROOTFS_ITEMS = 4  # a batch of rootfs items, msgpack
PAGES = 5  # a batch of memory pages (migrate/page_batch.py)
REPORT = 255  # the last one of a source that was started by its destination, JSON

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,200}")  # of a file in the image directory
SESSION = re.compile(r"[a-z0-9]{8,32}")


_encoder = msgspec.msgpack.Encoder()
_requests = msgspec.msgpack.Decoder(Request)
_replies = msgspec.msgpack.Decoder(Reply)
_items = msgspec.msgpack.Decoder(list[Item])

_R = TypeVar("_R", bound=Message)


def encode(message: Message) -> bytes:
    return _encoder.encode(message)


def decode_request(payload: bytes) -> Request:
    """Raises StreamCorrupt for anything that is no request of this protocol."""
    with _hostile():
        message: Request = _requests.decode(payload)
        return message


def decode_reply(payload: bytes) -> Reply:
    """Raises StreamCorrupt for anything that is no reply of this protocol."""
    with _hostile():
        message: Reply = _replies.decode(payload)
        return message


def encode_items(items: Iterable[Item]) -> bytes:
    return _encoder.encode(list(items))


def decode_items(payload: bytes) -> list[Item]:
    """Raises StreamCorrupt for anything that is no batch of items."""
    with _hostile():
        return _items.decode(payload)


@contextmanager
def _hostile() -> Iterator[None]:
    try:
        yield
    # ValidationError is a DecodeError, but text that is no UTF-8 is none.
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise StreamCorrupt(f"the other side sent something unknown: {problem}") from problem


def send(channel: Channel, message: Message) -> None:
    channel.send(MESSAGE, encode(message))


def call(channel: Channel, request: Message, reply: type[_R], timeout: float) -> _R:
    """Send a request and wait for its reply; see `expect`."""
    send(channel, request)
    return expect(channel, reply, timeout)


def expect(channel: Channel, reply: type[_R], timeout: float) -> _R:
    """Wait up to `timeout` seconds for a reply of that class.

    Raises the failure that the other side reports, StreamCorrupt for another reply, and
    ConnectionLost when it does not answer in time.
    """
    try:
        frame = channel.receive(timeout)
    except TimeoutError:
        raise transport.errors.ConnectionLost(
            f"the other host did not answer within {timeout:.0f} s ({reply.__name__})"
        ) from None
    if frame.kind != MESSAGE:
        raise StreamCorrupt(f"frame of kind {frame.kind} where a reply was due")
    message = decode_reply(frame.payload)
    if isinstance(message, Failed):
        raise to_failure(message)
    if not isinstance(message, reply):
        raise StreamCorrupt(f"{type(message).__name__} where {reply.__name__} was due")
    return message


def to_failure(failed: Failed) -> Failure:
    """The failure as an exception of ours; an unknown code becomes AgentFailed."""
    kind = getattr(migrate.errors, failed.code, getattr(transport.errors, failed.code, None))
    if not (isinstance(kind, type) and issubclass(kind, Failure)):
        kind = migrate.errors.AgentFailed
    failure: Failure = kind(failed.message, failed.remedy)
    failure.reported = True
    failure.remote_log = failed.log
    return failure


def from_failure(failure: Failure, log: str = "") -> Failed:
    """The failure as a message; `log`: the lines of the log that matter."""
    return Failed(failure.code, failure.message, failure.remedy, log)
