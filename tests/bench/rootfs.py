"""What a final pass costs: `python -m tests.bench.rootfs [FOLDER]`, on the disk of FOLDER."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from migrate.rootfs_scan import settle
from migrate.rootfs_send import Sender


def bench(base: Path, count: int) -> None:
    """Print the time of a first pass and of a final one over `count` files that do not change."""
    for number in range(count):
        folder = base / f"d{number // 100}"
        folder.mkdir(exist_ok=True)
        (folder / f"f{number}").write_bytes(b"x" * 1000)
    time.sleep(0.1)  # as old as the rule asks for
    sender = Sender(base)
    first = sender.send_pass(lambda _: None)
    times = [sender.send_pass(lambda _: None, final=True) for _ in range(5)]
    best = min(times, key=lambda report: report.seconds)
    trusted = "stamps trusted" if settle(base) else "all content compared"
    print(
        f"{first.entries} entries ({trusted}): first pass {first.seconds * 1000:.1f} ms, of which "
        f"{first.settle_seconds * 1000:.1f} settling; final pass {best.seconds * 1000:.2f} ms, "
        f"{best.files} files read"
    )


def main() -> None:
    for count in (4, 10_000):
        with tempfile.TemporaryDirectory(dir=sys.argv[1] if sys.argv[1:] else None) as base:
            bench(Path(base), count)


if __name__ == "__main__":
    main()
