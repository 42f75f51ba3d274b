"""SSH to another host, set up for much data: ssh_config, known_hosts, agent, jumps, commands."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import paramiko

from transport import known_hosts as hostkeys
from transport.errors import BadTarget, ConnectionLost, HostUnreachable
from transport.ssh_auth import authenticate
from transport.ssh_config import HostConfig, resolve
from transport.ssh_hostkey import check, prefer_known
from transport.ssh_process import RemoteProcess, run_to_end
from transport.target import Target

# Without a handler Python prints paramiko's tracebacks to stderr, beside our own message.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

_WINDOW = 128 * 1024 * 1024  # bytes in flight: enough for 10 Gbit/s at 100 ms
_PACKET = 128 * 1024  # OpenSSH refuses more than 256 KiB with all headers
# AES-GCM is one pass where CTR with HMAC is two.
_CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "aes128-ctr",
    "aes192-ctr",
    "aes256-ctr",
)
# paramiko asks for new keys each 512 MB, and all sends stand still meanwhile. RFC 4344 and OpenSSH
# ask for them after 2**32 blocks of AES.
_REKEY_BYTES = 2**32 * 16
_REKEY_PACKETS = 2**31
# What may still come in after we have asked for new keys, before paramiko cuts the connection: with
# a full window under way that is a lot, on a host that is short of CPU.
_REKEY_OVERFLOW = 2**36
_KEEPALIVE = 3  # seconds
_USER_TIMEOUT = 10  # seconds that the kernel waits for an ACK before it gives the connection up
_MAX_JUMPS = 8


@dataclass(frozen=True)
class _Settings:
    config_path: Path | None
    known_hosts: tuple[Path, ...] | None
    accept_new: bool
    timeout: float


class Connection:
    """A host we are logged in to. Made by `connect`; safe to use from many threads."""

    def __init__(
        self,
        transport: paramiko.Transport,
        description: str,
        address: str | None,
        cleanup: contextlib.ExitStack,
    ) -> None:
        self.description = description
        """`user@host:port`, as resolved."""
        self.address = address
        """The IP address of the host; None when only the jump host knows it."""
        self._transport = transport
        self._cleanup = cleanup

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def run(self, command: str, timeout: float) -> tuple[int, str, str]:
        """Run a shell command without stdin; exit code, stdout, and up to 64 KiB of stderr.

        `timeout` is in seconds, for the whole. Raises `ConnectionLost` when it is over or the
        connection broke.
        """
        with self.open(command) as process:
            return run_to_end(process, timeout)

    def open(self, command: str) -> RemoteProcess:
        """Start a shell command and give its streams. Raises `ConnectionLost`."""
        try:
            channel = self._transport.open_session()
            channel.exec_command(command)
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise ConnectionLost(
                f"{self.description} does not start `{command}`: {_words(error)}"
            ) from error
        return RemoteProcess(channel, command, self.description)

    def open_tunnel(self, host: str, port: int, timeout: float) -> paramiko.Channel:
        """A TCP connection from there to `host`, as a socket. Raises `HostUnreachable`."""
        try:
            return self._transport.open_channel(
                "direct-tcpip", (host, port), ("127.0.0.1", 0), timeout=timeout
            )
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise HostUnreachable(
                f"{host} port {port} cannot be reached through {self.description}: {_words(error)}"
            ) from error

    def close(self) -> None:
        """End the connection, and those it goes through. Commands there see their stdin end."""
        self._cleanup.close()


def connect(
    target: Target,
    *,
    config_path: Path | None = None,
    known_hosts: Sequence[Path] | None = None,
    accept_new_host_key: bool = False,
    timeout: float = 15.0,
) -> Connection:
    """Log in to `target`, through the jump hosts that ssh_config names.

    `config_path` stands for ~/.ssh/config and /etc/ssh/ssh_config, `known_hosts` for the files that
    the config names; a new key goes into the first of them. `accept_new_host_key` writes the key
    of an unknown host down instead of refusing it; a changed key is refused always. `timeout`: in
    seconds, for each step of each hop.

    Raises `BadTarget` (also for an ssh_config that cannot be used), `HostUnreachable`,
    `HostKeyRejected`, `AuthenticationFailed`.
    """
    files = None if known_hosts is None else tuple(known_hosts)
    return _connect(target, _Settings(config_path, files, accept_new_host_key, timeout), None, 0)


def _connect(
    target: Target, settings: _Settings, via: Sequence[Target] | None, depth: int
) -> Connection:
    """`via`: the hosts to go through; None: those of the target's own config."""
    if depth > _MAX_JUMPS:
        raise BadTarget(f"{target} is more than {_MAX_JUMPS} jumps away: is ProxyJump a circle?")
    config = resolve(target, settings.config_path)
    jumps = config.jumps if via is None else via
    address = _literal_address(config.host)
    with contextlib.ExitStack() as stack:
        complaint: Callable[[], str] = str
        sock: socket.socket | paramiko.Channel
        if jumps:
            outer = _connect(jumps[-1], settings, jumps[:-1] or None, depth + 1)
            stack.callback(outer.close)
            sock = outer.open_tunnel(config.host, config.port, settings.timeout)
        elif config.proxy_command is not None:
            sock, complaint = _run_proxy(config.proxy_command, stack)
        else:
            sock = _dial(config.host, config.port, settings.timeout)
            address = sock.getpeername()[0]
        stack.callback(sock.close)
        transport = _handshake(sock, config, settings, stack, complaint)
        authenticate(transport, config)
        transport.set_keepalive(_KEEPALIVE)
        description = f"{config.user}@{config.address}"
        return Connection(transport, description, address, stack.pop_all())


def _dial(host: str, port: int, timeout: float) -> socket.socket:
    try:
        sock = socket.create_connection((host, port), timeout)
    except (socket.gaierror, UnicodeError) as error:
        raise HostUnreachable(f"the name {host} does not resolve: {_words(error)}") from error
    except TimeoutError as error:
        raise HostUnreachable(f"{host} port {port} did not answer in {timeout:g} s") from error
    except OSError as error:
        raise HostUnreachable(f"{host} port {port} cannot be reached: {_words(error)}") from error
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT * 1000)
    return sock


def _run_proxy(
    command: str, stack: contextlib.ExitStack
) -> tuple[socket.socket, Callable[[], str]]:
    """Start a ProxyCommand; the socket to it, and what it has said on stderr.

    Not paramiko.ProxyCommand: that one spins for ever when the command ends.
    """
    ours, theirs = socket.socketpair()
    stderr = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
    with theirs:
        process = subprocess.Popen(
            ["/bin/sh", "-c", f"exec {command}"],
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=stderr,
            start_new_session=True,  # a Ctrl-C is for us: we may still need the connection
        )
    stack.callback(_end, process)

    def complaint() -> str:
        stderr.seek(0)
        lines = stderr.read().decode(errors="replace").strip().splitlines()
        return f"; ProxyCommand says: {lines[-1]}" if lines else ""

    return ours, complaint


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _handshake(
    sock: socket.socket | paramiko.Channel,
    config: HostConfig,
    settings: _Settings,
    stack: contextlib.ExitStack,
    complaint: Callable[[], str],
) -> paramiko.Transport:
    """Speak SSH up to the point where the host's key is known and accepted."""
    files = config.known_hosts if settings.known_hosts is None else settings.known_hosts
    known = hostkeys.load(files)
    try:
        transport = paramiko.Transport(
            sock, default_window_size=_WINDOW, default_max_packet_size=_PACKET
        )
        stack.callback(_close, transport)
        _tune(transport, settings.timeout)
        prefer_known(transport, known, config)
        transport.start_client(timeout=settings.timeout)
        # start_client gives up without a word when its time is over; then this raises.
        key = transport.get_remote_server_key()
    except (paramiko.SSHException, OSError, EOFError) as error:
        raise HostUnreachable(
            f"no SSH handshake with {config.address}: {_words(error)}{complaint()}"
        ) from error
    check(key, known, config, accept_new=settings.accept_new or config.accept_new)
    return transport


def _tune(transport: paramiko.Transport, timeout: float) -> None:
    transport.banner_timeout = timeout
    transport.handshake_timeout = timeout
    transport.channel_timeout = timeout
    transport.use_compression(False)
    options = transport.get_security_options()
    options.ciphers = tuple(cipher for cipher in _CIPHERS if cipher in options.ciphers)
    packetizer = transport.packetizer
    packetizer.REKEY_BYTES = _REKEY_BYTES
    packetizer.REKEY_PACKETS = _REKEY_PACKETS
    packetizer.REKEY_BYTES_OVERFLOW_MAX = _REKEY_OVERFLOW
    packetizer.REKEY_PACKETS_OVERFLOW_MAX = _REKEY_OVERFLOW


def _close(transport: paramiko.Transport) -> None:
    # After a handshake that failed, paramiko's timer would hold up the end of the program.
    transport.packetizer.complete_handshake()
    transport.close()


def _literal_address(host: str) -> str | None:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return None
    return host


def _words(error: BaseException) -> str:
    """What an exception says, also when it says nothing."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text or "the other side closed the connection"
