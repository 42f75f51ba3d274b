"""What at the destination is in a container's way and shows only when it is tried: host ports.

/proc/net/tcp does not have all: no socket that is bound and does not listen, and not which of two
families a socket for both keeps from others. Docker tries at `docker start`, in the freeze.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Iterator

from migrate.errors import PlacementFailed
from migrate.messages import HostPort, PortRefused

KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}  # none but Docker binds SCTP


def try_ports(ports: Iterable[HostPort]) -> None:
    """Bind host ports for a moment, as Docker will do: before anything is changed.

    Raises PlacementFailed when one is in use, or its address is none of this host's.
    """
    for port in ports:
        if kind := KINDS.get(port.protocol):
            for address in addresses(port.address):
                _try(address, port.port, port.protocol, kind)


def refused(ports: Iterable[HostPort]) -> Iterator[PortRefused]:
    """Those of them that cannot be had here, and why."""
    for port in ports:
        try:
            try_ports([port])
        except PlacementFailed as failure:
            yield PortRefused(port, failure.message, failure.remedy)


def addresses(wanted: str) -> Iterator[str]:
    """Which a port of a host address is bound to: "" stands for all of both families."""
    yield from [wanted] if wanted else ["0.0.0.0", "::"]


def _try(address: str, port: int, protocol: str, kind: int) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, kind) as sock:
            if (
                kind == socket.SOCK_STREAM
            ):  # as Go does: what has just been closed is not in the way
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address, port))
    except OSError as problem:
        shown = f"[{address}]" if ":" in address else address
        if problem.errno == errno.EADDRINUSE:
            raise PlacementFailed(
                f"the port {shown}:{port}/{protocol} of the destination is in use by a program "
                "there",
                "stop that program, or publish another port",
            ) from problem
        unspecified = address in ("0.0.0.0", "::")
        if problem.errno == errno.EADDRNOTAVAIL and not unspecified:
            raise PlacementFailed(
                f"the container publishes a port at {address}, which is no address of the "
                "destination",
                "give the destination that address, or publish the port without one",
            ) from problem
        # All else, as a host without IPv6, Docker knows how to live with.
