"""The source's end of the connection: one SSH connection, one `migrate agent` on it."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from migrate import __version__
from migrate.errors import HostUnfit, ProtocolMismatch, ToolMissing
from migrate.messages import Greeting, Hello
from migrate.protocol import PROTOCOL_VERSION, call
from transport.channel import Channel
from transport.errors import ConnectionLost, HostUnreachable, StreamCorrupt
from transport.frames import Buffer, Frame
from transport.ssh import connect
from transport.ssh_process import RemoteProcess
from transport.target import parse_target

GREETING_TIMEOUT = 60.0
CALLER = "caller:"  # before the name of a peer that had connected to us (migrate/fetched.py)
SLICE = 0.2  # seconds between two looks for a signal
# A login that is not root's needs sudo without a password; -n: never ask for one. With its whole
# path: sudo's secure_path need not have /usr/local/bin (Debian 14's has not).
COMMAND = (
    'm=$(command -v migrate) || {{ echo "migrate: command not found" >&2; exit 127; }};'
    ' if [ "$(id -u)" = 0 ]; then exec "$m" {0}; else exec sudo -n "$m" {0}; fi'
)


class InterruptibleChannel(Channel):
    """A channel on which `check` is asked before each frame and several times a second while one is
    waited for; what it raises ends the call, and no frame is ever left half sent."""

    check: Callable[[], object] = staticmethod(lambda: None)

    def send(self, kind: int, payload: Buffer, stream: int = 0, compress: bool = True) -> None:
        self.check()
        super().send(kind, payload, stream, compress)

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.check()
            time.sleep(min(SLICE, left))

    def receive(self, timeout: float | None = None) -> Frame:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self.check()
            left = SLICE if deadline is None else deadline - time.monotonic()
            try:
                return super().receive(max(0.0, min(SLICE, left)))
            except TimeoutError:
                if left <= 0:
                    raise


class AgentLink:
    """Connects to a host and starts the agent there; `channel` speaks to it."""

    def __init__(self, host: str, command: tuple[str, ...] = ("agent",)) -> None:
        self._target = parse_target(host)
        self._command = command
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            connection = self._stack.enter_context(connect(self._target))
            self.description = connection.description
            self.address = connection.address
            command = COMMAND.format(shlex.join(self._command))
            self._process: RemoteProcess = self._stack.enter_context(connection.open(command))
            self.channel = self._stack.enter_context(
                InterruptibleChannel.over_process(self._process)
            )
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def cut(self) -> None:
        """End the connection at once, from any thread: whoever uses it gets ConnectionLost."""
        self._process.close()

    def greet(self, *, looks: bool = False) -> Greeting:
        """Exchange versions. `looks`: as in `Hello`.

        Raises ToolMissing, ProtocolMismatch, or HostUnfit without sudo.
        """
        hello = Hello(protocol=PROTOCOL_VERSION, version=__version__, looks=looks)
        try:
            greeting = call(self.channel, hello, Greeting, GREETING_TIMEOUT)
        except (ConnectionLost, StreamCorrupt) as failure:
            status = self._process.exit_status(1.0)
            said = self._process.stderr_tail().strip()
            if status == 127 or "command not found" in said:
                raise ToolMissing(f"`migrate` is not installed at {self.description}") from failure
            if "sudo:" in said:
                raise HostUnfit(
                    f"sudo at {self.description} refuses: {said.splitlines()[-1]}",
                    "log in as root, or allow this user `migrate` without a password",
                ) from failure
            raise
        return self.same_protocol(greeting)

    def same_protocol(self, greeting: Greeting) -> Greeting:
        """Raises ProtocolMismatch when it speaks another one."""
        if greeting.protocol != PROTOCOL_VERSION:
            raise ProtocolMismatch(
                f"{self.description} speaks protocol {greeting.protocol}, we {PROTOCOL_VERSION}"
            )
        return greeting


def link_to(peer: str) -> AgentLink:
    """The link to the peer of a journal. Raises HostUnreachable for one that has to come itself."""
    if peer.startswith(CALLER):
        name = peer.removeprefix(CALLER)
        raise HostUnreachable(
            f"{name} has fetched it over a connection of its own, and must come again",
            f"run `migrate return`, or the same `migrate fetch` again, at {name}",
        )
    return AgentLink(peer)
