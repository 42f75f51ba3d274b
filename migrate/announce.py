"""A container's place on its hosts' Ethernet: who has it, that it is here, that it is no longer.

Switches learn from frames on which port a hardware address is, neighbours from ARP and NDP which
hardware address an IP address has. The container keeps both addresses, but for ipvlan, so that one
frame from the new place is enough; all of them are said several times, since frames get lost.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import threading
import time
from collections.abc import Sequence

import msgspec

from migrate.errors import CommandFailed, PlacementFailed
from migrate.neighbour_frames import (
    ETH_P_ARP,
    REPLY,
    advertisement,
    gratuitous,
    mac_bytes,
    parse_arp,
    probe,
)
from migrate.netns import within
from migrate.run import Waiting, run
from migrate.same_l2 import Address

SIOCGIFADDR, SIOCGIFHWADDR = 0x8915, 0x8927  # include/uapi/linux/sockios.h
AGAIN = (0.05, 0.2, 0.5, 1.0)  # seconds to the next time that it is said
PATIENCE, INTERVAL, OTHERS = 2.0, 0.1, 0.2  # seconds: an answer, a question, a second answer


class Station(msgspec.Struct, frozen=True):
    """An interface in a container's network namespace that has an address which moves."""

    name: str
    mac: str
    address: Address


def stations(pid: int, addresses: Sequence[Address]) -> tuple[Station, ...]:
    """Where the addresses are in a container; one that is nowhere is left out."""
    return within(pid, lambda: _stations(addresses))


def _stations(addresses: Sequence[Address]) -> tuple[Station, ...]:
    found = []
    six = _ipv6_addresses()
    for _, name in socket.if_nameindex():
        four = _ask(SIOCGIFADDR, name)
        mac = _ask(SIOCGIFHWADDR, name)
        for address in addresses:
            mine = (four and address.ipv4 == socket.inet_ntoa(four[20:24])) or (
                address.ipv6 and (name, socket.inet_pton(socket.AF_INET6, address.ipv6)) in six
            )
            if mine and mac:
                found.append(Station(name, mac[18:24].hex(":"), address))
    return tuple(found)


def _ask(request: int, name: str) -> bytes | None:
    """What the kernel says of an interface (netdevice(7)), None when there is nothing to say."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        return fcntl.ioctl(sock, request, struct.pack("256s", name.encode()[:15]))
    return None


def _ipv6_addresses() -> set[tuple[str, bytes]]:
    """Interfaces and addresses of this thread's namespace (/proc/self is that of the process)."""
    with contextlib.suppress(OSError), open("/proc/thread-self/net/if_inet6") as lines:
        return {(words[5], bytes.fromhex(words[0])) for words in map(str.split, lines)}
    return set()


# -- before the move ------------------------------------------------------------------------------


def insist(parent: str, network: str, address: str, holder: str) -> None:
    """The address must be heard from its holder, on this host's parent, and from nobody else.

    `holder`: the hardware address of the container, which still runs at the source. Raises
    PlacementFailed.
    """
    try:
        heard = who_has(parent, address, holder)
    except OSError as problem:
        raise PlacementFailed(
            f"nothing can be sent on `{parent}`, the parent of the network `{network}`: {problem}"
        ) from problem
    others = sorted(heard - {holder})
    if others:
        raise PlacementFailed(
            f"the address {address} is in use by another device ({others[0]}) on the Ethernet of "
            f"`{parent}`",
            "take it off that device",
        )
    if not heard:
        raise PlacementFailed(
            f"the container does not answer for {address} on `{parent}`, the parent of the network "
            f"`{network}` there: it is not on the Ethernet that the one here is on",
            "make the network there on the right interface (docker network create -o parent=...); "
            "--network-mode none moves it without",
        )


def who_has(parent: str, address: str, holder: str) -> set[str]:
    """The hardware addresses of those who answer; listens on a little after `holder` has."""
    mac = (_ask(SIOCGIFHWADDR, parent) or bytes(24))[18:24]
    heard: set[str] = set()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ARP)) as sock:
        sock.bind((parent, ETH_P_ARP))
        sock.settimeout(INTERVAL)
        deadline = time.monotonic() + PATIENCE
        asked = 0.0
        while (now := time.monotonic()) < deadline:
            if now - asked >= INTERVAL and holder not in heard:
                sock.send(probe(mac, address))
                asked = now
            with contextlib.suppress(TimeoutError):
                said = parse_arp(sock.recv(128))
                if said and said.operation == REPLY and said.sender_ip == socket.inet_aton(address):
                    if said.sender_mac.hex(":") == holder and holder not in heard:
                        deadline = min(deadline, time.monotonic() + OTHERS)
                    heard.add(said.sender_mac.hex(":"))
    return heard


# -- the new place --------------------------------------------------------------------------------


class Voice:
    """Says on the Ethernet that a container is here. Made beforehand: saying takes no time then."""

    def __init__(self, pid: int, addresses: Sequence[Address]) -> None:
        """`pid`: a process in the container's network namespace, which has its interfaces.

        Raises CommandFailed when it cannot speak there.
        """
        self._said: list[tuple[socket.socket, list[bytes]]] = []
        self._closed = threading.Event()
        try:
            within(pid, lambda: self._open(_stations(addresses)))
        except OSError as problem:
            self.close()
            raise CommandFailed(f"the container's address cannot be announced: {problem}") from None
        if len(self._said) < len(addresses):
            self.close()
            raise CommandFailed(
                "the container has no interface with the address that it is to have"
            )

    def _open(self, found: Sequence[Station]) -> None:
        for station in found:
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self._said.append((sock, frames(station)))
            sock.bind((station.name, 0))

    def speak(self) -> None:
        """Say it once. What cannot be sent is lost, like any frame."""
        for sock, said in self._said:
            for frame in said:
                with contextlib.suppress(OSError):
                    sock.send(frame)

    def go_on(self) -> None:
        """Say it again some times, in the background, until it is closed."""

        def body() -> None:
            for pause in AGAIN:
                if self._closed.wait(pause):
                    return
                self.speak()

        threading.Thread(target=body, name="announce", daemon=True).start()

    def close(self) -> None:
        self._closed.set()
        for sock, _ in self._said:
            sock.close()


def frames(station: Station) -> list[bytes]:
    """What a station says of itself."""
    mac, address = mac_bytes(station.mac), station.address
    said = list(gratuitous(mac, address.ipv4)) if address.ipv4 else []
    return [*said, advertisement(mac, address.ipv6)] if address.ipv6 else said


# -- the old place --------------------------------------------------------------------------------


class Silence:
    """Makes a frozen container's interfaces answer nobody; its program waits for the word."""

    def __init__(self, pid: int, found: Sequence[Station]) -> None:
        self._words = "".join(f"{line}\n" for one in found for line in silenced(one))
        self._program: Waiting | None = Waiting([*_enter(pid), "ip", "-batch", "-"])

    def do(self) -> None:
        if self._program:
            program, self._program = self._program, None
            program.finish(self._words)

    def close(self) -> None:
        """Give up a silence that was not needed."""
        if self._program:
            self._program.abandon()
            self._program = None


def silenced(station: Station) -> list[str]:
    """Lines for `ip -batch`. The kernel of a frozen container answers ARP (IPv6 is silent by the
    lock of the network, which ARP does not pass). And its neighbours on the same parent would go on
    to reach it: in mode `private` their frames go out on the wire instead."""
    lines = [f"link set dev {station.name} arp off"]
    if station.address.mode == "bridge":
        lines.append(f"link set dev {station.name} type macvlan mode private")
    return lines


def resumed(station: Station) -> list[str]:
    """The reverse of `silenced`."""
    lines = [f"link set dev {station.name} arp on"]
    if station.address.mode == "bridge":
        lines.append(f"link set dev {station.name} type macvlan mode bridge")
    return lines


def stay(pid: int, found: Sequence[Station]) -> None:
    """It did not move: its interfaces answer again, and say so, wherever they are taken to be now.

    Raises CommandFailed.
    """
    words = "".join(f"{line}\n" for one in found for line in resumed(one))
    run([*_enter(pid), "ip", "-batch", "-"], stdin=words, timeout=20)
    voice = Voice(pid, [one.address for one in found])
    for pause in (0.0, *AGAIN[:2]):
        time.sleep(pause)
        voice.speak()
    voice.close()


def _enter(pid: int) -> list[str]:
    return ["nsenter", f"--net=/proc/{pid}/ns/net", "--"]


def interface_names() -> tuple[str, ...]:
    """Of this host."""
    return tuple(name for _, name in socket.if_nameindex())
