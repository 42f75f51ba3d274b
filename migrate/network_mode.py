"""Which way a moved container's clients go to it, and why. Pure, and explains itself.

`forward`: the host that clients know goes on to receive, and passes on. `home`: the container comes
back to that host, and its detour ends. `follow`: it moves on to a third host, and the one that
clients know passes on to that, without a detour by this host. `same-l2`: the container's address
itself moves. `frontend`: a host of its own that all clients go to leads them on. `none`: nothing is
done.
"""

from __future__ import annotations

import msgspec

from migrate.container_spec import ContainerSpec
from migrate.errors import Unsupported
from migrate.forward_record import (
    ANCHOR,
    TARGET,
    Forward,
    Path,
    Published,
    address_towards,
    paths,
    published,
    way_endpoint,
)
from migrate.network_facts import NetworkFacts
from migrate.networks import NetworkSpec
from migrate.same_l2 import DRIVERS, Address, moving, why_not

AUTO, FORWARD, NONE, HOME, FOLLOW = "auto", "forward", "none", "home", "follow"
SAME_L2 = "same-l2"
FRONTEND = "frontend"  # not decided here: the front end knows (migrate/frontend_link.py)
WANTED = (AUTO, FORWARD, SAME_L2, NONE)


class Ends(msgspec.Struct, frozen=True):
    """Both hosts: their addresses for each other ('' when not known), names and facts."""

    here: NetworkFacts
    there: NetworkFacts
    here_ip: str
    there_ip: str
    here_id: str
    there_id: str
    there_name: str


class Choice(msgspec.Struct, frozen=True):
    """What is to be done. `reason`: one sentence. `warning`: the user may have wanted more.

    `anchor`, `target`: the two records of a new forward; `ends`: id of one that ends by this move.
    `takes`: addresses that move with it, in any mode but `none`.
    """

    mode: str
    reason: str
    warning: bool = False
    anchor: Forward | None = None
    target: Forward | None = None
    ends: str = ""
    takes: tuple[Address, ...] = ()


def choose(
    wanted: str,
    session: str,
    spec: ContainerSpec,
    ends: Ends,
    known: Forward | None,
    anchor: NetworkFacts | None = None,
) -> Choice:
    """Decide. `wanted`: one of WANTED; `known`: the record here of the forward to this container;
    `anchor`: of the host that it comes from, when that is neither of the two.

    Raises Unsupported when `forward` was asked for and cannot be.
    """
    if wanted == NONE:
        return Choice(NONE, "--network-mode none: who connects to it is left to you")
    takes = moving(spec)
    if wanted == SAME_L2 or (wanted == AUTO and not known and _by_ethernet(spec, takes)):
        return _same_l2(wanted, spec, ends, takes)
    choice = _choose(wanted, session, spec, ends, known, anchor)
    return msgspec.structs.replace(choice, takes=takes)


def _by_ethernet(spec: ContainerSpec, takes: tuple[Address, ...]) -> bool:
    """Whether clients find it by its own address on the hosts' Ethernet."""
    endpoint = way_endpoint(spec)
    names = [n.name for n in spec.networks if n.driver in DRIVERS]
    if endpoint and endpoint.network in names:
        return True
    return bool(takes) and not published(spec)


def _same_l2(wanted: str, spec: ContainerSpec, ends: Ends, takes: tuple[Address, ...]) -> Choice:
    if takes:
        where = ", ".join(f"{one.ipv4 or one.ipv6} (network `{one.network}`)" for one in takes)
        return Choice(
            SAME_L2,
            f"same-l2: its address moves with it to {ends.there_name}, which announces it on the "
            f"Ethernet of both hosts: {where}",
            takes=takes,
        )
    reasons = [reason for network in spec.networks if (reason := why_not(network))]
    obstacle = reasons[0] if reasons else "it has no address of its own"
    if wanted == SAME_L2:
        raise Unsupported(
            f"--network-mode same-l2: {obstacle}",
            "the address of a macvlan or ipvlan network with a parent can move; for a bridge that "
            "routers know, announce its route with --hook commit=...",
        )
    return Choice(NONE, f"its address is not announced there: {obstacle}", warning=True)


def _choose(
    wanted: str,
    session: str,
    spec: ContainerSpec,
    ends: Ends,
    known: Forward | None,
    anchor: NetworkFacts | None,
) -> Choice:
    if known and known.role == TARGET and known.peer_id == ends.there_id:
        return Choice(
            HOME,
            f"home to {ends.there_name}, whose address clients know: the detour by this host ends",
            ends=known.id,
        )
    if known and known.role == TARGET and anchor:
        return _follow(session, ends, known, anchor)
    ports = published(spec)
    if not ports and wanted == AUTO:
        return Choice(NONE, "it has no published ports, so no clients of this host's address")
    obstacle = _obstacle(spec, ends)
    endpoint = way_endpoint(spec)
    ways = paths(session, ends.here, ends.there, ends.here_ip, ends.there_ip)
    if not obstacle and not ways:
        obstacle = (
            f"the hosts do not see each other's addresses ({ends.here_ip or '?'}, "
            f"{ends.there_ip or '?'}): a jump host or address translation is between them"
        )
    if obstacle or not ways or not endpoint:
        if wanted == FORWARD:
            raise Unsupported(f"--network-mode forward: {obstacle}", "")
        return Choice(NONE, f"clients of this host's ports lose it: {obstacle}", warning=True)
    network = next(network for network in spec.networks if network.name == endpoint.network)
    mine = Forward(
        id=session, role=ANCHOR, name=spec.name, address=endpoint.ipv4,
        network=network.name, subnet=_subnet(network), ports=ports, path=ways[0],
        peer=ends.there_name, peer_id=ends.there_id,
    )  # fmt: skip
    theirs = msgspec.structs.replace(
        mine, role=TARGET, path=ways[1], peer=ends.here_ip, peer_id=ends.here_id
    )
    strict = _strict(ports, ends)
    reason = _explain(ports, ways[0], ends) + strict
    return Choice(FORWARD, reason, warning=bool(strict), anchor=mine, target=theirs)


def _strict(ports: tuple[Published, ...], ends: Ends) -> str:
    """What is to be warned of where conntrack takes up no TCP connection in the middle."""
    strict = [w for w, facts in (("here", ends.here), ("there", ends.there)) if not facts.loose]
    if not strict or not any(port.protocol == "tcp" for port in ports):
        return ""
    return (
        f"; but net.netfilter.nf_conntrack_tcp_loose is 0 {strict[0]}: open TCP connections break"
    )


def _follow(session: str, ends: Ends, known: Forward, facts: NetworkFacts) -> Choice:
    anchor_ip = address_towards(facts, ends.there_ip, known.path.there)
    ways = paths(session, facts, ends.there, anchor_ip, ends.there_ip)
    if ends.there.nftables_docker:
        raise Unsupported("Docker there keeps its rules in nftables, which has no place for ours")
    if ways is None:
        raise Unsupported(
            f"clients come by {known.peer}, which cannot reach {ends.there_name}: {ends.there_ip} "
            "is no address of it",
            "move it home first, or give --network-mode none, which ends the forward",
        )
    mine = msgspec.structs.replace(
        known, id=session, role=ANCHOR, path=ways[0], peer=ends.there_ip,
        peer_id=ends.there_id, bridge="", container="", successor="", slot=0,
    )  # fmt: skip
    theirs = msgspec.structs.replace(
        mine, role=TARGET, path=ways[1], peer=anchor_ip, peer_id=known.peer_id
    )
    return Choice(
        FOLLOW,
        f"forward: {known.peer} goes on to receive for it, and passes on to {ends.there_name} "
        "instead of this host",
        anchor=mine, target=theirs, ends=known.id,
    )  # fmt: skip


def _obstacle(spec: ContainerSpec, ends: Ends) -> str:
    """Why a forward cannot be, '' when it can."""
    endpoint = way_endpoint(spec)
    if endpoint is None:
        return "it is in no network that leads outside"
    if not endpoint.ipv4:
        return (
            f"it is in Docker's network `{endpoint.network}`, where it cannot keep its address "
            "(docker network create makes one in which it can)"
        )
    network = next(network for network in spec.networks if network.name == endpoint.network)
    if network.driver in DRIVERS:
        return f"its way outside is the {network.driver} network `{network.name}`, without ports"
    for where, facts in (("here", ends.here), ("there", ends.there)):
        if facts.nftables_docker:
            return f"Docker {where} keeps its rules in nftables, which has no place for ours"
    return ""


def _subnet(network: NetworkSpec) -> str:
    return next(entry.subnet for entry in network.subnets if ":" not in entry.subnet)


def _explain(ports: tuple[object, ...], path: Path, ends: Ends) -> str:
    how = "directly" if path.kind == "direct" else "through a tunnel (vxlan, not encrypted)"
    what = "its published port" if len(ports) == 1 else f"its {len(ports)} published ports"
    if not ports:
        what = "its connections"
    return (
        f"forward: this host goes on to receive for {what} and passes it on to "
        f"{ends.there_name} {how}; clients keep their connections while this host is up"
    )
