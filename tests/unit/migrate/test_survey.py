"""migrate.survey: ports in use, read from a real kernel and from made-up tables."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from migrate import survey as survey_module
from migrate.criu_probe import ProbeResult
from migrate.messages import HostPort, Survey
from migrate.placement import DestinationView
from migrate.survey import listeners, parse_address

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"


def test_our_own_sockets_are_found() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.create_connection(tcp.getsockname()) as client,
    ):
        udp.bind(("127.0.0.2", 0))
        found = list(listeners(Path("/proc/self/net")))
        assert HostPort("tcp", "127.0.0.1", tcp.getsockname()[1]) in found
        assert HostPort("udp", "127.0.0.2", udp.getsockname()[1]) in found
        assert client.getsockname()[1] not in [one.port for one in found if one.protocol == "tcp"]


def test_tables(tmp_path: Path) -> None:
    (tmp_path / "tcp").write_text(HEAD + "   0: 00000000:0050 00000000:0000 0A 0\n"
                                  "   1: 0100007F:1F90 0100007F:9999 01 0\n")  # fmt: skip
    (tmp_path / "udp6").write_text(
        HEAD + "   0: " + "0" * 32 + ":0035 " + "0" * 32 + ":0000 07 0\n"
    )
    assert list(listeners(tmp_path)) == [
        HostPort("tcp", "0.0.0.0", 80),
        HostPort("udp", "::", 53),
    ]


def test_the_ports_of_those_that_may_come_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what is bound and does not listen, which no table has."""
    for name, value in (
        ("probe", lambda: ProbeResult(True, "", 0.0)), ("DockerHost", lambda: None),
        ("look_around", lambda docker: DestinationView()),
    ):  # fmt: skip
        monkeypatch.setattr(survey_module, name, value)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        number = bound.getsockname()[1]
        ports = HostPort("tcp", "", number), HostPort("udp", "", number)
        offer = survey_module.survey(Survey(ports))
    (refused,) = offer.refused
    assert refused.port == ports[0]
    assert "in use by a program" in refused.why
    assert refused.remedy
    assert survey_module.survey(Survey()).refused == ()


def test_addresses() -> None:
    assert parse_address("0100007F") == "127.0.0.1"
    assert parse_address("0" * 24 + "01000000") == "::1"
    assert parse_address("B80D0120000000000000000001000000") == "2001:db8::1"
