"""What this host could take in, for whoever plans an evacuation: looks only."""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from migrate.container_limits import remaps_users
from migrate.criu_probe import probe
from migrate.docker_host import DockerHost
from migrate.lineage import heirs
from migrate.messages import HostPort, Offer, Survey
from migrate.placement import DestinationView
from migrate.surroundings import refused

_LISTEN = "0A"  # TCP_LISTEN (include/net/tcp_states.h)
_UNCONNECTED = "07"  # a UDP socket that takes packets from everybody
_TABLES = (("tcp", _LISTEN), ("tcp6", _LISTEN), ("udp", _UNCONNECTED), ("udp6", _UNCONNECTED))


def survey(asked: Survey) -> Offer:
    """The answer. Raises DockerUnavailable."""
    probed = probe()
    view = look_around(DockerHost())
    return Offer(
        view=view,
        load=os.getloadavg()[0],
        probe="" if probed.ok else probed.reason,
        refused=tuple(refused(asked.ports)),
        heirs=heirs([str(item["Id"]) for item in view.containers]) if asked.heirs else {},
    )


def look_around(docker: DockerHost) -> DestinationView:
    """What is there now that a container could collide with."""
    return DestinationView(
        networks=tuple(docker.networks()),
        containers=tuple(docker.containers()),
        images=docker.images_view(),
        cpus=os.cpu_count() or 0,
        userns_remap=remaps_users(docker.info()),
        volumes=docker.volumes(),
    )


def listeners(folder: Path) -> Iterator[HostPort]:
    """The ports in use of a network namespace, from its /proc/net (proc_pid_net(5))."""
    for table, state in _TABLES:
        try:
            lines = (folder / table).read_text().splitlines()[1:]
        except OSError:  # no IPv6
            continue
        for line in lines:
            words = line.split()
            if words[3] == state:
                address, _, port = words[1].partition(":")
                yield HostPort(table.removesuffix("6"), parse_address(address), int(port, 16))


def parse_address(text: str) -> str:
    """`0100007F` as `127.0.0.1`: words of 32 bits in the order of this machine."""
    raw = bytes.fromhex(text)
    if sys.byteorder == "little":
        raw = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
    return str(ipaddress.ip_address(raw))
