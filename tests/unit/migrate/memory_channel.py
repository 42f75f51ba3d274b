"""A channel without a wire: what one side sends is in the other's queue, encoded and decoded."""

from __future__ import annotations

import queue

from transport.channel import Channel
from transport.errors import ConnectionLost, Failure
from transport.frames import MAX_PAYLOAD, Buffer, Frame


class MemoryChannel(Channel):
    """Only `send` and `receive`; made in pairs."""

    def __init__(self) -> None:  # no heartbeats
        self.sent_raw = self.sent_wire = self.received_raw = self.received_wire = 0
        self.inbox: queue.Queue[Frame | Failure] = queue.Queue()
        self.peer: MemoryChannel

    def send(self, kind: int, payload: Buffer, stream: int = 0, compress: bool = True) -> None:
        assert 0 < kind < 256
        assert 0 <= stream < 65536
        assert len(payload) <= MAX_PAYLOAD
        self.peer.inbox.put(Frame(kind, stream, bytes(payload)))

    def receive(self, timeout: float | None = None) -> Frame:
        try:
            frame = self.inbox.get(timeout=30 if timeout is None else timeout)
        except queue.Empty:
            raise TimeoutError from None
        if isinstance(frame, Failure):
            self.inbox.put(frame)
            raise frame
        return frame

    def close(self) -> None:
        self.peer.inbox.put(ConnectionLost("the other side ended the stream"))


def pair() -> tuple[MemoryChannel, MemoryChannel]:
    here, there = MemoryChannel(), MemoryChannel()
    here.peer, there.peer = there, here
    return here, there
