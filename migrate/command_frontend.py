"""`migrate frontend add|switch|list|remove|restore`: the front ends of this host, for a person."""

from __future__ import annotations

import argparse
import json
import socket
from pathlib import Path

from migrate import frontend, frontend_store
from migrate.frontend_record import Backend, Frontend, parse_backend, parse_port, show
from migrate.survey import listeners
from transport.errors import BadTarget

USAGE = {
    "add": ("NAME", "PORT[/udp]", "BACKEND[:PORT]"),
    "switch": ("NAME", "BACKEND[:PORT]"),
    "remove": ("NAME",),
    "list": (),
    "restore": (),
}


def run_command(given: argparse.Namespace) -> int:
    wanted = USAGE[given.action]
    if len(given.words) != len(wanted):
        raise BadTarget(
            f"`migrate frontend {given.action}` needs {len(wanted)} words, not {len(given.words)}",
            " ".join(("migrate frontend", given.action, *wanted)),
        )
    if given.action == "list":
        return show_all(given)
    said, shown = _change(given)
    print(json.dumps(shown) if given.json else said)
    return 0


def _change(given: argparse.Namespace) -> tuple[str, dict[str, object]]:
    """Do it; what was done in a sentence, and for a program."""
    match given.action, *given.words:
        case "add", name, port, backend:
            protocol, number = parse_port(port)
            new = Frontend(name, protocol, number, resolve(backend, number))
            made = frontend.add(new, taken)
            return describe(new), {"added": _shown(new), "new": made}
        case "switch", name, backend:
            old = frontend.named(frontend_store.read(), name)
            target = resolve(backend, old.backend[1])
            moved = frontend.switch(name, target)
            said = f"{name} leads to {show(target)}; {moved} connections came along"
            return said, {"switched": name, "backend": show(target), "connections": moved}
        case "remove", name:
            frontend.remove(name)
            return f"{name} is removed", {"removed": name}
        case _:
            count = frontend.restore()
            return f"{count} front ends are in force", {"restored": count}


def show_all(given: argparse.Namespace) -> int:
    found, laid = frontend_store.read(), frontend.laid()
    if given.json:
        print(json.dumps([{**_shown(one), "laid": laid} for one in found]))
        return 0
    state = "" if laid else " [not in force since a boot: migrate frontend restore]"
    for one in found:
        print(describe(one) + state)
    if not found:
        print("no front ends")
    return 0


def describe(one: Frontend) -> str:
    """A front end in a line."""
    return f"{one.name}  {one.port}/{one.protocol} leads to {show(one.backend)}"


def _shown(one: Frontend) -> dict[str, object]:
    return {
        "name": one.name, "port": one.port, "protocol": one.protocol, "backend": show(one.backend),
        "before": [show(backend) for backend in one.before],
    }  # fmt: skip


def resolve(text: str, default: int) -> Backend:
    """`HOST[:PORT]` as an IPv4 address and a port: a name is looked up once, now."""
    host, port = parse_backend(text, default)
    try:
        found = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_DGRAM)
    except OSError as problem:
        raise BadTarget(f"`{host}` has no IPv4 address: {problem}", "") from problem
    return str(found[0][4][0]), port


def taken(protocol: str, port: int) -> bool:
    """Whether a program of this host has that port, where clients could reach it."""
    return any(
        (one.protocol, one.port) == (protocol, port) and not one.address.startswith("127.")
        for one in listeners(Path("/proc/net"))
    )
