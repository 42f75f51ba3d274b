"""The ways to move a container that are compared."""

from __future__ import annotations

from tests.bench.peers.bare import Bare
from tests.bench.peers.base import Mover
from tests.bench.peers.dockerway import DockerWay
from tests.bench.peers.migrateway import MigrateWay
from tests.bench.peers.podmanway import PodmanWay
from tests.bench.peers.runcway import RuncWay
from tests.bench.plan import Peer
from tests.bench.world import BenchWorld


def mover(world: BenchWorld, peer: Peer) -> Mover:
    match peer.kind:
        case "migrate":
            return MigrateWay(world, peer.options)
        case "docker":
            return DockerWay(world)
        case "podman":
            return PodmanWay(world)
        case "runc":
            return RuncWay(world)
    raise ValueError(f"nothing moves containers as {peer.kind}")


__all__ = ["Bare", "Mover", "mover"]
