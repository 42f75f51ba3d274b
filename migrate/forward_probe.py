"""Whether the other end of a tunnel answers: asked by ARP, which no filter within it sees.

What can be in the way is a filter for the tunnel's own packets, between the hosts or on one.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time

from migrate.errors import HostUnfit
from migrate.forward_record import TUNNEL_PORT, Path

ETH_P_ARP = 0x0806
REQUEST, REPLY = 1, 2
INTERVAL = 0.1  # seconds from one question to the next


def insist(path: Path, peer: str) -> None:
    """Raise HostUnfit when the way is a tunnel and nothing comes through."""
    if path.kind == "vxlan" and not answers(path):
        raise HostUnfit(
            f"nothing comes through the tunnel to {peer}",
            f"let UDP port {TUNNEL_PORT} pass from {path.here} to {path.there} and back; "
            "--network-mode none moves it without",
        )


def answers(path: Path, timeout: float = 2.0) -> bool:
    """Ask for the other end's address; whether it says that it has it within `timeout` seconds."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ARP)) as sock:
        sock.bind((path.device, ETH_P_ARP))
        sock.settimeout(INTERVAL)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            sock.send(request(path))
            with contextlib.suppress(TimeoutError):
                while time.monotonic() < deadline:
                    if is_reply(sock.recv(128), path):
                        return True
    return False


def request(path: Path) -> bytes:
    """An ARP probe (RFC 5227): without a sender's address, so no route back is asked for."""
    mac = _mac(path.mac)
    head = b"\xff" * 6 + mac + struct.pack("!H", ETH_P_ARP)
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, REQUEST)
    return head + body + mac + bytes(4) + bytes(6) + socket.inet_aton(path.gateway)


def is_reply(frame: bytes, path: Path) -> bool:
    """Whether a frame is the other end's answer."""
    if len(frame) < 42 or struct.unpack("!H", frame[12:14])[0] != ETH_P_ARP:
        return False
    operation = struct.unpack("!H", frame[20:22])[0]
    sender = frame[22:28], frame[28:32]
    return operation == REPLY and sender == (_mac(path.peer_mac), socket.inet_aton(path.gateway))


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
