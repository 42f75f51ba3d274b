"""What `migrate-runc` adds to an ordinary `docker run`.

`python3 -m tests.bench.runtime [--pair docker28] [--rounds 30]`: needs root and the lab. Runs with
runc and with the runtime `migrate` alternate; medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

from tests.e2e.world import IMAGE, PAIRS
from tests.e2e.world import world as make_world


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pair", choices=sorted(PAIRS), default="docker28")
    parser.add_argument("--rounds", type=int, default=30)
    given = parser.parse_args()
    seconds: dict[str, list[float]] = {"runc": [], "migrate": []}
    with make_world("bench", given.pair) as world:
        world.have_image(world.a)
        # A pending restore of some other container must not make it slower either.
        world.a.sh("mkdir -p /run/migrate/pending/0000")
        for number in range(given.rounds + 1):
            for runtime, found in seconds.items():
                begun = time.monotonic()
                world.a.run(["docker", "run", "--rm", "--runtime", runtime, IMAGE, "true"])
                if number:  # the first fills caches
                    found.append(time.monotonic() - begun)
    runc, ours = (statistics.median(seconds[name]) * 1000 for name in ("runc", "migrate"))
    print(f"docker run, pair {given.pair}, {given.rounds} rounds, medians:")
    print(f"  runc {runc:.0f} ms, migrate {ours:.0f} ms, added {ours - runc:.0f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
