"""The lab's wires: one bridge in its own namespace, a veth pair per host, and their defects."""

from __future__ import annotations

import hashlib
from pathlib import Path

from migrate.run import Result, run


def ip(*words: str, netns: str | None = None, check: bool = True) -> Result:
    scope = ["-n", netns] if netns else []
    return run(["ip", *scope, *words], check=check)


def in_netns(netns: str, argv: list[str], stdin: str = "", check: bool = True) -> Result:
    """Run a program in a namespace. (`ip netns exec` would remount /sys: docs/criu-notes.md.)"""
    return run(["nsenter", f"--net=/run/netns/{netns}", "--", *argv], stdin=stdin, check=check)


class Switch:
    """The bridge `br0` in namespace `PREFIX-LAB-sw`; each host is a port that is called like it."""

    def __init__(self, lab: str, prefix: str) -> None:
        self.lab = lab
        self.netns = f"{prefix}-{lab}-sw"

    def up(self) -> None:
        ip("netns", "add", self.netns)
        ip("link", "add", "br0", "type", "bridge", netns=self.netns)
        ip("link", "set", "br0", "up", netns=self.netns)

    def down(self) -> None:
        if Path("/run/netns", self.netns).exists():
            ip("netns", "delete", self.netns)

    def plug(self, host: str, netns: str, address: str) -> None:
        """Join a host's namespace (made here) to the bridge, with an address on its `eth0`."""
        ip("netns", "add", netns)
        digest = hashlib.sha256(f"{self.netns}/{host}".encode()).hexdigest()[:8]
        near, far = f"mla{digest}", f"mlb{digest}"
        ip("link", "add", near, "netns", self.netns, "type", "veth", "peer", "name", far,
           "netns", netns)  # fmt: skip
        ip("link", "set", near, "name", f"p-{host}", netns=self.netns)
        ip("link", "set", f"p-{host}", "master", "br0", "up", netns=self.netns)
        ip("link", "set", far, "name", "eth0", netns=netns)
        ip("address", "add", address, "dev", "eth0", netns=netns)
        ip("link", "set", "eth0", "up", netns=netns)
        ip("link", "set", "lo", "up", netns=netns)

    def unplug(self, netns: str) -> None:
        if Path("/run/netns", netns).exists():
            ip("netns", "delete", netns)

    # -- defects of one host's link ------------------------------------------------------------

    def rate(self, host: str, netns: str, mbit: float | None) -> None:
        """Limit both directions with TBF; None takes the limit away."""
        for where, device in ((self.netns, f"p-{host}"), (netns, "eth0")):
            in_netns(where, ["tc", "qdisc", "del", "dev", device, "root"], check=False)
            if mbit is not None:
                burst = max(32_000, int(mbit * 1250))  # bytes in 10 ms: what TBF needs at HZ=100
                limit = ["rate", f"{mbit}mbit", "burst", str(burst), "latency", "50ms"]
                in_netns(where, ["tc", "qdisc", "add", "dev", device, "root", "tbf", *limit])

    def loss(self, netns: str, percent: float | None) -> None:
        """Drop packets at random, both directions, in the host's own nft table."""
        in_netns(netns, ["nft", "delete", "table", "inet", "lab_loss"], check=False)
        if percent:
            some = f"numgen random mod 100000 < {int(percent * 1000)} drop"
            drop = some if percent < 100 else "drop"
            rules = "\n".join(
                f"chain {hook} {{ type filter hook {hook} priority {priority}; "
                f'{side} "eth0" {drop}; }}'
                for hook, priority, side in (
                    ("prerouting", -400, "iifname"),
                    ("postrouting", 400, "oifname"),
                )
            )
            in_netns(netns, ["nft", "-f", "-"], stdin=f"table inet lab_loss {{\n{rules}\n}}\n")

    def delay(self, host: str, netns: str, ms: float | None) -> None:
        """Delay each direction by `ms`, where the kernel has netem (this one may not)."""
        for where, device in ((self.netns, f"p-{host}"), (netns, "eth0")):
            in_netns(where, ["tc", "qdisc", "del", "dev", device, "root"], check=False)
            if ms is not None:
                in_netns(where, ["tc", "qdisc", "add", "dev", device, "root", "netem", "delay",
                                 f"{ms}ms"])  # fmt: skip

    def cut(self, host: str) -> None:
        ip("link", "set", f"p-{host}", "down", netns=self.netns)

    def heal(self, host: str, netns: str) -> None:
        """Undo every defect of a host's link."""
        ip("link", "set", f"p-{host}", "up", netns=self.netns)
        self.rate(host, netns, None)
        self.loss(netns, None)
