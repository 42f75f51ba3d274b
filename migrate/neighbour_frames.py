"""Ethernet frames by which neighbours learn where an address is: ARP and NDP. Pure.

RFC 826 and 5227 (ARP: probe, announcement), RFC 4861 section 7.2.6 (unsolicited Neighbor
Advertisement).
"""

from __future__ import annotations

import ipaddress
import socket
import struct

import msgspec

ETH_P_ARP, ETH_P_IPV6 = 0x0806, 0x86DD
REQUEST, REPLY = 1, 2
BROADCAST, UNKNOWN = b"\xff" * 6, bytes(6)
ALL_NODES = ipaddress.IPv6Address("ff02::1")
ICMPV6, ADVERTISEMENT, TARGET_LINK_ADDRESS, OVERRIDE = 58, 136, 2, 0x20000000


class Arp(msgspec.Struct, frozen=True):
    """One ARP packet between Ethernet and IPv4; addresses as they are on the wire."""

    operation: int
    sender_mac: bytes
    sender_ip: bytes
    target_mac: bytes
    target_ip: bytes


def mac_bytes(text: str) -> bytes:
    """`02:00:...` as six bytes. Raises ValueError for anything else."""
    value = bytes.fromhex(text.replace(":", ""))
    if len(value) != 6:
        raise ValueError(f"not a hardware address: {text!r}")
    return value


def arp_frame(packet: Arp) -> bytes:
    """To everybody, from the sender of the packet."""
    head = BROADCAST + packet.sender_mac + struct.pack("!H", ETH_P_ARP)
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, packet.operation)
    addresses = packet.sender_mac + packet.sender_ip + packet.target_mac + packet.target_ip
    return head + body + addresses


def parse_arp(frame: bytes) -> Arp | None:
    """The ARP packet of a frame, None when it holds none (of Ethernet and IPv4)."""
    if len(frame) < 42 or frame[12:20] != struct.pack("!HHHBB", ETH_P_ARP, 1, 0x0800, 6, 4):
        return None
    (operation,) = struct.unpack("!H", frame[20:22])
    return Arp(operation, frame[22:28], frame[28:32], frame[32:38], frame[38:42])


def probe(mac: bytes, address: str) -> bytes:
    """Who has it? Without a sender's address, so that nobody learns anything from it."""
    return arp_frame(Arp(REQUEST, mac, bytes(4), UNKNOWN, socket.inet_aton(address)))


def gratuitous(mac: bytes, address: str) -> tuple[bytes, bytes]:
    """ "It is here": as a request, the form that the RFC wants, and as a reply, since some listen
    to the one and some to the other."""
    ip = socket.inet_aton(address)
    return (
        arp_frame(Arp(REQUEST, mac, ip, UNKNOWN, ip)),
        arp_frame(Arp(REPLY, mac, ip, BROADCAST, ip)),
    )


def advertisement(mac: bytes, address: str) -> bytes:
    """The same for IPv6: to all nodes, to override what they know."""
    source = ipaddress.IPv6Address(address).packed
    body = struct.pack("!BBHI", ADVERTISEMENT, 0, 0, OVERRIDE) + source
    body += struct.pack("!BB", TARGET_LINK_ADDRESS, 1) + mac
    pseudo = source + ALL_NODES.packed + struct.pack("!II", len(body), ICMPV6)
    body = body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]
    packet = struct.pack("!IHBB", 6 << 28, len(body), ICMPV6, 255) + source + ALL_NODES.packed
    multicast = b"\x33\x33" + ALL_NODES.packed[-4:]
    return multicast + mac + struct.pack("!H", ETH_P_IPV6) + packet + body


def checksum(data: bytes) -> int:
    """Of the Internet (RFC 1071); 0 over data that has its right checksum in it."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
