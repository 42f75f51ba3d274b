"""When a container can be frozen without harm to what its Docker does with it just then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from migrate.docker_host import DockerHost
from migrate.networks import NetworkSpec

HEALTH = 10.0  # seconds that a health check may go on
AGAIN = 1.0  # seconds, for one that begins when the wait is over
LATE = 0.5  # seconds that a message of Docker may come late, on a busy host
PAUSE = 0.05

# How often Docker 28 says by ARP and NDP that an address is here, when it has plugged a container
# in, and the milliseconds between. It speaks through a raw socket, which neither the silence of the
# interface (announce.Silence) nor CRIU's lock of the network stops: the frozen container would
# claim its address after commit. (moby, libnetwork/osl/interface_linux.go and netlabel.)
MESSAGES = "com.docker.network.advertise_addr_nmsgs", 3
INTERVAL = "com.docker.network.advertise_addr_ms", 1000


def between_health_checks(
    docker: DockerHost, name: str, patience: float = HEALTH
) -> dict[str, Any]:
    """Inspect a container; if it has a health check, as soon as that does not run, for `patience`
    seconds at most. (It is a `docker exec`, whose other end is a client here: moby, health.go.)
    """
    deadline = time.monotonic() + patience
    while True:
        container = docker.inspect_container(name)
        checked = container["Config"].get("Healthcheck") and container.get("ExecIDs")
        if not checked or time.monotonic() > deadline:
            return container
        time.sleep(PAUSE)


def announced_for(networks: Iterable[NetworkSpec]) -> float:
    """Seconds for which Docker goes on to announce a container that it plugs into these."""
    return max((_announced(network) for network in networks), default=0.0)


def _announced(network: NetworkSpec) -> float:
    count, milliseconds = (_number(network, *option) for option in (MESSAGES, INTERVAL))
    return max(count - 1, 0) * milliseconds / 1000


def _number(network: NetworkSpec, option: str, default: int) -> int:
    given = network.options.get(option, "")
    return int(given) if given.isdecimal() else default


def after_announcements(
    docker: DockerHost, container: str, networks: Iterable[NetworkSpec], check: Callable[[], None]
) -> None:
    """Return when Docker has said for the last time that the container `container` (its id) is
    here, in those of its networks whose addresses move. `check` raises when the wait is to end."""
    seconds = announced_for(networks)
    if not seconds:
        return
    now = time.time()
    plugged = docker.last_plugged(container, since=now - seconds - LATE)
    if plugged is None:
        return
    deadline = time.monotonic() + min(plugged - now, 0) + seconds + LATE
    while (left := deadline - time.monotonic()) > 0:
        check()
        time.sleep(min(left, PAUSE))
