"""A real SSH server in this process, and a connection to it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.transport.ssh_lab import (
    HOST_KEY,
    RSA_HOST_KEY,
    USER_KEY,
    Lab,
)
from tests.unit.transport.sshd import Server
from transport.ssh import Connection


@pytest.fixture
def server() -> Iterator[Server]:
    with contextlib.closing(Server([HOST_KEY, RSA_HOST_KEY], {"me": USER_KEY})) as it:
        yield it


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("HOME", str(tmp_path))
    return Lab(tmp_path)


@pytest.fixture
def connection(lab: Lab, server: Server) -> Iterator[Connection]:
    lab.knows(server.known_hosts_line())
    with lab.connect(server) as it:
        yield it
