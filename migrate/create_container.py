"""The call of `docker create` at the destination, and how what it makes is undone."""

from __future__ import annotations

import time

import msgspec

from migrate.container_spec import ContainerSpec, create_request
from migrate.docker_host import DockerHost
from migrate.errors import NameTaken, PlacementFailed
from migrate.journal import Journal
from migrate.messages import Begin
from migrate.placement import Placement
from migrate.undo import RemoveContainer, RemoveUnborn, RemoveVolume

# moby, daemon/container_operations.go: "user specified IP address is supported only when connecting
# to networks with user configured subnets". The inspect of a network does not tell.
OWN_SUBNET = "user configured subnets"


def create(
    docker: DockerHost, journal: Journal, begun: Begin, placement: Placement, image: str
) -> str:
    """Create the container from `image`, with what belongs to it, and give its id.

    Without its restart policy: a failed restore must not be followed by a fresh start. Raises
    PlacementFailed or NameTaken with dockerd's reason.
    """
    if not image:
        raise PlacementFailed("the image is not here and was not sent")
    for volume in placement.volumes:
        journal.push(RemoveVolume(volume))
    try:
        return _create_as(docker, journal, begun.spec, image)
    except PlacementFailed as refused:
        if OWN_SUBNET not in refused.message:
            raise
        spec = _without_wishes(docker, begun, placement, refused)
        return _create_as(docker, journal, spec, image)


def _without_wishes(
    docker: DockerHost, begun: Begin, placement: Placement, refused: PlacementFailed
) -> ContainerSpec:
    """Docker gives a wished-for address only in networks of which a person chose the subnet.

    Those that nothing uses are made anew, with the subnet that they have. In the others the
    container takes what it gets, unless somebody is connected to its address.
    """
    for network in begun.spec.networks:
        if network.name in placement.renewable:
            docker.remove_network(network.name)
            docker.create_network(network)
    used = {n.name for n in begun.spec.networks} - set(placement.renewable)
    if used and begun.connections:
        raise PlacementFailed(
            f"{refused.message}; the network is in use there, and the container has "
            f"{begun.connections} open TCP connections that need its address",
            f"make the network {min(used)} there with --subnet, or give --tcp close",
        )
    endpoints = tuple(
        msgspec.structs.replace(e, ipv4="", ipv6="", address_may_change=True)
        if e.network in used else e
        for e in begun.spec.endpoints
    )  # fmt: skip
    return msgspec.structs.replace(begun.spec, endpoints=endpoints)


def _create_as(docker: DockerHost, journal: Journal, spec: ContainerSpec, image: str) -> str:
    request = create_request(spec, docker.api_version, image)
    body = dict(request.body)
    body["HostConfig"] = {**body["HostConfig"], "RestartPolicy": {"Name": "no"}}
    unborn = journal.push(RemoveUnborn(spec.name, time.time()))
    try:
        container = docker.create_container(body, spec.name)
    except (NameTaken, PlacementFailed):
        # dockerd says no: not made by us, but perhaps by another migration just now
        journal.drop(unborn)
        raise
    journal.push(RemoveContainer(container))
    journal.drop(unborn)
    for network, endpoint in request.connect:
        docker.connect_network(container, network, endpoint)
    return container
