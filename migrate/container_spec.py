"""What a container is, in a form that another host's Docker can make it again from.

`make_spec` reads the source's inspects into a `ContainerSpec`; `create_request` turns that into the
body of `POST /containers/create` for the API version of the destination. Both are pure. What cannot
be moved at all is told by `migrate.container_limits`.

Field names and meanings: Docker Engine API, https://docs.docker.com/reference/api/engine/ (the
yaml files in moby's api/docs); "moby" below is github.com/moby/moby at v28.5.2, if nothing else
is said.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from migrate.errors import Unsupported
from migrate.networks import EndpointSpec, NetworkSpec, endpoint_spec, network_spec, parse_api

RUNTIME = "migrate"
"""The OCI runtime of every container that we make: only it can restore (README, "setup")."""

# Taken over as they are. Hostname, Entrypoint and MacAddress need thought, see below. Left out:
# AttachStd* (concern the client that created the container), OnBuild and ArgsEscaped (images only).
CONFIG_FIELDS = (
    "Domainname", "User", "ExposedPorts", "Tty", "OpenStdin", "StdinOnce", "Env", "Cmd", "Volumes",
    "WorkingDir", "Labels", "StopSignal", "StopTimeout", "Healthcheck", "Shell", "NetworkDisabled",
)  # fmt: skip

# Left out on purpose: ContainerIDFile and ConsoleSize (concern the client), Isolation and the Cpu*
# and IO* fields of Windows, KernelMemory and KernelMemoryTCP (gone from kernels and from API 1.42),
# Binds and VolumesFrom (what they led to is in the top-level Mounts), Links (refused), Runtime.
HOST_FIELDS = (
    "AutoRemove", "PublishAllPorts", "ReadonlyRootfs", "Privileged", "Init", "ShmSize", "Tmpfs",
    "CapAdd", "CapDrop", "SecurityOpt", "GroupAdd", "Sysctls", "LogConfig", "StorageOpt",
    "Annotations", "Dns", "DnsOptions", "DnsSearch", "ExtraHosts", "CgroupnsMode", "IpcMode",
    "PidMode", "UTSMode", "UsernsMode", "CgroupParent", "MaskedPaths", "ReadonlyPaths",
    "Devices", "DeviceRequests", "DeviceCgroupRules",
    "Memory", "MemorySwap", "MemoryReservation", "MemorySwappiness", "OomKillDisable",
    "OomScoreAdj", "NanoCpus", "CpuShares", "CpuPeriod", "CpuQuota", "CpuRealtimePeriod",
    "CpuRealtimeRuntime", "CpusetCpus", "CpusetMems", "PidsLimit", "Ulimits", "BlkioWeight",
    "BlkioWeightDevice", "BlkioDeviceReadBps", "BlkioDeviceWriteBps", "BlkioDeviceReadIOps",
    "BlkioDeviceWriteIOps",
)  # fmt: skip

# An empty list here is not the default but its opposite, "mask nothing" (--security-opt
# systempaths=unconfined, which leaves no other trace): moby, daemon/oci_linux.go.
_EMPTY_MEANS_SOMETHING = ("MaskedPaths", "ReadonlyPaths")

_ENDPOINT_SYSCTLS = "com.docker.network.endpoint.sysctls"


class ImageSpec(msgspec.Struct, frozen=True):
    """The image of the container. `layers`: the diff ids, which are the same in every store.

    The id is that of the source's image store; the containerd store gives other ids than the graph
    drivers do, so it must not be compared between hosts without the layers.
    """

    reference: str
    id: str
    layers: tuple[str, ...]
    architecture: str
    os: str
    variant: str = ""
    repo_tags: tuple[str, ...] = ()
    repo_digests: tuple[str, ...] = ()


class ContainerSpec(msgspec.Struct, frozen=True):
    """Everything the destination needs to make the container; nothing in it depends on a store.

    `config` and `host_config` are parts of the create body, free of API versions and of networks.
    `endpoints`: the primary one (that of NetworkMode) first. `health`: "" without health check.
    """

    name: str
    source_id: str
    hostname: str
    image: ImageSpec
    config: dict[str, Any]
    host_config: dict[str, Any]
    network_mode: str
    networks: tuple[NetworkSpec, ...] = ()
    endpoints: tuple[EndpointSpec, ...] = ()
    restart_policy: dict[str, Any] = {}
    auto_remove: bool = False
    health: str = ""
    userns_remap: bool = False

    @property
    def address_may_change(self) -> bool:
        """Whether Docker will not let us choose an address: whoever holds it open will lose it."""
        return any(endpoint.address_may_change for endpoint in self.endpoints)


class CreateRequest(msgspec.Struct, frozen=True):
    """`body` for `POST /containers/create`, then `connect` (network, endpoint config) in order."""

    body: dict[str, Any]
    connect: tuple[tuple[str, dict[str, Any]], ...] = ()


def make_spec(
    container: Mapping[str, Any],
    image: Mapping[str, Any],
    networks: Sequence[Mapping[str, Any]],
    *,
    empty_volumes: Collection[str] = (),
    userns_remap: bool = False,
) -> ContainerSpec:
    """Read the inspects of a running container, its image and its networks (any order).

    `empty_volumes` names the volumes that hold nothing, which the destination makes anew;
    `userns_remap`: whether this host's dockerd remaps user ids. Raises `Unsupported` if the inspect
    of one of the container's networks is missing or has a form that we do not know.
    """
    config, host = container["Config"], container["HostConfig"]
    policy = _restart_policy(host.get("RestartPolicy") or {})
    attached: Mapping[str, Any] = (container.get("NetworkSettings") or {}).get("Networks") or {}
    mode = _network_mode(str(host.get("NetworkMode") or "default"), attached)
    by_name = {str(network["Name"]): network for network in networks}
    missing = sorted(name for name in attached if name not in by_name)
    if missing:
        raise Unsupported(f"the network `{missing[0]}` of the container is unknown to this Docker")
    primary_first = sorted(attached, key=lambda name: (name != mode, name))
    specs = tuple(network_spec(by_name[name]) for name in primary_first)
    return ContainerSpec(
        name=str(container["Name"]).removeprefix("/"),
        source_id=str(container["Id"]),
        hostname=str(config.get("Hostname") or ""),
        image=_image_spec(str(config["Image"]), image),
        config=_config(config),
        host_config=_host_config(container, policy, empty_volumes),
        network_mode=mode,
        networks=specs,
        endpoints=tuple(
            endpoint_spec(
                network,
                attached[network.name],
                source_id=str(container["Id"]),
                hostname=str(config.get("Hostname") or ""),
                wanted_mac=str(config.get("MacAddress") or "") if network.name == mode else "",
            )
            for network in specs
        ),
        restart_policy=policy,
        auto_remove=bool(host.get("AutoRemove")),
        health=str(((container.get("State") or {}).get("Health") or {}).get("Status") or ""),
        userns_remap=userns_remap,
    )


def create_request(spec: ContainerSpec, api_version: str, image: str) -> CreateRequest:
    """The calls that make the container at a Docker of `api_version` ("1.41") from `image`.

    `image` is what `placement` says: a reference that means the right image there, or its id. What
    an old version cannot say (annotations before 1.43; the MAC address of a second network, several
    networks at once before 1.44; gateway priority before 1.48) is left out or comes as a `connect`.
    """
    version = parse_api(api_version)
    config = dict(spec.config)
    host = dict(spec.host_config)
    if version < (1, 43):
        host.pop("Annotations", None)
    if version < (1, 44) and "StartInterval" in (config.get("Healthcheck") or {}):
        config["Healthcheck"] = {
            key: value for key, value in config["Healthcheck"].items() if key != "StartInterval"
        }
    bodies = [(endpoint.network, endpoint.body(version)) for endpoint in spec.endpoints]
    if version >= (1, 46) and bodies:
        _move_interface_sysctls(host, bodies[0][1])
    # Several endpoints at create and MAC addresses of endpoints: moby, container_routes.go.
    at_create = bodies if version >= (1, 44) else bodies[:1]
    if version < (1, 44) and spec.endpoints and spec.endpoints[0].mac:
        config["MacAddress"] = spec.endpoints[0].mac
    body: dict[str, Any] = {
        **config,
        "Image": image,
        # Docker's default is the short id, which changes; the UTS name is in the checkpoint, but
        # /etc/hostname and /etc/hosts are written by dockerd from this field.
        "Hostname": spec.hostname,
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "HostConfig": {**host, "NetworkMode": spec.network_mode, "Runtime": RUNTIME},
        "NetworkingConfig": {"EndpointsConfig": dict(at_create)},
    }
    return CreateRequest(body=body, connect=tuple(bodies[len(at_create) :]))


def _config(config: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: config[key] for key in CONFIG_FIELDS if _says_something(key, config.get(key))}
    # An absent Entrypoint would be filled in from the image. That the source has none although its
    # image may means `--entrypoint ""`, which the API spells [""]: moby, daemon/create.go and
    # daemon/commit.go (merge).
    kept["Entrypoint"] = list(config.get("Entrypoint") or [""])
    return kept


def _host_config(
    container: Mapping[str, Any], policy: dict[str, Any], empty_volumes: Collection[str]
) -> dict[str, Any]:
    host = container["HostConfig"]
    kept = {key: host[key] for key in HOST_FIELDS if _says_something(key, host.get(key))}
    if "Memory" not in kept and kept.get("MemorySwap", 0) > 0:
        del kept["MemorySwap"]  # "always set the Memory limit when using Memoryswap limit"
    if not 0 <= kept.get("MemorySwappiness", 0) <= 100:
        del kept["MemorySwappiness"]  # -1 was an old way of saying "as the kernel has it"
    kept["RestartPolicy"] = policy
    ports = port_bindings(container)
    if ports:
        kept["PortBindings"] = ports
    mounts = _mounts(container, empty_volumes)
    if mounts:
        kept["Mounts"] = mounts
    return kept


def _says_something(key: str, value: object) -> bool:
    # null, "", 0, false and empty lists are the API's own defaults, and some of them are refused
    # when sent ("invalid isolation", swappiness -1): not to say them is always right, but for:
    if key in _EMPTY_MEANS_SOMETHING or key in ("Init", "MemorySwappiness", "StopTimeout"):
        return value is not None
    return bool(value)


def _restart_policy(policy: Mapping[str, Any]) -> dict[str, Any]:
    # Docker >= 25 refuses a retry count with any policy but on-failure, and a count without a
    # name; older ones let both through (moby, ValidateRestartPolicy).
    name = str(policy.get("Name") or "no")
    if name == "on-failure":
        return {"Name": name, "MaximumRetryCount": int(policy.get("MaximumRetryCount") or 0)}
    return {"Name": name}


def _network_mode(mode: str, attached: Mapping[str, Any]) -> str:
    """The mode by name: "default" is `bridge`, and a network's id means nothing elsewhere."""
    if mode == "default":
        return "bridge"
    if mode in attached:
        return mode
    for name, endpoint in attached.items():
        if len(mode) >= 12 and str((endpoint or {}).get("NetworkID") or "").startswith(mode):
            return name
    return mode


def port_bindings(container: Mapping[str, Any]) -> dict[str, list[dict[str, str]]]:
    """The host ports the container really has, those that Docker picked at random too.

    From NetworkSettings.Ports of a running container. A port bound to 0.0.0.0 and :: alike is said
    with an empty HostIp again, as the user did.
    """
    asked = container["HostConfig"].get("PortBindings") or {}
    actual = (container.get("NetworkSettings") or {}).get("Ports") or {}
    result: dict[str, list[dict[str, str]]] = {}
    for port in sorted(set(asked) | set(actual)):
        bound = actual.get(port) or asked.get(port) or []
        wanted = {str(item.get("HostIp") or "") for item in asked.get(port) or []} or {""}
        addresses: dict[str, set[str]] = {}
        for item in bound:
            host_port = str(item.get("HostPort") or "")
            addresses.setdefault(host_port, set()).add(str(item.get("HostIp") or ""))
        entries = []
        for host_port, ips in addresses.items():
            if {"0.0.0.0", "::"} <= ips:
                ips = (ips - {"0.0.0.0", "::"}) | {""}
            elif ips == {"0.0.0.0"} and "0.0.0.0" not in wanted:
                ips = {""}
            entries += [{"HostIp": ip, "HostPort": host_port} for ip in sorted(ips)]
        if entries:
            result[port] = entries
    return result


def is_anonymous(mount: Mapping[str, Any]) -> bool:
    """Whether Docker made up the name of this volume: 64 hex digits (moby, stringid)."""
    name = str(mount.get("Name") or "")
    return len(name) == 64 and all(letter in "0123456789abcdef" for letter in name)


def _mounts(container: Mapping[str, Any], empty_volumes: Collection[str]) -> list[dict[str, Any]]:
    asked = {str(item.get("Target")): item for item in container["HostConfig"].get("Mounts") or []}
    result = [dict(item) for item in asked.values() if item.get("Type") == "tmpfs"]
    for mount in container.get("Mounts") or []:
        if mount.get("Type") != "volume" or mount.get("Name") not in empty_volumes:
            continue
        target = str(mount["Destination"])
        # Docker fills a new volume from the image; this one is known to be empty at the source,
        # and stays so: NoCopy.
        options = dict((asked.get(target) or {}).get("VolumeOptions") or {}) | {"NoCopy": True}
        entry: dict[str, Any] = {"Type": "volume", "Target": target, "VolumeOptions": options}
        if not is_anonymous(mount):
            entry["Source"] = str(mount["Name"])
            entry["ReadOnly"] = not mount.get("RW", True)
        result.append(entry)
    return result


def _image_spec(reference: str, image: Mapping[str, Any]) -> ImageSpec:
    return ImageSpec(
        reference=reference,
        id=str(image["Id"]),
        layers=tuple((image.get("RootFS") or {}).get("Layers") or ()),
        architecture=str(image.get("Architecture") or ""),
        os=str(image.get("Os") or ""),
        variant=str(image.get("Variant") or ""),
        repo_tags=tuple(image.get("RepoTags") or ()),
        repo_digests=tuple(image.get("RepoDigests") or ()),
    )


def _move_interface_sysctls(host: dict[str, Any], endpoint: dict[str, Any]) -> None:
    """Say `net.*.*.eth0.*` as an option of the first endpoint, the only way from API 1.48 on.

    `--sysctl` with an interface name is refused there (moby, handleSysctlBC); the option exists
    since API 1.46. Both arguments are changed.
    """
    moved = []
    kept = {}
    for key, value in (host.get("Sysctls") or {}).items():
        parts = key.split(".", 4)
        if len(parts) == 5 and parts[0] == "net" and parts[3] == "eth0":
            moved.append(f"net.{parts[1]}.{parts[2]}.IFNAME.{parts[4]}={value}")
        else:
            kept[key] = value
    if not moved:
        return
    options = dict(endpoint.get("DriverOpts") or {})
    if options.get(_ENDPOINT_SYSCTLS):
        moved.append(options[_ENDPOINT_SYSCTLS])
    endpoint["DriverOpts"] = options | {_ENDPOINT_SYSCTLS: ",".join(moved)}
    host["Sysctls"] = kept
