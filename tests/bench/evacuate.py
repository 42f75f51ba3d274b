"""Time to empty a host: `migrate evacuate` against `migrate` for one container after the other.

`python3 -m tests.bench.evacuate [--containers 8] [--mib 16] [--rounds 2] [--json FILE]`: needs root
and the lab. Both empty host a onto b, c and d, in turn, so that both meet the same noise; between
them everything comes back by `migrate return` or `migrate fetch`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from tests.e2e.fleet import Fleet, fleet

HOLD = "import os, time; x = os.urandom({} << 20); print(1, flush=True); time.sleep(1e6)"


def one_by_one(made: Fleet, names: list[str]) -> dict[str, Any]:
    """Move each, to the hosts in turn, and fetch them again (which is not measured)."""
    began = time.monotonic()
    summaries = [
        made.migrate(made.a, name, made.lab["bcd"[number % 3]])
        for number, name in enumerate(names)
    ]  # fmt: skip
    seconds = time.monotonic() - began
    for number, name in enumerate(names):
        made.a.run(["migrate", "fetch", name, "bcd"[number % 3]], timeout=120)
    return {"seconds": seconds, "downtimes": [one["downtime"] for one in summaries]}


def at_once(made: Fleet) -> dict[str, Any]:
    """Evacuate, and return (which is not measured here)."""
    began = time.monotonic()
    code, report = made.evacuate("b", "c", "d")
    seconds = time.monotonic() - began
    assert code == 0, report
    code, back = made.come_back()
    assert code == 0, back
    return {
        "seconds": seconds,
        "back": back["seconds"],
        "downtimes": [line["downtime"] for line in report["containers"]],
    }


def measure(containers: int, mib: int, rounds: int, lab: str) -> dict[str, Any]:
    names = [f"c{number}" for number in range(containers)]
    serial, together = [], []
    with fleet(lab) as made:
        for host in made.hosts:
            made.have_image(host)
        for name in names:
            made.start(made.a, name, ["python3", "-c", HOLD.format(mib)])
        at_once(made)  # images and caches are in place
        for _ in range(rounds):
            serial.append(one_by_one(made, names))
            together.append(at_once(made))
    return {"containers": containers, "mib": mib, "one_by_one": serial, "evacuate": together}


def report(result: dict[str, Any]) -> str:
    lines = [f"{result['containers']} containers of {result['mib']} MiB, medians"]
    for name in ("one_by_one", "evacuate"):
        rounds = result[name]
        seconds = statistics.median(one["seconds"] for one in rounds)
        downtime = statistics.median(value for one in rounds for value in one["downtimes"])
        lines.append(f"  {name:<10}  {seconds:6.1f} s, downtime {downtime * 1000:.0f} ms")
    back = statistics.median(one["back"] for one in result["evacuate"])
    lines.append(f"  {'return':<10}  {back:6.1f} s")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--containers", type=int, default=8)
    parser.add_argument("--mib", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--lab", default="bench")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    result = measure(given.containers, given.mib, given.rounds, given.lab)
    if given.json:
        given.json.write_text(json.dumps(result))
    print(report(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
