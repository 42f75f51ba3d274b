"""`python3 -m tests.lab`: the lab from the command line.

up NAME HOST=FLAVOUR[+containerd][+plain][+bare]...   make a lab (plain: no Docker, bare: no tool)
down NAME | status [NAME] | exec NAME HOST COMMAND...
link NAME HOST (rate MBIT | loss PERCENT | delay MS | cut | heal)
"""

from __future__ import annotations

import argparse
import os
import sys

from tests.lab.host import HostSpec
from tests.lab.lab import STATE, Lab


def parse_spec(text: str) -> HostSpec:
    name, _, rest = text.partition("=")
    flavour, *traits = (rest or "trixie").split("+")
    unknown = set(traits) - {"containerd", "plain", "bare"}
    if unknown:
        raise ValueError(f"unknown trait of host {name}: {', '.join(sorted(unknown))}")
    return HostSpec(
        name,
        flavour,
        docker="plain" not in traits,
        containerd_store="containerd" in traits,
        tool="bare" not in traits,
    )


def link(lab: Lab, host: str, defect: str, amount: float | None) -> None:
    netns = lab[host].netns
    match defect:
        case "rate":
            lab.switch.rate(host, netns, amount)
        case "loss":
            lab.switch.loss(netns, amount)
        case "delay":
            lab.switch.delay(host, netns, amount)
        case "cut":
            lab.switch.cut(host)
        case "heal":
            lab.switch.heal(host, netns)


def status(name: str | None) -> None:
    for state in sorted(STATE.glob("*/lab.json")):
        lab = Lab.open(state.parent.name)
        if name in (None, lab.name):
            for host in lab.hosts.values():
                alive = "up" if host.pid else "down"
                print(f"{lab.name}\t{host.name}\t{host.address}\t{host.spec.flavour}\t{alive}")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tests.lab", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser("up")
    up.add_argument("name")
    up.add_argument("hosts", nargs="+", type=parse_spec)
    verbs.add_parser("down").add_argument("name")
    verbs.add_parser("status").add_argument("name", nargs="?")
    execute = verbs.add_parser("exec")
    execute.add_argument("name")
    execute.add_argument("host")
    execute.add_argument("command", nargs=argparse.REMAINDER)
    wire = verbs.add_parser("link")
    wire.add_argument("name")
    wire.add_argument("host")
    wire.add_argument("defect", choices=["rate", "loss", "delay", "cut", "heal"])
    wire.add_argument("amount", nargs="?", type=float)
    given = parser.parse_args()
    match given.verb:
        case "up":
            Lab.up(given.name, given.hosts)
            status(given.name)
        case "down":
            Lab.open(given.name).down()
        case "status":
            status(given.name)
        case "exec":
            argv = Lab.open(given.name)[given.host].enter(given.command)
            os.execvp(argv[0], argv)
        case "link":
            link(Lab.open(given.name), given.host, given.defect, given.amount)
    return 0


if __name__ == "__main__":
    sys.exit(main())
