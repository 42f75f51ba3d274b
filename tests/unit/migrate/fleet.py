"""Made-up containers and hosts for the planner's tests, and strategies that make them up."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import strategies as st

from migrate.container_spec import ContainerSpec, ImageSpec
from migrate.host_facts import HostFacts
from migrate.networks import EndpointSpec, NetworkSpec, SubnetSpec
from migrate.pairing import RESERVE, Candidate, Host
from migrate.placement import DestinationView, ImageView
from migrate.preflight import Usage

MIB = 1 << 20
FACTS = HostFacts(
    kernel="6.12", arch="x86_64", cpu_model="", cpu_flags=(), kernel_options=None, criu_path=None,
    criu_version=None, pycriu=True, pycriu_reason="", docker=None, docker_reason="",
    runc_version=None, nft=True, iptables=True, runtime_path=None, runtime_runs=False,
    free_memory=1000 * MIB + RESERVE, free_disk=1000 * MIB + RESERVE, boot_id="", tool_version="",
    wall_clock=0.0,
)  # fmt: skip
BRIDGE: dict[str, Any] = {
    "Name": "bridge", "Id": "b" * 64, "Driver": "bridge",
    "IPAM": {"Config": [{"Subnet": "172.17.0.0/16"}]},
}  # fmt: skip


def app_network(name: str = "app", subnet: str = "172.30.0.0/24") -> NetworkSpec:
    return NetworkSpec(name=name, driver="bridge", subnets=(SubnetSpec(subnet=subnet),))


def candidate(
    name: str, *, memory: int = 10, images: int | None = None, files: int = 0, image: int = 0,
    port: int = 0, address: str = "", network: NetworkSpec | None = None, project: str = "",
    service: str = "", depends_on: tuple[str, ...] = (), cpu: float = 0.0, of_image: str = "app",
) -> Candidate:  # fmt: skip
    """A container; sizes in MiB."""
    host_config: dict[str, Any] = {}
    if port:
        host_config["PortBindings"] = {"80/tcp": [{"HostIp": "", "HostPort": str(port)}]}
    networks = (network,) if network else ()
    endpoints = (EndpointSpec(network.name, ipv4=address),) if network else ()
    spec = ContainerSpec(
        name=name, source_id=f"id-{name}", hostname=name,
        image=ImageSpec(f"{of_image}:1", f"sha256:{of_image}", (of_image,), "amd64", "linux",
                        repo_tags=(f"{of_image}:1",)),
        config={}, host_config=host_config, network_mode=network.name if network else "bridge",
        networks=networks, endpoints=endpoints,
    )  # fmt: skip
    usage = Usage(
        memory=memory * MIB, images=(memory if images is None else images) * MIB,
        files=files * MIB, image=image * MIB,
    )  # fmt: skip
    return Candidate(
        spec, usage, cpu=cpu, project=project, service=service, depends_on=depends_on
    )  # fmt: skip


def host(
    name: str, *, memory: int = 1000, disk: int = 1000, cpus: int = 4, load: float = 0.0,
    parallel: int = 1, images: tuple[str, ...] = (), **view: Any,
) -> Host:  # fmt: skip
    """A host with so many MiB free, beyond what it keeps for itself."""
    facts = msgspec.structs.replace(
        FACTS, free_memory=memory * MIB + RESERVE, free_disk=disk * MIB + RESERVE
    )
    values: dict[str, Any] = {
        "networks": (BRIDGE,), "cpus": cpus,
        "images": tuple(ImageView(f"sha256:{one}", (one,), (f"{one}:1",)) for one in images),
    } | view  # fmt: skip
    return Host(
        name, facts, DestinationView(**values), load=load, host_id=f"id-{name}", parallel=parallel
    )  # fmt: skip


@st.composite
def candidates(draw: st.DrawFn) -> list[Candidate]:
    """Up to a dozen containers that compete for memory, disk, ports, addresses and networks."""
    found = []
    sizes = {name: draw(st.integers(0, 300)) for name in ("app", "db")}
    for number in range(draw(st.integers(0, 12))):
        image = draw(st.sampled_from(sorted(sizes)))
        in_network = draw(st.booleans())
        project = draw(st.sampled_from(["", "", "shop", "blog"]))
        found.append(
            candidate(
                f"c{number}",
                memory=draw(st.integers(1, 400)),
                images=draw(st.integers(0, 400)),
                files=draw(st.integers(0, 300)),
                image=sizes[image],
                port=draw(st.sampled_from([0, 0, 80, 443])),
                network=app_network() if in_network else None,
                address=draw(st.sampled_from(["", "172.30.0.5", "172.30.0.6"])),
                project=project,
                service=f"s{number}" if project else "",
                depends_on=tuple(
                    draw(st.sets(st.integers(0, 11).map("s{}".format), max_size=3))
                    if project else ()
                ),
                cpu=draw(st.floats(0, 3)),
                of_image=image,
            )
        )  # fmt: skip
    return found


@st.composite
def hosts(draw: st.DrawFn) -> list[Host]:
    """Up to four hosts of different sizes; some have an image, a network in the way, a port."""
    found = []
    for number in range(draw(st.integers(0, 4))):
        networks: list[dict[str, Any]] = [BRIDGE]
        if draw(st.integers(0, 4)) == 0:
            networks.append(app_network("other").body((1, 47)) | {"Id": "other"})
        found.append(
            host(
                f"h{number}",
                memory=draw(st.integers(0, 1500)),
                disk=draw(st.integers(0, 1500)),
                cpus=draw(st.integers(1, 8)),
                load=draw(st.floats(0, 8)),
                parallel=draw(st.integers(1, 3)),
                images=draw(st.sampled_from([(), ("app",), ("app", "db")])),
                networks=tuple(networks),
            )
        )
    return found
