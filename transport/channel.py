"""Frames over a pair of byte streams, with heartbeats: both ends notice when the other is gone.

Over the wire there is nothing but frames. Kind 0 is the heartbeat: it is sent when there was
nothing else to send, and never seen by the caller.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from transport.bucket import Bucket
from transport.errors import ConnectionLost, Failure
from transport.frames import (
    HEADER_SIZE,
    Buffer,
    Frame,
    Header,
    decode_header,
    decode_payload,
    encode,
)

HEARTBEAT = 0
"""The kind of frame that is reserved."""

_NEVER_HELD = 4096  # bytes: frames that ask or answer something; they only count for the limit
_JOIN_UP_TO = 64 * 1024  # header and payload of small frames leave in one write
_PIPE_SIZE = 1024 * 1024  # 16 times the default: as many fewer switches between the two processes
_F_SETPIPE_SZ = 1031


class Reader(Protocol):
    """The receiving end of a byte stream."""

    def readinto(self, buffer: memoryview, timeout: float) -> int:
        """Put what there is into `buffer`; 0 is the end of the stream.

        Raises `TimeoutError` when nothing came for `timeout` seconds.
        """


class ProcessStreams(Reader, Protocol):
    """A process at the other end, such as `transport.ssh.RemoteProcess`."""

    def write(self, data: Buffer) -> None: ...

    def how_it_ended(self) -> str: ...


class Channel:
    """Sends and receives frames; `send` from any thread, `receive` from one at a time.

    `heartbeat`: seconds without a send after which a heartbeat goes out.
    `silence`: seconds of waiting in `receive` without a single byte after which the connection
    counts as lost; several times the other side's `heartbeat`.
    `start`: the same before the very first byte; a program that is only just being started does not
    beat yet.
    `write` takes all it is given, or raises. `how_it_ended` is asked, at the end of the stream,
    for a reason to put into the message.

    `sent_raw`, `received_raw` count payload bytes; `sent_wire`, `received_wire` what really
    travelled, with headers, compression and heartbeats.

    `limit` holds up what is sent, while heartbeats go on. With `hurry`, frames only count for it:
    others that share it pay for them later.
    """

    limit: Bucket | None = None
    hurry = False

    def __init__(
        self,
        reader: Reader,
        write: Callable[[Buffer], None],
        *,
        heartbeat: float = 2.0,
        silence: float = 15.0,
        start: float | None = None,
        how_it_ended: Callable[[], str] | None = None,
    ) -> None:
        self.sent_raw = self.sent_wire = self.received_raw = self.received_wire = 0
        self._reader = reader
        self._write = write
        self._heartbeat = heartbeat
        self._silence = silence
        self._start = silence if start is None else start
        self._how_it_ended = how_it_ended
        self._send_lock = threading.Lock()
        self._last_sent = time.monotonic()
        self._send_failure: ConnectionLost | None = None
        # What is read of the frame under way outlives a receive() that timed out.
        self._header: Header | None = None
        self._partial = bytearray(HEADER_SIZE)
        self._filled = 0
        self._waited = 0.0
        self._receive_failure: Failure | None = None
        self._stop = threading.Event()
        self._beat = threading.Thread(target=self._send_heartbeats, name="heartbeat", daemon=True)
        self._beat.start()

    @classmethod
    def over_process(
        cls,
        process: ProcessStreams,
        *,
        heartbeat: float = 2.0,
        silence: float = 15.0,
        start: float = 60.0,
    ) -> Self:
        """A channel to a process on another host; closing the process is the caller's."""
        return cls(
            process,
            process.write,
            heartbeat=heartbeat,
            silence=silence,
            start=start,
            how_it_ended=process.how_it_ended,
        )

    @classmethod
    def over_fds(
        cls, read_fd: int, write_fd: int, *, heartbeat: float = 2.0, silence: float = 15.0
    ) -> Self:
        """A channel over two file descriptors, such as stdin and stdout; they stay the caller's.

        Close the channel before the descriptors.
        """
        streams = _FdStreams(read_fd, write_fd)
        return cls(streams, streams.write, heartbeat=heartbeat, silence=silence)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the heartbeats. What lies beneath is left open."""
        self._stop.set()
        if threading.current_thread() is not self._beat:
            # A heartbeat may hang in a write that the other side does not read: it is a daemon.
            self._beat.join(timeout=0.5)

    def send(self, kind: int, payload: Buffer, stream: int = 0, compress: bool = True) -> None:
        """Send one frame; returns when all of it is handed on.

        `kind` is 1-255, `payload` at most `frames.MAX_PAYLOAD` bytes and must not be changed
        meanwhile. Raises `ConnectionLost`, and `ValueError` for arguments out of range.
        """
        if kind == HEARTBEAT:
            raise ValueError("kind 0 is reserved for heartbeats")
        # Outside the lock: several threads may compress at once.
        header, stored = encode(kind, payload, stream, compress=compress)
        if self.limit is not None:
            size = len(header) + len(stored)
            wait = self.limit.take(size)
            if wait and size > _NEVER_HELD and not self.hurry:
                self._pause(wait)
        with self._send_lock:
            self._put(header, stored)
            self.sent_raw += memoryview(payload).nbytes

    def receive(self, timeout: float | None = None) -> Frame:
        """Wait for the next frame.

        `timeout` is in seconds, None waits for as long as heartbeats arrive. Raises
        `TimeoutError` when it is over, and a later call goes on where this one stopped;
        `ConnectionLost` at the end of the stream or after `silence` seconds without a byte;
        `StreamCorrupt` for what is no frame. After the latter two the channel is of no more use.
        """
        if self._receive_failure is not None:
            raise self._receive_failure
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            while True:
                frame = self._read_frame(deadline)
                if frame.kind != HEARTBEAT:
                    self.received_raw += len(frame.payload)
                    return frame
                if deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutError(f"no frame came within {timeout:g} s")
        except Failure as failure:
            self._receive_failure = failure
            raise

    def _pause(self, seconds: float) -> None:
        time.sleep(seconds)

    def _put(self, header: bytes, stored: Buffer) -> None:
        if self._send_failure is not None:
            raise self._send_failure
        try:
            if len(stored) <= _JOIN_UP_TO:
                self._write(header + stored)
            else:
                self._write(header)
                self._write(stored)
        except ConnectionLost as failure:
            # Part of the frame may be out: whatever followed would be read as the rest of it.
            self._send_failure = failure
            raise
        self.sent_wire += len(header) + len(stored)
        self._last_sent = time.monotonic()

    def _send_heartbeats(self) -> None:
        header, nothing = encode(HEARTBEAT, b"")
        while not self._stop.wait(max(0.0, self._last_sent + self._heartbeat - time.monotonic())):
            with self._send_lock:
                # The wait for the lock may have been one for a long send: then none is due.
                if time.monotonic() - self._last_sent < self._heartbeat:
                    continue
                try:
                    self._put(header, nothing)
                except ConnectionLost:
                    return  # the next send or receive says it to someone who can act

    def _read_frame(self, deadline: float | None) -> Frame:
        if self._header is None:
            self._fill(deadline)
            self._header = decode_header(self._partial)
            self._partial, self._filled = bytearray(self._header.stored), 0
        self._fill(deadline)
        frame = decode_payload(self._header, self._partial)
        self._header, self._partial, self._filled = None, bytearray(HEADER_SIZE), 0
        return frame

    def _fill(self, deadline: float | None) -> None:
        """Read until `_partial` is full."""
        view = memoryview(self._partial)
        while self._filled < len(view):
            begun = time.monotonic()
            silence = self._silence if self.received_wire else self._start
            wait = silence - self._waited
            if deadline is not None:
                wait = min(wait, deadline - begun)
            try:
                count = self._reader.readinto(view[self._filled :], max(wait, 0.0))
            except TimeoutError:
                now = time.monotonic()
                # Only time spent waiting counts: while nobody receives, bytes are not missed.
                self._waited += now - begun
                if self._waited >= silence:
                    raise ConnectionLost(
                        f"nothing came from the other side for {silence:g} s"
                    ) from None
                if deadline is not None and now >= deadline:
                    raise TimeoutError("no frame came in time") from None
                continue
            if count == 0:
                raise ConnectionLost(self._end_of_stream())
            self._filled += count
            self._waited = 0.0
            self.received_wire += count

    def _end_of_stream(self) -> str:
        between = self._header is None and self._filled == 0
        where = "between two frames" if between else "in the middle of a frame"
        reason = "" if self._how_it_ended is None else self._how_it_ended()
        return f"the other side ended the stream {where}" + (f": {reason}" if reason else "")


class _FdStreams:
    """Two file descriptors: pipes, sockets or what an sshd gives to the agent it starts."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._readable = select.poll()
        self._readable.register(read_fd, select.POLLIN)
        self._writable = select.poll()
        self._writable.register(write_fd, select.POLLOUT)
        for fd in (read_fd, write_fd):
            # Not a pipe, or over the limit of this user: then with the size it has.
            with contextlib.suppress(OSError):
                fcntl.fcntl(fd, _F_SETPIPE_SZ, _PIPE_SIZE)

    def readinto(self, buffer: memoryview, timeout: float) -> int:
        if not self._readable.poll(timeout * 1000):
            raise TimeoutError(f"nothing to read for {timeout:g} s")
        try:
            return os.readv(self._read_fd, [buffer])
        except BlockingIOError:
            raise TimeoutError("nothing to read after all") from None
        except OSError as error:
            raise ConnectionLost(f"the stream cannot be read: {error.strerror}") from error

    def write(self, data: Buffer) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._write_fd, view) :]
            except BlockingIOError:  # whoever made the descriptor set O_NONBLOCK
                self._writable.poll()
            except OSError as error:  # EPIPE: the other side has closed its end
                raise ConnectionLost(f"the stream cannot be written: {error.strerror}") from error
