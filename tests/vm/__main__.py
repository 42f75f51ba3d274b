"""`python3 -m tests.vm`: two virtual machines, a and b, from the command line.

build                               make what the machines and the tests need, and keep it
up NAME | down NAME | status [NAME]
exec NAME (a | b | client) COMMAND...
link NAME (delay MS | heal)         of everything that is sent between them
"""

from __future__ import annotations

import argparse
import os
import sys

from tests.lab.images import workload_image
from tests.lab.tool import layer_over
from tests.vm.image import image
from tests.vm.pair import STATE, Pair


def status(name: str | None) -> None:
    for state in sorted(STATE.glob("*/pair.json")):
        pair = Pair.open(state.parent.name)
        if name in (None, pair.name):
            for machine in pair.machines.values():
                alive = "up" if machine.pid else "down"
                print(f"{pair.name}\t{machine.name}\t{machine.address}\t{alive}")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tests.vm", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("build")
    verbs.add_parser("up").add_argument("name")
    verbs.add_parser("down").add_argument("name")
    verbs.add_parser("status").add_argument("name", nargs="?")
    execute = verbs.add_parser("exec")
    execute.add_argument("name")
    execute.add_argument("host", choices=["a", "b", "client"])
    execute.add_argument("command", nargs=argparse.REMAINDER)
    wire = verbs.add_parser("link")
    wire.add_argument("name")
    wire.add_argument("defect", choices=["delay", "heal"])
    wire.add_argument("amount", nargs="?", type=float)
    given = parser.parse_args()
    match given.verb:
        case "build":
            tree = image().tree
            layer_over(tree, "vm")
            workload_image(tree)
        case "up":
            Pair.up(given.name)
            status(given.name)
        case "down":
            Pair.open(given.name).down()
        case "status":
            status(given.name)
        case "exec":
            pair = Pair.open(given.name)
            if not pair.machines:
                parser.error(f"there are no machines {given.name}: `up {given.name}` makes them")
            host = {"a": pair.a, "b": pair.b, "client": pair.client}[given.host]
            argv = host.enter(given.command)
            os.execvp(argv[0], argv)
        case "link":
            slow = given.amount if given.defect == "delay" else None
            Pair.open(given.name).link(delay_ms=slow)
    return 0


if __name__ == "__main__":
    sys.exit(main())
