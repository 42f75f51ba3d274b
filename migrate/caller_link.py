"""The source's link to a destination that has connected to it: over our own stdin and stdout.

For `migrate fetch`: the destination logs in here, as it did when it sent the container away, starts
us, and serves as the agent at its end. So no key and no name of it is needed here.
"""

from __future__ import annotations

import os
import select
import time
from types import TracebackType
from typing import Self

import msgspec

from migrate import __version__
from migrate.agent_link import CALLER, GREETING_TIMEOUT, SLICE, AgentLink, InterruptibleChannel
from migrate.messages import Greeting, Hello
from migrate.protocol import PROTOCOL_VERSION, call
from transport.errors import ConnectionLost
from transport.frames import Buffer


class Report(msgspec.Struct):
    """The last words to the caller. `summary`: of the migration, as JSON, "" without; `settled`:
    what was left of earlier ones; `error`: the class of the failure, "" for none."""

    summary: str = ""
    settled: list[str] = []
    error: str = ""
    message: str = ""
    remedy: str = ""
    exit_code: int = 0


class Streams:
    """Two descriptors that can be given up at once, from any thread: `cut`."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._cut = False
        os.set_blocking(write_fd, False)

    def cut(self) -> None:
        """Whoever uses them gets ConnectionLost; the other end sees it when this process ends."""
        self._cut = True

    def readinto(self, buffer: memoryview, timeout: float) -> int:
        if not self._wait(self._read_fd, select.POLLIN, timeout):
            raise TimeoutError("nothing came")
        try:
            return os.readv(self._read_fd, [buffer])
        except BlockingIOError:
            raise TimeoutError("nothing to read after all") from None
        except OSError as error:
            raise ConnectionLost(f"the stream cannot be read: {error.strerror}") from error

    def write(self, data: Buffer) -> None:
        view = memoryview(data)
        while view:
            if not self._wait(self._write_fd, select.POLLOUT, SLICE):
                continue
            try:
                view = view[os.write(self._write_fd, view) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise ConnectionLost(f"the stream cannot be written: {error.strerror}") from error

    def _wait(self, fd: int, event: int, timeout: float) -> bool:
        ready = select.poll()
        ready.register(fd, event)
        until = time.monotonic() + timeout
        while not self._cut:
            left = until - time.monotonic()
            if ready.poll(max(0.0, min(SLICE, left)) * 1000):
                return True
            if left <= 0:
                return False
        raise ConnectionLost("the connection was cut")


class CallerLink(AgentLink):
    """`name`: of the caller. Entering and leaving it does nothing: the streams stay open."""

    def __init__(self, streams: Streams, name: str) -> None:
        self._streams = streams
        self.description = name
        self.peer = CALLER + name
        # sshd(8); sudo does not pass it on: then no way for clients can be laid.
        self.address = os.environ.get("SSH_CONNECTION", "").partition(" ")[0] or None
        self.channel = InterruptibleChannel(streams, streams.write)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def cut(self) -> None:
        self._streams.cut()

    def greet(self, *, looks: bool = False) -> Greeting:
        """Exchange versions. Raises ProtocolMismatch."""
        hello = Hello(protocol=PROTOCOL_VERSION, version=__version__, looks=looks)
        return self.same_protocol(call(self.channel, hello, Greeting, GREETING_TIMEOUT))
