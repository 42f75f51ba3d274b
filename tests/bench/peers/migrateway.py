"""The tool: `migrate move app b --json`, by its command line alone."""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import time
from typing import Any

from migrate.journal import CONFIRMED
from migrate.journal import DIRECTORY as JOURNALS
from tests.bench.peers.base import NAME, Moved, Switch
from tests.bench.peers.dockerway import ADDRESS, DockerWay, create_words
from tests.bench.plan import Workload
from tests.bench.world import BenchError, BenchWorld
from tests.lab.host import LabHost


class MigrateWay(DockerWay):
    """In the network of Docker's way, which is there on both hosts; it can go back, too."""

    def __init__(self, world: BenchWorld, options: tuple[str, ...] = ()) -> None:
        super().__init__(world)
        self.options = options

    def start(self, workload: Workload) -> None:
        self.world.a.run(["sh", "-c", f"docker run -d {create_words(workload, ADDRESS)}"])

    def move(
        self, workload: Workload, source: LabHost, to: LabHost, switch: Switch | None, limit: float
    ) -> Moved:
        # Nothing may be given up for being slow: that is what is measured.
        words = ["timeout", "-k", "20", f"{limit:.0f}", "migrate", "move", NAME, to.name, "--json",
                 "--max-freeze", f"{limit:.0f}", *self.options]  # fmt: skip
        begun = time.monotonic()
        process = subprocess.Popen(
            self.world.metered(source, words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        while switch and process.poll() is None:
            if committed(source):
                switch()
                switch = None
            time.sleep(0.002)
        out, err = process.communicate()
        ended = time.monotonic()
        if process.returncode:
            raise BenchError(f"exit code {process.returncode} of {shlex.join(words[4:])}: "
                             f"{why(out, err)}")  # fmt: skip
        if switch:
            switch()
        summary: dict[str, Any] = json.loads(out)
        steps = {**summary.get("phases", {}), "downtime": summary.get("downtime")}
        return Moved(begun, ended, begun, steps, summary)

    def remove(self) -> None:
        super().remove()
        for host in (self.world.a, self.world.b):
            # What a failed move left must not fail the next one.
            host.sh("rm -rf /var/lib/migrate/journal/* /run/migrate/pending/*", check=False)


def committed(source: LabHost) -> bool:
    """Whether a migration from this host has been confirmed by the other one: see its journal."""
    mark = json.dumps(CONFIRMED).encode()
    for journal in source.path(str(JOURNALS)).glob("*.source.jsonl"):
        with contextlib.suppress(FileNotFoundError):  # it goes when the migration has ended
            if mark in journal.read_bytes():
                return True
    return False


def why(out: str, err: str) -> str:
    """The tool's own words for a failure."""
    try:
        said = json.loads(out)
        return f"{said['error']}: {said['message']}"
    except (ValueError, KeyError, TypeError):
        return (err.strip() or out.strip())[-300:]
