"""`python3 -m tests.e2e.build`: build what the end-to-end tests need and keep it in the caches.

The hosts' trees, the tool installed into them, and the containers' images: minutes on a new
machine, during which a test would run into its time limit.
"""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from examples.quake.build_image import build
from tests.lab.images import workload_image
from tests.lab.tool import layer
from tests.lab.tree import FLAVOURS, tree


def main() -> None:
    with ThreadPoolExecutor(len(FLAVOURS)) as pool:
        list(pool.map(tree, FLAVOURS))
        # Nothing is ever moved from or to a host of the real client's.
        list(pool.map(layer, [one for one in FLAVOURS if one != "player"]))
    workload_image()
    with tempfile.TemporaryDirectory() as scratch:
        build(Path(scratch) / "quake.tar")


if __name__ == "__main__":
    main()
