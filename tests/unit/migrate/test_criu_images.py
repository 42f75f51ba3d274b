"""migrate.criu_images: which sockets need the container's network to be restored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.criu_images import needs_address, needs_network


def inet(address: str, **more: Any) -> dict[str, Any]:
    return {"type": "INETSK", "id": 1, "isk": {"src_addr": [address], **more}}


@pytest.mark.parametrize(
    ("entry", "needs"),
    [
        ({"type": "REG", "id": 1, "reg": {"name": "/x"}}, False),
        (inet("0.0.0.0"), False),
        (inet("::"), False),
        (inet("127.0.0.1"), False),
        (inet("127.8.9.10"), False),
        (inet("::1"), False),
        (inet("10.0.0.2"), True),
        (inet("172.127.0.1"), True),
        (inet("fd00::7"), True),
        (inet("::ffff:10.0.0.2"), True),
        (inet("0.0.0.0", ifname="eth0"), True),
        ({"type": "PACKETSK", "id": 1, "psk": {}}, True),
    ],
)
def test_sockets(entry: dict[str, Any], needs: bool) -> None:
    assert needs_address(entry) is needs


@given(st.ip_addresses())
def test_only_any_and_loopback_are_had_everywhere(address: Any) -> None:
    assert needs_address(inet(str(address))) is not (address.is_unspecified or address.is_loopback)


def test_what_cannot_be_read_needs_it(tmp_path: Path) -> None:
    assert needs_network(tmp_path)
    (tmp_path / "files.img").write_bytes(b"nonsense")
    assert needs_network(tmp_path)
