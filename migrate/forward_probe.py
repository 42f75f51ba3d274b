"""Whether the other end of a tunnel answers: asked by ARP, which no filter within it sees.

What can be in the way is a filter for the tunnel's own packets, between the hosts or on one.
"""

from __future__ import annotations

import contextlib
import socket
import time

from migrate.errors import HostUnfit
from migrate.forward_record import TUNNEL_PORT, Path
from migrate.neighbour_frames import ETH_P_ARP, REPLY, mac_bytes, parse_arp, probe

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
    return probe(mac_bytes(path.mac), path.gateway)


def is_reply(frame: bytes, path: Path) -> bool:
    """Whether a frame is the other end's answer."""
    said = parse_arp(frame)
    wanted = (REPLY, mac_bytes(path.peer_mac), socket.inet_aton(path.gateway))
    return said is not None and (said.operation, said.sender_mac, said.sender_ip) == wanted
