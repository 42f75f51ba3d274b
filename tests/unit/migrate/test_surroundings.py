"""migrate.surroundings: host ports are tried, on sockets of this machine."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import msgspec
import pytest

from migrate.errors import PlacementFailed
from migrate.messages import HostPort
from migrate.pairing import published
from migrate.surroundings import try_ports
from tests.unit.migrate.fleet import candidate

V6 = socket.AF_INET6


def asks(ip: str, port: int, protocol: str = "tcp") -> list[HostPort]:
    bindings = {f"80/{protocol}": [{"HostIp": ip, "HostPort": str(port)}]}
    spec = msgspec.structs.replace(candidate("a").spec, host_config={"PortBindings": bindings})
    return list(published(spec))


def held(address: str, kind: int = socket.SOCK_STREAM, family: int = socket.AF_INET,
         *, listen: bool = True) -> Iterator[int]:  # fmt: skip
    """A port that a program has."""
    with socket.socket(family, kind) as sock:
        if family == V6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((address, 0))
        if listen and kind == socket.SOCK_STREAM:
            sock.listen()
        yield sock.getsockname()[1]


@pytest.mark.parametrize(
    ("address", "wanted", "free"),
    [
        ("127.0.0.1", "127.0.0.1", False), ("127.0.0.1", "", False),
        ("127.0.0.1", "0.0.0.0", False), ("0.0.0.0", "127.0.0.1", False),
        ("127.0.0.2", "127.0.0.1", True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_port_of_a_program(address: str, wanted: str, free: bool, protocol: str) -> None:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    for port in held(address, kind):
        if free:
            try_ports(asks(wanted, port, protocol))
            continue
        with pytest.raises(PlacementFailed, match=f":{port}/{protocol} .*in use") as caught:
            try_ports(asks(wanted, port, protocol))
        assert caught.value.remedy
        try_ports(asks(wanted, port, "udp" if protocol == "tcp" else "tcp"))


def test_what_is_bound_and_does_not_listen_is_in_the_way() -> None:
    for port in held("127.0.0.1", listen=False):
        with pytest.raises(PlacementFailed, match="in use"):
            try_ports(asks("127.0.0.1", port))


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
def test_a_socket_of_both_families_has_the_port_of_both() -> None:
    for port in held("::", family=V6):
        with pytest.raises(PlacementFailed, match="in use"):
            try_ports(asks("0.0.0.0", port))


def test_an_address_that_is_not_here() -> None:
    with pytest.raises(PlacementFailed, match=r"203\.0\.113\.7, which is no address"):
        try_ports(asks("203.0.113.7", 18080))


def test_what_is_not_tried() -> None:
    for port in held("127.0.0.1"):
        try_ports(asks("127.0.0.1", port, "sctp"))
    picked = {"80/tcp": [{"HostIp": "", "HostPort": ""}]}
    spec = msgspec.structs.replace(candidate("a").spec, host_config={"PortBindings": picked})
    assert list(published(spec)) == []


def test_a_host_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket

    def only_ipv4(family: int, kind: int) -> socket.socket:
        if family == V6:
            raise OSError(97, "Address family not supported by protocol")
        return real(family, kind)

    monkeypatch.setattr("migrate.surroundings.socket.socket", only_ipv4)
    for port in held("127.0.0.1", listen=False):
        free = port
    try_ports(asks("", free))
