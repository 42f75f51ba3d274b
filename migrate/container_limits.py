"""What a container may not have if it is to move. Pure: from inspects to sentences.

Every obstacle is an instance of the failure that it would be raised as, with its remedy; all of
them are found, so that nobody has to try ten times.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from migrate.container_spec import is_anonymous
from migrate.errors import ContainerNotRunning, Unsupported
from transport.errors import Failure

RUNTIMES = ("", "runc", "io.containerd.runc.v2", "migrate")
"""The runtimes whose containers `runc checkpoint` can dump; "migrate" is ours, around runc."""

MOVABLE = ("bridge", "macvlan", "ipvlan", "null", "host")
"""Drivers of networks; "null" is that of `none`, and `host` is refused with a reason of its own."""

_SWARM_LABEL = "com.docker.swarm."


def obstacles(
    container: Mapping[str, Any],
    networks: Sequence[Mapping[str, Any]],
    *,
    empty_volumes: Collection[str] = (),
    shm_used: int = 0,
    userns_remap: bool = False,
) -> list[Failure]:
    """All reasons why the container cannot be moved, not raised; an empty list if it can.

    `container`, `networks`: the inspects of the container and of its networks. `empty_volumes`:
    names of volumes without any content. `shm_used`: bytes in /dev/shm. `userns_remap`: whether
    dockerd runs with userns-remap. A state that forbids the move comes first (`Unsupported` or
    `ContainerNotRunning`), then the rest (`Unsupported`).

    Not among them: tmpfs mounts and a private /dev/shm (CRIU dumps their content), health checks,
    seccomp and AppArmor settings, and CgroupnsMode `host`, which is Docker's default wherever
    cgroup v1 is in use (moby, daemon/config/config_linux.go) and holds nothing that CRIU restores.
    """
    return [
        *_state(container),
        *_namespaces(container, shm_used, userns_remap),
        *_devices(container),
        *_mounts(container, empty_volumes),
        *_networking(container, networks),
        *_rest(container),
    ]


def remaps_users(info: Mapping[str, Any]) -> bool:
    """Whether that dockerd runs with userns-remap (`GET /info`, SecurityOptions "name=userns")."""
    return any("name=userns" in str(option) for option in info.get("SecurityOptions") or ())


def refuse(found: Sequence[Failure]) -> None:
    """Raise the first of the obstacles, saying how many others there are; none: do nothing."""
    if not found:
        return
    first = found[0]
    others = len(found) - 1
    if others:
        more = "1 more reason" if others == 1 else f"{others} more reasons"
        raise type(first)(f"{first.message} (and {more})", first.remedy)
    raise first


def _state(container: Mapping[str, Any]) -> Iterator[Failure]:
    name = str(container["Name"]).removeprefix("/")
    state = container.get("State") or {}
    status = str(state.get("Status") or "")
    if status == "paused" or state.get("Paused"):
        yield Unsupported(
            f"the container `{name}` is paused", f"unpause it first: docker unpause {name}"
        )
    elif status == "restarting" or state.get("Restarting"):
        yield Unsupported(
            f"the container `{name}` is restarting", "wait until it stays up, or see why it ends"
        )
    elif status in ("dead", "removing") or state.get("Dead"):
        yield Unsupported(f"the container `{name}` is {status or 'dead'}", "remove it")
    elif not state.get("Running"):
        yield ContainerNotRunning(f"the container `{name}` is not running ({status or 'stopped'})")
    if container.get("ExecIDs"):
        # A health check is an exec too, and is listed while it runs (moby, daemon/health.go).
        probe = bool(container["Config"].get("Healthcheck"))
        yield Unsupported(
            f"a `docker exec` runs in `{name}`: its other end is a client of this host",
            "end the docker exec sessions first"
            + (", or try again if it was only the health check" if probe else ""),
        )


def _namespaces(
    container: Mapping[str, Any], shm_used: int, userns_remap: bool
) -> Iterator[Failure]:
    host = container["HostConfig"]
    for field, option, what in (
        ("PidMode", "--pid", "process ids"),
        ("IpcMode", "--ipc", "shared memory and semaphores"),
        ("UTSMode", "--uts", "host name"),
    ):
        mode = str(host.get(field) or "")
        if mode == "host" or mode.startswith("container:"):
            with_whom = "the host" if mode == "host" else "another container"
            yield Unsupported(
                f"the container shares its {what} with {with_whom} ({option} {mode})",
                f"create it without {option}",
            )
    if host.get("IpcMode") == "shareable" and shm_used > 0:
        # Docker mounts the /dev/shm of a shareable container from the host, so CRIU takes it for
        # an external mount and does not look inside; a private one is mounted within.
        yield Unsupported(
            f"{shm_used} bytes are in /dev/shm, which --ipc shareable keeps outside the container",
            "create it with --ipc private",
        )
    if userns_remap and host.get("UsernsMode") != "host":
        yield Unsupported(
            "the Docker of this host remaps user ids (userns-remap)",
            "create the container with --userns host, or dockerd without userns-remap",
        )


def _devices(container: Mapping[str, Any]) -> Iterator[Failure]:
    host = container["HostConfig"]
    if host.get("Privileged"):
        yield Unsupported(
            "the container is privileged, which gives it all devices of this host",
            "create it without --privileged, with --cap-add for what it needs",
        )
    paths = [str(device.get("PathOnHost")) for device in host.get("Devices") or ()]
    if paths:
        yield Unsupported(
            f"the container uses devices of this host: {', '.join(paths)}",
            "create it without --device",
        )
    if host.get("DeviceRequests"):
        yield Unsupported(
            "the container uses GPUs or other requested devices, whose memory CRIU cannot read",
            "create it without --gpus",
        )


def _mounts(container: Mapping[str, Any], empty_volumes: Collection[str]) -> Iterator[Failure]:
    for mount in container.get("Mounts") or ():
        kind, target = str(mount.get("Type") or ""), str(mount.get("Destination") or "")
        name = str(mount.get("Name") or "")
        driver = str(mount.get("Driver") or "local")
        if kind == "bind":
            yield Unsupported(
                f"`{target}` is a directory or file of this host ({mount.get('Source')})",
                "keep what is there in the image or in a tmpfs",
            )
        elif kind == "volume" and driver != "local":
            yield Unsupported(
                f"the volume at `{target}` is of the driver `{driver}`",
                "only local volumes can be moved",
            )
        elif kind == "volume" and name not in empty_volumes:
            which = "an anonymous volume" if is_anonymous(mount) else f"the volume `{name}`"
            yield Unsupported(
                f"{which} at `{target}` is not empty, and volumes do not move yet",
                "keep what is there in the image or in a tmpfs",
            )
        elif kind not in ("volume", "tmpfs"):
            yield Unsupported(
                f"`{target}` is a mount of the type `{kind}`", "create it without this mount"
            )
    if container["HostConfig"].get("VolumesFrom"):
        yield Unsupported(
            "the container uses the volumes of another one (--volumes-from)",
            "create it without --volumes-from",
        )


def _networking(
    container: Mapping[str, Any], networks: Sequence[Mapping[str, Any]]
) -> Iterator[Failure]:
    host = container["HostConfig"]
    mode = str(host.get("NetworkMode") or "")
    if mode == "host" or mode.startswith("container:"):
        whose = "of the host" if mode == "host" else "of another container"
        yield Unsupported(
            f"the container uses the network {whose} (--network {mode})",
            "create it with a bridge network",
        )
    attached = (container.get("NetworkSettings") or {}).get("Networks") or {}
    drivers = {str(network["Name"]): str(network["Driver"]) for network in networks}
    for name in sorted(attached):
        driver = drivers.get(name, "bridge")
        if driver not in MOVABLE:
            yield Unsupported(
                f"the network `{name}` is of the driver `{driver}`, which cannot be moved yet",
                "connect the container to a network of the driver bridge or macvlan",
            )
    linked = [*(host.get("Links") or ())]
    for endpoint in attached.values():
        linked += (endpoint or {}).get("Links") or ()
    if linked:
        peers = ", ".join(str(link).partition(":")[0].removeprefix("/") for link in linked)
        yield Unsupported(
            f"the container has legacy links to other containers (--link): {peers}",
            "use a user-defined network and the names of the containers",
        )


def _rest(container: Mapping[str, Any]) -> Iterator[Failure]:
    host, config = container["HostConfig"], container["Config"]
    labels = config.get("Labels") or {}
    if any(str(label).startswith(_SWARM_LABEL) for label in labels):
        yield Unsupported(
            "the container belongs to a Swarm service, which would replace it here",
            "let Swarm move it: docker service update --constraint-add ...",
        )
    if config.get("Tty"):
        yield Unsupported(
            "the container has a terminal (-t), which cannot be handed to the other Docker yet",
            "create it without -t",
        )
    runtime = str(host.get("Runtime") or "")
    if runtime not in RUNTIMES:
        yield Unsupported(
            f"the container runs under the OCI runtime `{runtime}`", "create it with --runtime runc"
        )
    if str(container.get("Platform") or "linux") != "linux":
        yield Unsupported(f"the container is not a Linux one ({container['Platform']})", "")
