"""When a container can be frozen: not amid what Docker does with it, and when it is its turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from migrate.docker_host import DockerHost
from migrate.freeze_turn import Turn
from migrate.networks import NetworkSpec
from migrate.precopy import PreCopy
from migrate.progress import Progress

HEALTH = 10.0  # seconds that a health check may go on
IN_TURN = 2.0  # seconds, for one that has begun since: others wait for their turn
LATE = 0.5  # seconds that a message of Docker may come late, on a busy host
PAUSE = 0.05
NOTABLE = 0.2  # seconds of waiting

# How often Docker 28 says by ARP and NDP that an address is here, when it has plugged a container
# in, and the milliseconds between. It speaks through a raw socket, which neither the silence of the
# interface (announce.Silence) nor CRIU's lock of the network stops: the frozen container would
# claim its address after commit. (moby, libnetwork/osl/interface_linux.go and netlabel.)
MESSAGES = "com.docker.network.advertise_addr_nmsgs", 3
INTERVAL = "com.docker.network.advertise_addr_ms", 1000


def await_moment(
    docker: DockerHost, container: str, networks: Iterable[NetworkSpec], turn: Turn,
    precopy: PreCopy, check: Callable[[], None], progress: Progress,
) -> None:  # fmt: skip
    """Return when it can be frozen. It runs meanwhile, and what it changes goes on to be sent.

    `networks`: those in which its address moves; `check` raises when the wait is to end.
    """

    def meanwhile() -> None:
        check()
        precopy.keep_up(slowly=True)

    began = time.monotonic()
    after_announcements(docker, container, networks, check)
    between_health_checks(docker, container, check=check)
    quiet = time.monotonic() - began
    waited = turn.wait(meanwhile)
    if quiet > NOTABLE:
        progress.note(f"waited {quiet:.1f} s for what Docker does with the container")
    if waited > NOTABLE:
        progress.note(f"waited {waited:.1f} s for another container to be restored")
    precopy.keep_up(slowly=False)
    if checks_health(docker.inspect_container(container)):
        between_health_checks(docker, container, IN_TURN, check)
        precopy.keep_up(slowly=False)


def checks_health(container: dict[str, Any]) -> bool:
    """Whether a health check of an inspected container is running: it is a `docker exec`, whose
    other end is a client here (moby, health.go)."""
    return bool(container["Config"].get("Healthcheck") and container.get("ExecIDs"))


def between_health_checks(
    docker: DockerHost, name: str, patience: float = HEALTH,
    check: Callable[[], None] = lambda: None,
) -> dict[str, Any]:  # fmt: skip
    """Inspect a container as soon as no health check runs, or after `patience` seconds; `check`
    raises when the wait is to end."""
    deadline = time.monotonic() + patience
    while True:
        container = docker.inspect_container(name)
        if not checks_health(container) or time.monotonic() > deadline:
            return container
        check()
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
