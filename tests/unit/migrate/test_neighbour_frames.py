"""migrate.neighbour_frames: the bytes on the wire."""

from __future__ import annotations

import ipaddress
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.neighbour_frames import (
    BROADCAST,
    REPLY,
    REQUEST,
    Arp,
    advertisement,
    arp_frame,
    checksum,
    gratuitous,
    mac_bytes,
    parse_arp,
    probe,
)

MAC = "02:42:0a:4d:00:82"
MACS = st.binary(min_size=6, max_size=6)
IPS = st.binary(min_size=4, max_size=4)


def test_gratuitous_arp_byte_by_byte() -> None:
    """As RFC 5227 section 3 draws it: sender and target address alike, to everybody."""
    request, reply = gratuitous(mac_bytes(MAC), "10.77.0.130")
    head = "ffffffffffff02420a4d00820806000108000604"
    assert request.hex() == head + "000102420a4d00820a4d00820000000000000a4d0082"
    assert reply.hex() == head + "000202420a4d00820a4d0082ffffffffffff0a4d0082"


def test_a_probe_tells_nobody_anything() -> None:
    asked = parse_arp(probe(mac_bytes(MAC), "10.77.0.130"))
    assert asked
    assert (asked.operation, asked.sender_ip) == (REQUEST, bytes(4))
    assert asked.target_ip == socket.inet_aton("10.77.0.130")


@given(st.sampled_from([REQUEST, REPLY]), MACS, IPS, MACS, IPS, st.binary(max_size=30))
def test_what_is_built_is_read(
    operation: int, mac: bytes, ip: bytes, other: bytes, target: bytes, padding: bytes
) -> None:
    packet = Arp(operation, mac, ip, other, target)
    frame = arp_frame(packet)
    assert frame[:12] == BROADCAST + mac
    assert parse_arp(frame + padding) == packet  # switches pad to 60 bytes
    assert parse_arp(frame[:41]) is None


@given(st.binary(max_size=60))
def test_whatever_comes_is_read_or_not(frame: bytes) -> None:
    parsed = parse_arp(frame)
    assert parsed is None or arp_frame(parsed)[6:] != b""


@pytest.mark.parametrize("at", [12, 14, 16, 18, 19])
def test_other_protocols_are_no_arp(at: int) -> None:
    frame = bytearray(probe(mac_bytes(MAC), "10.0.0.1"))
    frame[at] ^= 0x40
    assert parse_arp(bytes(frame)) is None


@given(MACS, st.ip_addresses(v=6))
def test_an_advertisement_is_right(mac: bytes, address: ipaddress.IPv6Address) -> None:
    """RFC 4861, 4.4 and 7.1.2: what a receiver checks, and what it then learns."""
    frame = advertisement(mac, str(address))
    assert frame[:6].hex() == "333300000001"
    assert frame[6:12] == mac
    header, body = frame[14:54], frame[54:]
    assert frame[12:14] == b"\x86\xdd"
    assert header[0] >> 4 == 6
    assert struct.unpack("!H", header[4:6])[0] == len(body) == 32
    assert header[6:8] == bytes([58, 255])  # hop limit 255, else it is dropped
    assert header[8:24] == address.packed
    assert ipaddress.IPv6Address(header[24:40]) == ipaddress.IPv6Address("ff02::1")
    assert body[:2] == bytes([136, 0])
    assert body[4:8].hex() == "20000000"  # override; not solicited, not a router
    assert body[8:24] == address.packed
    assert body[24:26] == bytes([2, 1])
    assert body[26:] == mac
    pseudo = header[8:40] + struct.pack("!II", len(body), 58)
    assert checksum(pseudo + body) == 0


def test_the_checksum_of_rfc_1071() -> None:
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == ~0xDDF2 & 0xFFFF
    assert checksum(b"\x01") == ~0x0100 & 0xFFFF


@pytest.mark.parametrize("text", ["", "02:42", "02:42:0a:4d:00:82:01", "no:pe:00:00:00:00"])
def test_what_is_no_hardware_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        mac_bytes(text)
