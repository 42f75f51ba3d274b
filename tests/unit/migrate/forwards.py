"""A container with published ports, two hosts and forwards, for the tests of migrate.forward_*."""

from __future__ import annotations

from typing import Any

from migrate.container_spec import ContainerSpec, ImageSpec
from migrate.forward_record import ANCHOR, TARGET, Forward, Path, Published, tunnel
from migrate.network_facts import Interface, NetworkFacts
from migrate.network_mode import Ends
from migrate.networks import EndpointSpec, NetworkSpec, SubnetSpec

IDENT = "0123456789abcdef"
A = NetworkFacts((Interface("eth0", "10.77.0.11/24", "02:00:00:00:00:0a"),), conntrack=True)
B = NetworkFacts((Interface("ens3", "10.77.0.12/24", "02:00:00:00:00:0b"),), conntrack=True)
FAR = NetworkFacts((Interface("eth0", "192.0.2.7/24", "02:00:00:00:00:0c"),), conntrack=True)
APP = NetworkSpec("app", "bridge", (SubnetSpec("10.99.0.0/24", "10.99.0.1"),))
BRIDGE = NetworkSpec("bridge", "bridge", (SubnetSpec("172.17.0.0/16"),))
HERE = EndpointSpec("app", ipv4="10.99.0.10", had_ipv4="10.99.0.10")
DIRECT = Path(
    "direct", "eth0", "10.77.0.11", "10.77.0.12", "10.77.0.12",
    "02:00:00:00:00:0a", "02:00:00:00:00:0b",
)  # fmt: skip
PORTS = (Published("udp", "", 27960, 27960), Published("tcp", "10.77.0.11", 8080, 80))


def spec(
    *,
    ports: dict[str, list[dict[str, str]]] | None = None,
    networks: tuple[NetworkSpec, ...] = (APP,),
    endpoints: tuple[EndpointSpec, ...] = (HERE,),
) -> ContainerSpec:
    bindings = {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]} if ports is None else ports
    return ContainerSpec(
        name="web", source_id="c" * 64, hostname="web",
        image=ImageSpec("web", "sha256:1", (), "amd64", "linux"), config={},
        host_config={"PortBindings": bindings}, network_mode="app", networks=networks,
        endpoints=endpoints,
    )  # fmt: skip


def ends(here: NetworkFacts = A, there: NetworkFacts = B, **more: Any) -> Ends:
    values: dict[str, Any] = {
        "here": here, "there": there, "here_ip": here.interfaces[0].ip,
        "there_ip": there.interfaces[0].ip, "here_id": "ida", "there_id": "idb",
        "there_name": "hostb", **more,
    }  # fmt: skip
    return Ends(**values)


def forward(role: str = ANCHOR, **more: Any) -> Forward:
    values: dict[str, Any] = {
        "id": IDENT, "role": role, "name": "web", "address": "10.99.0.10", "network": "app",
        "subnet": "10.99.0.0/24", "ports": PORTS, "path": DIRECT, "peer": "hostb",
        "peer_id": "idb", "bridge": "br-app", **more,
    }  # fmt: skip
    return Forward(**values)


TUNNELLED = forward(path=tunnel(IDENT, "10.77.0.11", "192.0.2.7")[0])
TARGETED = forward(TARGET, container="d" * 64)
