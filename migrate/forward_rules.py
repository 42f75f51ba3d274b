"""From a forward's record to the rules that make it so, as texts. Pure.

The client's address is kept on all of the way: the anchor translates only where packets go to (as
Docker did before), and the target answers through the anchor. Which packets belong to a forward is
said by one bit of the packet mark and of the conntrack mark, and routing goes by that mark: a new
container that gets the old one's address at the anchor is not in the way, and no route of the main
table is touched.

Docker drops what it does not know in FORWARD, and since 28 in raw/PREROUTING: an `accept` in a
table of ours cannot override that, so these three rules, and only these, go where Docker looks
(DOCKER-USER, raw). They name the mark, so that nothing else passes by them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address

from migrate.conntrack import Flow
from migrate.forward_record import (
    ANCHOR,
    MARK,
    PRIORITIES,
    TABLES,
    TUNNEL_PORT,
    Forward,
    Published,
)

SET_MARK = f"meta mark set meta mark or {MARK:#x}"
SET_CT = f"ct mark set ct mark or {MARK:#x}"
MARKED = f"meta mark and {MARK:#x} == {MARK:#x}"
CT_MARKED = f"ct mark and {MARK:#x} == {MARK:#x}"
# A connection that conntrack knows of has this long to go on after Docker has flushed its entry.
KEEP = {"tcp": "5d", "udp": "10m"}

_KEY = "inet_proto . ipv4_addr . inet_service . ipv4_addr . inet_service"
_OUT_KEY = "inet_proto . inet_service . ipv4_addr . inet_service"


def ruleset(forward: Forward, flows: Sequence[Flow] = (), *, adopting: bool = False) -> str:
    """The table of one host, for `nft -f`: in place of one that is there, in one transaction.

    `flows`: connections that must find their way although conntrack has lost them. `adopting`:
    every packet to the container's address belongs to the forward, since the address is still the
    moving container's alone; this is how connections that Docker's rules made come to be marked.
    """
    if forward.role == ANCHOR:
        body = [*_anchor_sets(forward, flows), *_anchor_chains(forward, adopting)]
    else:
        body = list(_target_chains(forward))
    body += _tunnel_chain(forward)
    name = forward.nft_table
    inside = "\n".join(body)
    return f"table ip {name} {{}}\ndelete table ip {name}\ntable ip {name} {{\n{inside}\n}}\n"


def removal(forward: Forward) -> str:
    """Take the table away, whether or not it is there."""
    return f"table ip {forward.nft_table} {{}}\ndelete table ip {forward.nft_table}\n"


def more_flows(forward: Forward, flows: Sequence[Flow]) -> str:
    """Tell the anchor's table of connections; '' when there are none."""
    name = f"ip {forward.nft_table}"
    lines = [
        f"add element {name} {kind} {{ {', '.join(elements)} }}\n"
        for kind, elements in _elements(forward, flows).items()
        if elements
    ]
    return "".join(lines)


def start_adopting(forward: Forward) -> str:
    """The container is about to have its address at the anchor again."""
    name = f"ip {forward.nft_table}"
    return end_adopting(forward) + "".join(
        f"add rule {name} {chain} {rule}\n" for chain, rule in _adoption(forward).items()
    )


def end_adopting(forward: Forward) -> str:
    name = f"ip {forward.nft_table}"
    return "".join(f"flush chain {name} {chain}\n" for chain in _adoption(forward))


def _adoption(forward: Forward) -> dict[str, str]:
    """By chain, what is only right while the container's address at the anchor is its own."""
    address, bridge = forward.address, forward.bridge
    return {
        "adopt": f'ip daddr {address} iifname != "{bridge}" {SET_CT}',
        # When Docker plugs it in, it flushes its connections: and the container may speak first.
        "own": f'ip saddr {address} oifname != "{bridge}" jump outside_address',
    }


def _chain(name: str, hook: str, rules: Sequence[str], kind: str = "filter") -> str:
    head = f"type {kind} hook {hook}; policy accept;" if hook else ""
    return "\n".join([f"chain {name} {{ {head}", *rules, "}"])


def _elements(forward: Forward, flows: Sequence[Flow]) -> dict[str, list[str]]:
    known, inward, outward = [], [], []
    for one in dict.fromkeys(flows):
        keep = f"timeout {KEEP[one.protocol]}"
        arriving = (
            f"{one.protocol} . {one.remote[0]} . {one.remote[1]}"
            f" . {one.outside[0]} . {one.outside[1]}"
        )
        leaving = f"{one.protocol} . {one.port} . {one.remote[0]} . {one.remote[1]}"
        known.append(f"{arriving} {keep}")
        inward.append(f"{arriving} {keep} : {forward.address} . {one.port}")
        outward.append(f"{leaving} {keep} : {one.outside[0]} . {one.outside[1]}")
    return {"known": known, "inward": inward, "outward": outward}


def _anchor_sets(forward: Forward, flows: Sequence[Flow]) -> Iterator[str]:
    elements = _elements(forward, flows)
    for kind, name, type_ in (
        ("set", "known", _KEY),
        ("map", "inward", f"{_KEY} : ipv4_addr . inet_service"),
        ("map", "outward", f"{_OUT_KEY} : ipv4_addr . inet_service"),
    ):
        given = f"elements = {{ {', '.join(elements[name])} }}" if elements[name] else ""
        yield f"{kind} {name} {{ type {type_}; flags timeout; {given}\n}}"


def _from_peer(forward: Forward) -> str:
    """Only from the other host itself: others in the same subnet must not get in by this."""
    path = forward.path
    by_hardware = f"ether saddr {path.peer_mac} " if path.kind == "direct" else ""
    return f'iifname "{path.device}" {by_hardware}'


def _reach(port: Published, verdict: str) -> str:
    where = f"ip daddr {port.host_ip}" if port.host_ip else "fib daddr type local"
    return f"{where} {port.protocol} dport {port.host_port} {verdict}"


def _anchor_chains(forward: Forward, adopting: bool) -> Iterator[str]:
    address, device, peer = forward.address, forward.path.device, forward.path.there
    arriving = "meta l4proto . ip saddr . th sport . ip daddr . th dport"
    to_container = [
        _reach(port, f"{SET_CT} dnat to {address}:{port.port}") for port in forward.ports
    ]
    yield _chain(
        "from_peer", "prerouting priority mangle",
        [f"{_from_peer(forward)}ip saddr {address} {SET_CT} {SET_MARK}"],
    )  # fmt: skip
    # Before Docker's own (dstnat): these must be what counts when it takes its rules away.
    yield _chain(
        "arrive", "prerouting priority dstnat - 10",
        [f"{arriving} @known {SET_CT}", f"dnat ip to {arriving} map @inward", *to_container],
        "nat",
    )  # fmt: skip
    # Programs of this host itself, but not by 127.0.0.1, which cannot leave it.
    yield _chain(
        "from_here", "output priority -110",
        [f"ip daddr != 127.0.0.0/8 {rule}" for rule in to_container], "nat",
    )  # fmt: skip
    # After the destination was translated, before the packet is routed.
    adoption = _adoption(forward) if adopting else {}
    yield _chain("adopt", "", [adoption["adopt"]] if adopting else [])
    to_peer = f"ip daddr {address} {CT_MARKED} {SET_MARK}"
    yield _chain("way", "prerouting priority dstnat + 10", ["jump adopt", to_peer])
    yield _chain("way_from_here", "output priority -90", [to_peer], "route")
    yield _chain("outside_address", "", list(_outside_address(forward)))
    yield _chain("own", "", [adoption["own"]] if adopting else [])
    yield _chain(
        "leave", "postrouting priority srcnat - 10",
        [
            f"{MARKED} ip saddr {address} jump outside_address",
            "jump own",
            # Neighbours have no way back of their own.
            f"{MARKED} ip daddr {address} ip saddr {forward.subnet} masquerade",
        ],
        "nat",
    )  # fmt: skip
    yield _chain(
        "bounds",
        "forward priority filter - 10",
        # To this host's containers it had no way before either.
        [f'{MARKED} ip saddr {address} ct state new oifname {{ "docker0", "br-*" }} drop'],
    )
    if forward.path.kind == "direct":
        # In and out by one device: the kernel would tell the ends to go without us.
        yield _chain(
            "quiet", "output priority filter",
            [
                f"icmp type redirect icmp gateway {int(IPv4Address(peer))} drop",
                f'oifname "{device}" ip daddr {address} icmp type redirect drop',
            ],
        )  # fmt: skip


def _outside_address(forward: Forward) -> Iterator[str]:
    """What the container's packets get for a source when conntrack does not know it any more, or
    never did: what their receiver knows it by."""
    yield f"ip daddr {forward.address} masquerade"
    yield "snat ip to meta l4proto . th sport . ip daddr . th dport map @outward"
    for port in forward.ports:
        source = f"{port.protocol} sport {port.port}"
        if port.host_ip:
            yield f"{source} snat to {port.host_ip}:{port.host_port}"
        else:
            yield f"meta l4proto {port.protocol} {source} masquerade to :{port.host_port}"
    yield "masquerade"


def _target_chains(forward: Forward) -> Iterator[str]:
    address, device = forward.address, forward.path.device
    yield _chain(
        "from_peer", "prerouting priority raw - 10",  # Docker 28 drops in raw
        [f"{_from_peer(forward)}ip daddr {address} {SET_MARK}"],
    )  # fmt: skip
    container = f'iifname "{forward.bridge}" ip saddr {address}'
    yield _chain(
        "answer", "prerouting priority mangle",
        [
            f'{MARKED} iifname "{device}" ip daddr {address} {SET_CT}',
            # What the container begins goes by the anchor, as do its answers to what came from
            # there, and whatever conntrack cannot make out. Who came by a port that is
            # published here is answered directly.
            f"{container} ct direction original {SET_MARK}",
            f"{container} ct direction reply {CT_MARKED} {SET_MARK}",
            f"{container} ct state invalid,untracked {SET_MARK}",
        ],
    )  # fmt: skip
    yield _chain(
        "leave", "postrouting priority srcnat - 10",
        # Translated into itself: else Docker would masquerade it.
        [f'{MARKED} oifname "{device}" ip saddr {address} snat to {address}'], "nat",
    )  # fmt: skip


def _tunnel_chain(forward: Forward) -> list[str]:
    path = forward.path
    if path.kind != "vxlan":
        return []
    # Bits 96 to 120 after the start of the UDP header are the VNI.
    foreign = f"udp dport {TUNNEL_PORT} @th,96,24 {path.vni} ip saddr != {path.there} drop"
    return [_chain("wrapped", "input priority filter - 10", [foreign])]


# -- iptables -------------------------------------------------------------------------------------


def filters(forward: Forward) -> list[tuple[str, str, list[str]]]:
    """Rules for the chains that Docker looks at: table, chain, the rule. To be inserted at the top.

    All carry the tag of the forward as a comment.
    """
    mark = ["-m", "mark", "--mark", f"{MARK:#x}/{MARK:#x}"]
    end = ["-m", "comment", "--comment", forward.tag, "-j", "ACCEPT"]
    to, of = ["-d", f"{forward.address}/32"], ["-s", f"{forward.address}/32"]
    found = [
        ("filter", "DOCKER-USER", [*to, *mark, *end]),
        ("filter", "DOCKER-USER", [*of, *mark, *end]),
    ]
    if forward.role != ANCHOR:
        found.append(("raw", "PREROUTING", [*to, *mark, *end]))
    return found


# -- ip -------------------------------------------------------------------------------------------


def way(forward: Forward) -> list[str]:
    """Commands for `ip -batch`: the tunnel, if any, and the route in the forward's own table."""
    path, table = forward.path, TABLES + forward.slot
    commands = []
    if path.kind == "vxlan":
        commands = [
            f"address replace {path.own}/32 dev {path.device} scope link",
            f"link set {path.device} address {path.mac} mtu {path.mtu} up",
            f"neigh replace {path.gateway} lladdr {path.peer_mac} dev {path.device} nud permanent",
        ]
    destination = f"{forward.address}/32" if forward.role == ANCHOR else "default"
    by = f"via {path.gateway} dev {path.device} onlink"
    return [*commands, f"route replace {destination} {by} table {table}"]


def tunnel_link(forward: Forward) -> list[str]:
    """The words for `ip` that make the tunnel's device. Without `dev`: its packets may then be
    larger than the wire takes, and go in fragments, instead of the clients having to learn it."""
    path = forward.path
    return [
        *("link", "add", path.device, "type", "vxlan", "id", str(path.vni), "local", path.here),
        *("remote", path.there, "dstport", str(TUNNEL_PORT), "nolearning"),
    ]


def rule(forward: Forward) -> str:
    """The words after `rule add` or `rule del` that send marked packets the forward's way."""
    which = "to" if forward.role == ANCHOR else "from"
    return (
        f"priority {PRIORITIES + forward.slot} {which} {forward.address}/32 "
        f"fwmark {MARK:#x}/{MARK:#x} lookup {TABLES + forward.slot}"
    )


def way_removal(forward: Forward) -> list[str]:
    """Commands for `ip -force -batch`; those for what is not there fail, which is fine."""
    commands = [f"rule del {rule(forward)}", f"route flush table {TABLES + forward.slot}"]
    if forward.path.kind == "vxlan":
        commands.append(f"link del {forward.path.device}")
    return commands


def forget_neighbour(forward: Forward) -> str:
    """The bridge may still know the hardware address that the container had here last time."""
    return f"neigh del {forward.address} dev {forward.bridge}"
