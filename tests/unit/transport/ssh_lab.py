"""Keys, and a home directory with an ssh_config, for the tests of transport.ssh*."""

from __future__ import annotations

import socket
from pathlib import Path

import paramiko

from tests.unit.transport.sshd import Server
from transport.ssh import Connection, connect
from transport.target import Target, parse_target

HOST_KEY = paramiko.ECDSAKey.generate()
RSA_HOST_KEY = paramiko.RSAKey.generate(2048)
USER_KEY = paramiko.ECDSAKey.generate()
OTHER_KEY = paramiko.ECDSAKey.generate()


class Lab:
    """A home directory with a key, known_hosts and an ssh_config; nothing of the real one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known_hosts = path / "known_hosts"
        self.known_hosts.touch()
        self.key = path / "key"
        USER_KEY.write_private_key_file(str(self.key))
        self.config = path / "config"
        self.configure("")

    def configure(self, text: str) -> None:
        """First what `text` says, then what all tests share."""
        self.config.write_text(
            f"{text}\nHost *\n  User me\n  IdentityFile {self.key}\n  IdentityAgent none\n"
            f"  UserKnownHostsFile {self.known_hosts}\n  GlobalKnownHostsFile none\n"
        )

    def knows(self, *lines: str) -> None:
        self.known_hosts.write_text("".join(lines))

    def connect(self, where: Server | str, *, accept: bool = False) -> Connection:
        target = (
            parse_target(where) if isinstance(where, str) else Target("127.0.0.1", port=where.port)
        )
        return connect(target, config_path=self.config, accept_new_host_key=accept, timeout=5)


def refused_port() -> int:
    """A port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
