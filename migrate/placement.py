"""Where the container fits in at the destination: names, networks, addresses, ports, image. Pure.

The destination's Docker would refuse most of this by itself, but only at `docker create` or, worse,
at `docker start`, when the container is already frozen.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from migrate.container_spec import ContainerSpec, ImageSpec
from migrate.errors import NameTaken, PlacementFailed
from migrate.networks import NetworkSpec, network_spec

_STOPPED = ("created", "exited", "dead")


class ImageView(msgspec.Struct, frozen=True):
    """An image of the destination's store, as `GET /images/ID/json` has it."""

    id: str
    layers: tuple[str, ...]
    repo_tags: tuple[str, ...] = ()
    repo_digests: tuple[str, ...] = ()


class DestinationView(msgspec.Struct, frozen=True):
    """What is there now. `networks`: entries of `GET /networks`; `containers`: of
    `GET /containers/json?all=1`; `cpus`: their number, 0 if unknown (`GET /info`, NCPU);
    `userns_remap`: whether that dockerd remaps user ids; `volumes`: by name, whether it is empty.
    """

    networks: tuple[dict[str, Any], ...] = ()
    containers: tuple[dict[str, Any], ...] = ()
    images: tuple[ImageView, ...] = ()
    cpus: int = 0
    userns_remap: bool = False
    volumes: dict[str, bool] = {}


class ImagePlan(msgspec.Struct, frozen=True):
    """`create_from`: the reference or id to create from, "" if the image is not there.

    Then `send` is true, and `save` is what to give to `docker save`: the tag, or the id alone if
    the tag is in use there for something else. After the load ask `find_image` again.
    """

    create_from: str
    send: bool
    save: str = ""


class Placement(msgspec.Struct, frozen=True):
    """What is to be done there before the create call, in the order of the fields.

    `remove`: ids of stopped containers in the way (`force`). `networks`: those to be made.
    `renewable`: existing networks of the right subnets that nothing uses. If Docker says that an
    address needs a "user configured subnet", such a network had its subnet picked by Docker (the
    inspect does not tell), and can be removed and made anew; one in use cannot. `volumes`: names of
    those that the create call will make.
    """

    remove: tuple[str, ...]
    networks: tuple[NetworkSpec, ...]
    image: ImagePlan
    renewable: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()


def place(spec: ContainerSpec, dest: DestinationView, *, force: bool = False) -> Placement:
    """Decide how `spec` fits into `dest`.

    `force` lets a stopped container of the same name be replaced, never a running one. Raises
    `NameTaken`, or `PlacementFailed` for everything else that is in the way.
    """
    remove = _make_room(spec.name, dest.containers, force)
    others = [item for item in dest.containers if str(item["Id"]) not in remove]
    _check_daemon(spec, dest)
    there = [network_spec(item) for item in dest.networks]
    missing = tuple(network for network in spec.networks if not _present(network, there))
    _check_addresses(spec, others)
    _check_ports(spec, others)
    volumes = _new_volumes(spec, dest.volumes)
    image, warnings = plan_image(spec.image, dest.images)
    return Placement(
        remove=remove,
        networks=missing,
        image=image,
        renewable=tuple(_renewable(spec, missing, dest.networks, others)),
        warnings=tuple(warnings),
        volumes=volumes,
    )


# -- names and settings ---------------------------------------------------------------------------


def _make_room(name: str, containers: Sequence[Mapping[str, Any]], force: bool) -> tuple[str, ...]:
    for container in containers:
        # Names come with a slash; those with two are links seen from other containers.
        if f"/{name}" not in (container.get("Names") or ()):
            continue
        state = str(container.get("State") or "")
        if state not in _STOPPED:
            raise NameTaken(
                f"a container `{name}` is {state or 'running'} at the destination",
                "rename or stop and remove it there; --force never replaces a running container",
            )
        if not force:
            raise NameTaken(
                f"there is a stopped container `{name}` at the destination",
                "remove it there, or give --force to replace it",
            )
        return (str(container["Id"]),)
    return ()


def _check_daemon(spec: ContainerSpec, dest: DestinationView) -> None:
    if dest.userns_remap and not spec.userns_remap:
        raise PlacementFailed(
            "the destination's Docker remaps user ids (userns-remap) and this one does not",
            "set both up alike in /etc/docker/daemon.json",
        )
    # "range of CPUs is from 0.01 to N" at create: moby, verifyPlatformContainerResources.
    wanted = int(spec.host_config.get("NanoCpus") or 0)
    if dest.cpus and wanted > dest.cpus * 10**9:
        raise PlacementFailed(
            f"the container may use {wanted / 10**9:g} CPUs and the destination has {dest.cpus}",
            f"lower the limit: docker update --cpus {dest.cpus} {spec.name}",
        )


def _new_volumes(spec: ContainerSpec, there: Mapping[str, bool]) -> tuple[str, ...]:
    """Names of the container's volumes, which are empty, that are not there yet."""
    mounts = spec.host_config.get("Mounts") or ()
    names = [str(mount["Source"]) for mount in mounts
             if mount.get("Type") == "volume" and mount.get("Source")]  # fmt: skip
    for name in names:
        if not there.get(name, True):
            raise PlacementFailed(
                f"the destination has a volume `{name}` with something in it (or of another kind "
                "than a plain local one), and that of the container is empty",
                f"remove or rename it there: docker volume rm {name}",
            )
    return tuple(name for name in names if name not in there)


# -- networks -------------------------------------------------------------------------------------


def _present(wanted: NetworkSpec, there: Sequence[NetworkSpec]) -> bool:
    """Whether the network is there already; raises if it is there in another form, or cannot be."""
    same_name = next((network for network in there if network.name == wanted.name), None)
    if wanted.predefined:
        if same_name is None:
            raise PlacementFailed(
                f"the destination's Docker has no network `{wanted.name}`",
                "connect the container to a user-defined network",
            )
        return True
    if same_name is not None:
        if same_name.driver != wanted.driver:
            raise PlacementFailed(
                f"the network `{wanted.name}` has the driver `{same_name.driver}` at the "
                f"destination and `{wanted.driver}` here",
                "rename or remove the one there",
            )
        if not set(wanted.ranges()) <= set(same_name.ranges()):
            raise PlacementFailed(
                f"the network `{wanted.name}` is {same_name.describe()} at the destination "
                f"and {wanted.describe()} here",
                "remove the one there if nothing uses it; it is then made like the one here",
            )
        return True
    for network in there:
        for theirs in network.ranges():
            for ours in wanted.ranges():
                if ours.version == theirs.version and ours.overlaps(theirs):
                    raise PlacementFailed(
                        f"the subnet {ours} of the network `{wanted.name}` overlaps with "
                        f"{theirs} of the network `{network.name}` at the destination",
                        f"remove `{network.name}` there, or move the container to another network",
                    )
    return False


def _renewable(
    spec: ContainerSpec,
    missing: Sequence[NetworkSpec],
    inspects: Sequence[Mapping[str, Any]],
    others: Sequence[Mapping[str, Any]],
) -> Iterator[str]:
    absent = {network.name for network in missing}
    used = {
        key
        for container in others
        for name, settings in _endpoints(container)
        for key in (name, str(settings.get("NetworkID") or ""))
    }
    ids = {str(item["Name"]): str(item.get("Id") or "") for item in inspects}
    for network in spec.networks:
        if network.predefined or network.name in absent:
            continue
        if network.name not in used and ids.get(network.name) not in used:
            yield network.name


def _endpoints(container: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    networks = (container.get("NetworkSettings") or {}).get("Networks") or {}
    for name, settings in networks.items():
        yield str(name), settings or {}


def _check_addresses(spec: ContainerSpec, others: Sequence[Mapping[str, Any]]) -> None:
    for endpoint in spec.endpoints:
        wanted = {
            ipaddress.ip_address(address) for address in (endpoint.ipv4, endpoint.ipv6) if address
        }
        for container in others:
            for name, settings in _endpoints(container):
                # A stopped container has no address; what it asked for is not reserved for it.
                for key in ("IPAddress", "GlobalIPv6Address"):
                    taken = str(settings.get(key) or "")
                    if name != endpoint.network or not taken:
                        continue
                    if ipaddress.ip_address(taken) in wanted:
                        raise PlacementFailed(
                            f"the address {taken} in the network `{name}` is in use at the "
                            f"destination by the container `{_name(container)}`",
                            "stop that container, or give it another address",
                        )


def _check_ports(spec: ContainerSpec, others: Sequence[Mapping[str, Any]]) -> None:
    for port, bindings in (spec.host_config.get("PortBindings") or {}).items():
        protocol = port.partition("/")[2] or "tcp"
        for binding in bindings:
            for container in others:
                for used in container.get("Ports") or ():
                    if (
                        str(used.get("PublicPort") or "") == binding["HostPort"]
                        and used.get("Type") == protocol
                        and same_address(binding["HostIp"], str(used.get("IP") or ""))
                    ):
                        raise PlacementFailed(
                            f"the port {binding['HostPort']}/{protocol} of the destination is in "
                            f"use by the container `{_name(container)}`",
                            "stop that container, or publish another port",
                        )


def same_address(one: str, other: str) -> bool:
    """Whether two host addresses of published ports meet; "" stands for all of both families."""
    if not one or not other:
        return True
    first, second = ipaddress.ip_address(one), ipaddress.ip_address(other)
    if first.version != second.version:
        return False
    return first == second or first.is_unspecified or second.is_unspecified


def _name(container: Mapping[str, Any]) -> str:
    names = container.get("Names") or [str(container["Id"])[:12]]
    return str(names[0]).removeprefix("/")


# -- image ----------------------------------------------------------------------------------------


def plan_image(wanted: ImageSpec, images: Sequence[ImageView]) -> tuple[ImagePlan, tuple[str, ...]]:
    """Which image to create from, or what to send; and what the user should know about it.

    A tag of the destination is never moved: if the name means something else there, the container
    is made from the id.
    """
    holder = _holder(wanted.reference, images)
    found = find_image(wanted, images)
    usable = holder is not None and _same_image(wanted, holder)
    warnings: tuple[str, ...] = ()
    if holder is not None and not usable:
        warnings = (
            f"`{wanted.reference}` is another image at the destination: the container is made "
            "from the id of the right one, and the tag there stays as it is",
        )
    if found is not None:
        return ImagePlan(create_from=found, send=False), warnings
    by_tag = holder is None and normal_reference(wanted.reference) in {
        normal_reference(tag) for tag in wanted.repo_tags
    }
    return ImagePlan("", send=True, save=wanted.reference if by_tag else wanted.id), warnings


def find_image(wanted: ImageSpec, images: Sequence[ImageView]) -> str | None:
    """The reference or id that means the wanted image among `images`, None if it is not there.

    The user's own reference if it does, so that `docker ps` shows it; else the id.
    """
    holder = _holder(wanted.reference, images)
    if holder is not None and _same_image(wanted, holder):
        return wanted.reference
    # The same id first: with the same layers there may be several that differ in their settings.
    same = sorted(
        (image for image in images if _same_image(wanted, image)),
        key=lambda image: image.id != wanted.id,
    )
    return same[0].id if same else None


def _same_image(wanted: ImageSpec, image: ImageView) -> bool:
    # An image without layers (FROM scratch, nothing in it) is like every other one: by id only.
    return image.id == wanted.id or (bool(wanted.layers) and image.layers == wanted.layers)


def _holder(reference: str, images: Sequence[ImageView]) -> ImageView | None:
    name = normal_reference(reference)
    for image in images:
        if name in {normal_reference(item) for item in (*image.repo_tags, *image.repo_digests)}:
            return image
    return None


def normal_reference(reference: str) -> str:
    """`redis` and `docker.io/library/redis:latest` as one: github.com/distribution/reference,
    ParseNormalizedNamed and TagNameOnly. An id ("sha256:...") is given back as it is.
    """
    if reference.startswith("sha256:"):
        return reference
    name, at, digest = reference.partition("@")
    head, slash, rest = name.partition("/")
    if not slash or ("." not in head and ":" not in head and head != "localhost"):
        head, rest = "docker.io", name
    if head == "index.docker.io":
        head = "docker.io"
    if head == "docker.io" and "/" not in rest:
        rest = f"library/{rest}"
    if not at and ":" not in rest.rpartition("/")[2]:
        rest += ":latest"
    return f"{head}/{rest}{at}{digest}"
