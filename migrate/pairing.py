"""Whether a container can go to a host, by what is known of both: preflight before there is a pair.

Pure. The same questions as at the begin of a migration (migrate/destination.py), and by the same
functions; but asked of a host as it will be when others have come before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from migrate.container_spec import ContainerSpec
from migrate.errors import CriuUnfit, HostUnfit, PlacementFailed
from migrate.host_facts import HostFacts
from migrate.host_findings import findings
from migrate.messages import HostPort, PortRefused
from migrate.networks import NetworkSpec
from migrate.placement import DestinationView, ImageView, Placement, place
from migrate.preflight import Usage, check

RESERVE = 64 << 20  # bytes of memory, and of disk, that a host keeps for itself
_API = (1, 47)  # any that has all fields of a network


@dataclass(frozen=True)
class Candidate:
    """A running container of this host that is to leave, and can.

    `cpu`: CPUs that it keeps busy; `connections`: open TCP connections; `project`, `service`,
    `depends_on`: of compose, "" and () without.
    """

    spec: ContainerSpec
    usage: Usage
    cpu: float = 0.0
    connections: int = 0
    project: str = ""
    service: str = ""
    depends_on: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def pages(self) -> int:
        """Bytes of memory that it needs once it runs."""
        return self.usage.memory + self.usage.swapped


@dataclass(frozen=True)
class Guest:
    """A container that will have come to a host. `disk`: bytes that it takes there."""

    candidate: Candidate
    disk: int


@dataclass(frozen=True)
class Host:
    """A host that takes in, as it will be when its `guests` have come.

    `name`: how it is reached; `view`: with the guests; `parallel`: how many may come at once, each
    with its checkpoint beside it in memory; `skew`: seconds that its clock is ahead of ours;
    `refused`: host ports that nobody can have there.
    """

    name: str
    facts: HostFacts
    view: DestinationView
    refused: tuple[PortRefused, ...] = ()
    load: float = 0.0
    skew: float = 0.0
    host_id: str = ""
    parallel: int = 1
    guests: tuple[Guest, ...] = field(default=())

    def without_guests(self, view: DestinationView) -> Host:
        return replace(self, view=view, guests=())

    def free_disk(self) -> int | None:
        """Bytes that further guests may have; None where that is unknown."""
        free = self.facts.free_disk
        return None if free is None else free - RESERVE - sum(guest.disk for guest in self.guests)

    def free_memory(self, candidate: Candidate) -> int | None:
        """Bytes for this one and its checkpoint, when the largest of the others come beside it."""
        free = self.facts.free_memory
        if free is None:
            return None
        there = [guest.candidate for guest in self.guests]
        images = [one.usage.images for one in there]
        peak = sum(sorted([*images, candidate.usage.images])[-self.parallel :])
        taken = sum(one.pages for one in there) + peak - candidate.usage.images
        return free - RESERVE - taken

    def free_cpus(self) -> float:
        """CPUs that have nothing to do; below zero when there is more work than CPUs."""
        return self.view.cpus - self.load - sum(guest.candidate.cpu for guest in self.guests)


@dataclass(frozen=True)
class Fit:
    """It can go there: how it is placed, and what may be different."""

    placement: Placement
    warnings: tuple[str, ...]


def same_host(here: HostFacts, here_id: str, there: HostFacts, there_id: str) -> bool:
    """Whether two hosts are one. `*_id`: of migrate/host_setup.py, `host_id`, "" when not known.

    Cloned machines share what lies on their disks, our id and dockerd's, but not the kernel's of
    this boot. Hosts that are namespaces share a kernel, but none of the others.
    """
    known = bool(here_id and there_id)
    if here.boot_id != there.boot_id or (known and here_id != there_id):
        return False
    ours, theirs = here.docker, there.docker
    if ours and theirs:
        return ours.ident == theirs.ident and (known or bool(here.boot_id and ours.ident))
    return known


def refuse_pair(source: HostFacts, destination: HostFacts) -> None:
    """Raise the first reason for which no container can go from one host to the other."""
    for finding in findings(destination):
        if not finding.ok:
            failure = finding.failure()
            raise type(failure)(f"at the destination: {failure.message}", failure.remedy)
    if destination.docker and source.docker:
        theirs, ours = destination.docker.cgroup_version, source.docker.cgroup_version
        if ours != theirs:
            raise HostUnfit(
                f"the destination has cgroup v{theirs}, the source v{ours}: CRIU cannot "
                "restore across them",
                "boot both hosts with the same cgroup hierarchy",
            )


def refuse_probe(reason: str) -> None:
    """Raise CriuUnfit unless CRIU has dumped and restored a process at the destination."""
    if reason:
        raise CriuUnfit(
            f"CRIU cannot restore at the destination: {reason}",
            "install a CRIU that works with that kernel (>= 4.2 for Linux >= 6.16); "
            "`migrate check HOST` tries again",
        )


def fit(source: HostFacts, candidate: Candidate, host: Host) -> Fit:
    """How the container fits in there. Raises the failure that the migration would end with."""
    placement = place(candidate.spec, host.view)
    check_ports(candidate.spec, host.refused)
    there = msgspec.structs.replace(
        host.facts, free_memory=host.free_memory(candidate), free_disk=host.free_disk()
    )
    usage = msgspec.structs.replace(candidate.usage, image=_image_size(candidate, placement))
    warnings = list(placement.warnings)
    for problem in check(source, there, candidate.spec, usage, clock_skew=host.skew):
        if not problem.warning:
            raise problem.as_failure()
        warnings.append(problem.message)
    return Fit(placement, tuple(warnings))


def take_in(candidate: Candidate, host: Host, placement: Placement) -> Host:
    """The host as it will be when the container has come."""
    view = host.view
    images = view.images
    if placement.image.send:
        spec = candidate.spec.image
        images = (*images, ImageView(spec.id, spec.layers, spec.repo_tags, spec.repo_digests))
    view = msgspec.structs.replace(
        view,
        networks=(*view.networks, *(_network(network) for network in placement.networks)),
        containers=(*view.containers, container_entry(candidate.spec)),
        images=images,
    )
    disk = candidate.usage.files + _image_size(candidate, placement)
    return replace(host, view=view, guests=(*host.guests, Guest(candidate, disk)))


def container_entry(spec: ContainerSpec) -> dict[str, Any]:
    """The container as `GET /containers/json` of its new host will have it."""
    return {
        "Id": spec.source_id,
        "Names": [f"/{spec.name}"],
        "State": "running",
        "Ports": [
            {"IP": one.address, "PublicPort": one.port, "Type": one.protocol}
            for one in published(spec)
        ],
        "NetworkSettings": {
            "Networks": {
                endpoint.network: {
                    "IPAddress": endpoint.ipv4,
                    "GlobalIPv6Address": endpoint.ipv6,
                }
                for endpoint in spec.endpoints
            }
        },
    }


def published(spec: ContainerSpec) -> Iterator[HostPort]:
    """The host ports that the container has; those that Docker is to pick are left out."""
    for port, bindings in (spec.host_config.get("PortBindings") or {}).items():
        protocol = port.partition("/")[2] or "tcp"
        for binding in bindings:
            if binding["HostPort"]:
                yield HostPort(protocol, binding["HostIp"], int(binding["HostPort"]))


def _network(network: NetworkSpec) -> dict[str, Any]:
    return network.body(_API) | {"Id": f"planned-{network.name}"}


def _image_size(candidate: Candidate, placement: Placement) -> int:
    return candidate.usage.image if placement.image.send else 0


def check_ports(spec: ContainerSpec, refused: Iterable[PortRefused]) -> None:
    """Raise PlacementFailed when the container cannot have one of its host ports there."""
    ports = set(published(spec))
    for one in refused:
        if one.port in ports:
            raise PlacementFailed(one.why, one.remedy)
