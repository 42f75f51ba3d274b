"""An SSH server and an SSH agent in this process: real protocol, loopback only, no root."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import paramiko
from paramiko.common import AUTH_FAILED, AUTH_SUCCESSFUL, OPEN_FAILED_CONNECT_FAILED, OPEN_SUCCEEDED


class Server:
    """Runs commands with /bin/sh for whoever shows one of `users`' keys; also a jump host."""

    def __init__(self, host_keys: Sequence[paramiko.PKey], users: dict[str, paramiko.PKey]) -> None:
        self.host_keys = host_keys
        self.users = users
        self.tunnels: list[tuple[str, int]] = []
        self.transports: list[paramiko.Transport] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        _start(self._accept)

    def known_hosts_line(self, key: paramiko.PKey | None = None, host: str = "") -> str:
        key = key or self.host_keys[0]
        return f"{host or f'[127.0.0.1]:{self.port}'} {key.get_name()} {key.get_base64()}\n"

    def drop(self) -> None:
        """Cut all connections."""
        for transport in self.transports:
            transport.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                _start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        transport = paramiko.Transport(sock)
        self.transports.append(transport)
        for key in self.host_keys:
            transport.add_server_key(key)
        with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
            transport.start_server(server=_Session(self))


class _Session(paramiko.ServerInterface):
    def __init__(self, server: Server) -> None:
        self._server = server

    def get_allowed_auths(self, username: str) -> str:
        return "publickey" if username != "password-only" else "password"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        expected = self._server.users.get(username)
        good = expected is not None and expected.asbytes() == key.asbytes()
        return AUTH_SUCCESSFUL if good else AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        _start(_run, channel, command.decode())
        return True

    def check_channel_direct_tcpip_request(
        self, chanid: int, origin: tuple[str, int], destination: tuple[str, int]
    ) -> int:
        try:
            sock = socket.create_connection(destination, timeout=5)
        except OSError:
            return OPEN_FAILED_CONNECT_FAILED
        sock.settimeout(None)
        self._server.tunnels.append(destination)
        _start(_tunnel, self._server.transports[-1], sock)
        return OPEN_SUCCEEDED


def _tunnel(transport: paramiko.Transport, sock: socket.socket) -> None:
    channel = transport.accept(5)
    assert channel is not None

    def back() -> None:
        with contextlib.suppress(OSError, EOFError):
            while data := sock.recv(65536):
                channel.sendall(data)
            channel.close()

    _start(back)
    with contextlib.suppress(OSError):
        while data := channel.recv(65536):
            sock.sendall(data)
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _run(channel: paramiko.Channel, command: str) -> None:
    process = subprocess.Popen(
        ["/bin/sh", "-c", command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
    assert stdin is not None
    assert stdout is not None
    assert stderr is not None

    def feed() -> None:
        with contextlib.suppress(OSError):
            while data := channel.recv(65536):
                rest = memoryview(data)
                while rest:
                    rest = rest[stdin.write(rest) :]
        stdin.close()

    def pump(pipe: IO[bytes], errors: bool) -> None:
        # Closed in the end, so that a command whose client is gone gets its SIGPIPE.
        with pipe, contextlib.suppress(OSError, EOFError):
            while data := pipe.read(65536):
                channel.sendall_stderr(data) if errors else channel.sendall(data)

    _start(feed)
    other = _start(pump, stderr, True)
    pump(stdout, False)
    other.join()
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        channel.send_exit_status(process.wait())
    channel.close()
    process.kill()
    process.wait()


@contextlib.contextmanager
def agent(path: Path, keys: Sequence[paramiko.PKey]) -> Iterator[list[bytes]]:
    """An SSH agent at `path`; gives the list of the public keys it was asked to sign with."""
    signed: list[bytes] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                _start(_answer, listener.accept()[0], keys, signed)

    _start(accept)
    try:
        yield signed
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _answer(sock: socket.socket, keys: Sequence[paramiko.PKey], signed: list[bytes]) -> None:
    """draft-miller-ssh-agent: 11 -> 12 lists the keys, 13 -> 14 signs."""
    stream = sock.makefile("rwb")
    while head := stream.read(4):
        request = paramiko.Message(stream.read(struct.unpack("!I", head)[0]))
        reply = paramiko.Message()
        if request.get_byte() == b"\x0b":
            reply.add_byte(b"\x0c")
            reply.add_int(len(keys))
            for key in keys:
                reply.add_string(key.asbytes())
                reply.add_string("a comment")
        else:
            blob, data = request.get_string(), request.get_string()
            signed.append(blob)
            key = next(key for key in keys if key.asbytes() == blob)
            reply.add_byte(b"\x0e")
            reply.add_string(key.sign_ssh_data(data, None).asbytes())
        message = reply.asbytes()
        stream.write(struct.pack("!I", len(message)) + message)
        stream.flush()


def _start(target: object, *args: object) -> threading.Thread:
    thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
    thread.start()
    return thread
