"""A command that runs on the other host: its stdin and stdout as streams, the end of its stderr."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

import paramiko

from transport.errors import ConnectionLost
from transport.frames import Buffer

_STDERR_KEPT = 64 * 1024
_LOOK_AROUND = (
    1.0  # how often a write or the stderr thread looks whether the connection still lives
)


class RemoteProcess:
    """Made by `transport.ssh.Connection.open`. One thread may read while another one writes."""

    def __init__(self, channel: paramiko.Channel, command: str, description: str) -> None:
        self.command = command
        self._channel = channel
        self._description = description
        # paramiko has one timeout for reads, writes and stderr together. readinto() sets its own
        # for the while; so for all others a timeout only ever means: look again.
        channel.settimeout(_LOOK_AROUND)
        # More than one SSH packet would be split again, with a copy of the rest each time.
        self._packet = max(int(getattr(channel, "out_max_packet_size", 32768)) - 64, 1024)
        self._stderr = bytearray()
        self._stderr_lock = threading.Lock()
        self._drain = threading.Thread(target=self._drain_stderr, name="stderr", daemon=True)
        self._drain.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def readinto(self, buffer: memoryview, timeout: float) -> int:
        """Put what has come on stdout into `buffer`; 0 at its end.

        Raises `TimeoutError` when nothing came for `timeout` seconds, `ConnectionLost` when the
        connection broke.
        """
        # Not 0: a write at the same time would spin.
        self._channel.settimeout(max(timeout, 0.001))
        try:
            data = self._channel.recv(len(buffer))
        except TimeoutError:
            raise
        except OSError as error:
            raise ConnectionLost(f"{self._description}: {error}") from error
        finally:
            self._channel.settimeout(_LOOK_AROUND)
        buffer[: len(data)] = data
        return len(data)

    def write(self, data: Buffer) -> None:
        """Write all of `data` to stdin; waits while the process does not read.

        Raises `ConnectionLost` when the process has closed its stdin or the connection broke.
        """
        view = memoryview(data).cast("B")
        while view:
            try:
                count = self._channel.send(bytes(view[: self._packet]))
            except TimeoutError:
                count = None
            # SSHException: a new key exchange did not come to its end.
            except (OSError, EOFError, paramiko.SSHException) as error:
                raise ConnectionLost(self._lost()) from error
            # paramiko drops what is sent on a dead connection without a word.
            if count == 0 or not self._transport_alive():
                raise ConnectionLost(self._lost())
            view = view[count or 0 :]

    def close_stdin(self) -> None:
        """Let the process see the end of its stdin."""
        self._channel.shutdown_write()

    def stderr_tail(self) -> str:
        """The last 64 KiB of what the process has written to stderr so far."""
        with self._stderr_lock:
            return self._stderr.decode(errors="replace")

    def exit_status(self, timeout: float) -> int | None:
        """The exit code; None when the process still runs after `timeout` seconds.

        -1: it was ended by a signal, or the connection is gone and nobody knows.
        """
        if not self._channel.status_event.wait(timeout):
            return None
        return self._channel.recv_exit_status()

    def how_it_ended(self) -> str:
        """Why stdout came to its end, for a message: exit code and last line of stderr."""
        status = self.exit_status(1.0)
        if not self._transport_alive():
            return self._lost()
        self._drain.join(timeout=1.0)
        lines = self.stderr_tail().strip().splitlines()
        ended = "still runs" if status is None else f"ended with {status}"
        return f"`{self.command}` {ended}" + (f", saying: {lines[-1]}" if lines else "")

    def wait_stderr(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for the end of stderr, so that `stderr_tail` is whole."""
        self._drain.join(timeout)

    def close(self) -> None:
        """Close all streams; the process sees the end of its stdin, and is not waited for."""
        self._channel.close()

    def _transport_alive(self) -> bool:
        transport = self._channel.get_transport()
        return transport is not None and transport.is_active()

    def _lost(self) -> str:
        if self._transport_alive():
            return f"{self._description}: `{self.command}` has closed its stdin"
        return f"the SSH connection to {self._description} broke"

    def _drain_stderr(self) -> None:
        # Nobody else reads it, and what is not read fills the window that stdout shares.
        while True:
            try:
                data = self._channel.recv_stderr(_STDERR_KEPT)
            except TimeoutError:
                continue
            except OSError:
                return
            if not data:
                return
            with self._stderr_lock:
                self._stderr += data
                del self._stderr[:-_STDERR_KEPT]


def run_to_end(process: RemoteProcess, timeout: float) -> tuple[int, str, str]:
    """Give no stdin, wait for the end; exit code, stdout, and up to 64 KiB of stderr.

    `timeout` is in seconds, for the whole. Raises `ConnectionLost` when it is over, as when the
    connection broke: either way nobody knows what the command has done.
    """
    deadline = time.monotonic() + timeout
    process.close_stdin()
    output = bytearray()
    buffer = memoryview(bytearray(64 * 1024))
    try:
        while count := process.readinto(buffer, max(deadline - time.monotonic(), 0.0)):
            output += buffer[:count]
            if time.monotonic() >= deadline:
                raise TimeoutError
    except TimeoutError:
        status = None
    else:
        status = process.exit_status(max(deadline - time.monotonic(), 0.0))
    if status is None:
        raise ConnectionLost(f"`{process.command}` did not end within {timeout:g} s") from None
    process.wait_stderr(max(deadline - time.monotonic(), 0.0))
    if status == -1:
        raise ConnectionLost(process.how_it_ended())
    return status, output.decode(errors="replace"), process.stderr_tail()
