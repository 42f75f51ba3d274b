"""From front ends to the rules that make them so, as texts. Pure.

One table of our own. Where a port leads is one element of a map, so that a switch is one element
replaced, in one transaction. Clients are masqueraded: the backends need no route back by us, and
their answers cannot take another way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from migrate.conntrack import Entry
from migrate.frontend_record import Backend, Frontend

TABLE = "ip migrate_frontend"
MARK = 0x20000000
"""One bit in conntrack entries: this connection came in by a front end."""
KEPT = "60s"

_MARKED = f"ct mark and {MARK:#x} == {MARK:#x}"
_CONNECTION = "meta l4proto . ip saddr . th sport . ip daddr . th dport"
_KEY = "inet_proto . ipv4_addr . inet_service . ipv4_addr . inet_service"


def ruleset(frontends: Sequence[Frontend]) -> str:
    """The table, for `nft -f`: in place of one that is there, in one transaction."""
    ports = [f"{one.protocol} . {one.port}" for one in frontends]
    leads = [f"{_port(one)} : {_end(one.backend)}" for one in frontends]
    sources = dict.fromkeys(
        f"{one.protocol} . {_end(backend)}"
        for one in frontends
        for backend in (one.backend, *one.before)
    )
    service = "inet_proto . inet_service"
    return f"""\
table {TABLE} {{}}
delete table {TABLE}
table {TABLE} {{
map backends {{ type {service} : ipv4_addr . inet_service; {_elements(leads)} }}
map kept {{ type {_KEY} : ipv4_addr . inet_service; flags timeout; }}
set ports {{ type {service}; {_elements(ports)} }}
set sources {{ type inet_proto . ipv4_addr . inet_service; {_elements(sources)} }}
chain arrive {{ type nat hook prerouting priority dstnat - 10; policy accept;
fib daddr type local meta l4proto . th dport @ports ct mark set ct mark or {MARK:#x}
fib daddr type local dnat ip to meta l4proto . th dport map @backends
}}
chain stray {{ type filter hook input priority filter - 10; policy accept;
meta l4proto . ip saddr . th sport @sources ct state new,invalid drop
}}
chain leave {{ type nat hook postrouting priority srcnat - 10; policy accept;
{_MARKED} jump outside
}}
chain outside {{
snat ip to {_CONNECTION} map @kept
masquerade
}}
}}
"""


def lead(changes: Iterable[Frontend], entries: Iterable[Entry]) -> str:
    """The transaction after which these front ends lead to their backends.

    `entries`: their connections, as they are to be. Should a client be faster than conntrack's
    change, its packet still gets the source that its connection has had (`kept`): for a TCP
    connection of the backend any other would be another connection.
    """
    lines = [f"flush map {TABLE} kept"]
    kept = dict.fromkeys(
        f"{e.protocol} . {_end(e.source)} . {_end(e.reply_source)} timeout {KEPT} : "
        f"{_end(e.reply_target)}"
        for e in entries
    )
    if kept:
        lines.append(f"add element {TABLE} kept {{ {', '.join(kept)} }}")
    for one in changes:
        lines += [
            f"delete element {TABLE} backends {{ {_port(one)} }}",
            f"add element {TABLE} backends {{ {_port(one)} : {_end(one.backend)} }}",
            f"add element {TABLE} sources {{ {one.protocol} . {_end(one.backend)} }}",
        ]
    return "\n".join(lines) + "\n"


def removal() -> str:
    """Take the table away, whether or not it is there."""
    return f"table {TABLE} {{}}\ndelete table {TABLE}\n"


def accepted() -> list[str]:
    """The words of an iptables rule for Docker's chain: where Docker is, FORWARD drops."""
    return [
        "-m", "connmark", "--mark", f"{MARK:#x}/{MARK:#x}",
        "-m", "comment", "--comment", "migrate:frontend", "-j", "ACCEPT",
    ]  # fmt: skip


def _port(one: Frontend) -> str:
    return f"{one.protocol} . {one.port}"


def _end(backend: Backend) -> str:
    return f"{backend[0]} . {backend[1]}"


def _elements(words: Iterable[str]) -> str:
    listed = ", ".join(words)
    return f"elements = {{ {listed} }}" if listed else ""
