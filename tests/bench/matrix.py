"""The benchmark: this tool, Docker's, podman's and runc's way, and what bare CRIU takes.

    .venv/bin/python -m tests.bench.matrix --quick          16 and 256 MiB, unshaped, 5 samples
    .venv/bin/python -m tests.bench.matrix --list           what the standard run measures, how long
    .venv/bin/python -m tests.bench.matrix                  that; hours
    .venv/bin/python -m tests.bench.matrix --all --workload '4096-*' --link 1gbit --peer docker

Needs root and builds what it needs the first time (3 minutes): hosts with podman and redis, the
images. Makes a lab of three hosts on this machine, and for each sample: starts the workload on host
a, lets a client on the third host ask it every millisecond, moves it to b, looks at what the client
heard, lets the workload compare all of its memory, removes it. Peers alternate. Writes DIR/table.md
and DIR/results.json (all samples) after each sample, so that it can be interrupted. What fails is
in both with its reason, and ends nothing else; a row that has failed twice is left.

Exit code 0 when there is a good sample of every row, else 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
from collections import Counter
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

from tests.bench import plan, table
from tests.bench.client import install
from tests.bench.figures import Sample
from tests.bench.measure import CAT_MIB, Bench, missing
from tests.bench.plan import Cell
from tests.bench.world import bench_world, commit_of_checkout

GIVEN_UP = 2  # failures of a row


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    names = "\n".join(
        f"{title}: {' '.join(one.name for one in things)}"
        for title, things in (
            ("workloads (MiB-MB/s changed-content)", plan.WORKLOADS),
            ("links", plan.LINKS),
            ("peers", plan.PEERS),
        )
    )
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.matrix", description=__doc__, epilog=names,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="two workloads, unshaped")
    size.add_argument("--all", action="store_true", help="every workload with every link")
    for what in ("workload", "link", "peer"):
        parser.add_argument(
            f"--{what}", action="append", metavar="PATTERN", help="only these; may be repeated"
        )
    parser.add_argument("--samples", type=int, default=5, help="of each row (5)")
    parser.add_argument("--interval", type=float, default=1.0, metavar="MS",
                        help="between two requests of the client (1)")  # fmt: skip
    parser.add_argument("--hours", type=float, help="begin no sample after this time")
    parser.add_argument("--out", type=Path, metavar="DIR", help="(out/bench-DATE)")
    parser.add_argument("--list", action="store_true", help="say what would be measured")
    return parser.parse_args(argv)


def planned(given: argparse.Namespace) -> list[tuple[Cell, int]]:
    which = (("*", "*"),) if given.all else plan.QUICK if given.quick else plan.STANDARD
    every = ["*"]
    chosen = plan.cells(which, given.workload or every, given.link or every, given.peer or every)
    return plan.order(chosen, given.samples)


def duration(seconds: float) -> str:
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02} min"


def machine() -> dict[str, Any]:
    cpu = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
           if line.startswith("model name")]  # fmt: skip
    memory = Path("/proc/meminfo").read_text().split()[1]
    huge = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return {
        "date": datetime.now().isoformat(timespec="minutes"),
        "machine": f"{os.cpu_count()} x {cpu[0] if cpu else platform.machine()}, "
        f"{int(memory) // 1024} MiB, all hosts on it",
        "kernel": platform.release(),
        "transparent huge pages": huge.read_text().strip() if huge.exists() else "none",
        "commit": commit_of_checkout(),
    }


def progress_line(sample: Sample) -> str:
    name = f"{sample.link} {sample.workload} {sample.peer} #{sample.number}"
    if sample.error:
        return f"{name}: FAILED: {sample.error}"
    shown = f"{name}: gap {(sample.gap or 0) * 1000:.0f} ms"
    if sample.total is not None:
        shown += f", total {sample.total:.2f} s, {(sample.wire or 0) / 1e6:.1f} MB"
    return shown


class Results:
    """The samples so far, and the files that hold them."""

    def __init__(self, out: Path, facts: dict[str, Any]) -> None:
        self.out, self.facts = out, facts
        self.samples: list[Sample] = []
        out.mkdir(parents=True, exist_ok=True)

    def add(self, sample: Sample) -> None:
        self.samples.append(sample)
        self.write()

    def write(self) -> None:
        whole = {**self.facts, "samples": [asdict(sample) for sample in self.samples]}
        for name, text in (
            ("results.json", json.dumps(whole, indent=1)),
            ("table.md", table.document(self.facts, self.samples)),
        ):
            partial = self.out / f".{name}"
            partial.write_text(text)
            partial.rename(self.out / name)


def run(todo: list[tuple[Cell, int]], given: argparse.Namespace, out: Path) -> Results:
    begun = time.monotonic()
    facts = {**machine(), "interval_ms": given.interval, "ssh_cat": {}, "skipped": []}
    results = Results(out, facts)
    failed: Counter[tuple[str, str, str]] = Counter()
    with bench_world() as world:
        install(world)
        facts["versions"] = world.versions()
        bench = Bench(world, given.interval)
        absent = missing(list(plan.PEERS), world.options_of_tool())
        asked_for = {cell.peer.name for cell, _ in todo}
        facts["skipped"] = [f"{n}: {why}" for n, why in absent.items() if n in asked_for]
        todo = [(cell, number) for cell, number in todo if cell.peer.name not in absent]
        link = None
        for at, (cell, number) in enumerate(todo, 1):
            if given.hours and time.monotonic() - begun > given.hours * 3600:
                facts["skipped"].append(f"{len(todo) - at + 1} samples: the time was up")
                break
            if cell.link != link:
                link = cell.link
                world.shape(link)
                rates = sorted(world.ssh_cat(min(CAT_MIB, link.mbit or 1000)) for _ in range(3))
                bench.throughput[link.name] = facts["ssh_cat"][link.name] = rates[1]
                say(f"link {link.name}: ssh cat reaches {rates[1] / 1e6:.1f} MB/s")
            row = (cell.link.name, cell.workload.name, cell.peer.name)
            if failed[row] >= GIVEN_UP:
                continue
            sample = bench.sample(cell, number)
            failed[row] += bool(sample.error)
            results.add(sample)
            left = duration(plan.estimate(todo[at:]))
            say(f"[{at}/{len(todo)}, about {left} left] {progress_line(sample)}")
    results.write()
    return results


def end(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main() -> int:
    given = arguments()
    todo = planned(given)
    if not todo:
        say("bench: no workload, link and peer of these names; --help lists them")
        return 2
    if given.list:
        for name in dict.fromkeys(cell.name for cell, _ in todo):
            print(name)
        print(f"{len(todo)} samples, about {duration(plan.estimate(todo))}")
        return 0
    # The lab must be taken down also when this is told to end.
    signal.signal(signal.SIGTERM, end)
    out = given.out or Path("out", f"bench-{datetime.now():%Y%m%d-%H%M}")
    say(f"{len(todo)} samples, about {duration(plan.estimate(todo))}; results in {out}")
    try:
        results = run(todo, given, out)
    except KeyboardInterrupt:
        say(f"bench: interrupted; what was measured is in {out}")
        return 130
    print((out / "table.md").read_text())
    rows = {sample.row for sample in results.samples}
    return 0 if rows == {sample.row for sample in results.samples if not sample.error} else 1


if __name__ == "__main__":
    sys.exit(main())
