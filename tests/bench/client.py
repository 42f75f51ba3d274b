"""The client on the third host, as a process that is begun before a move and ended after it."""

from __future__ import annotations

import array
import json
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.bench.figures import Answer, answers
from tests.bench.plan import REDIS_KEYS, Workload
from tests.bench.world import MARKS, PORTS, BenchError, BenchWorld
from tests.e2e.quake_world import EXAMPLES, SCRIPT

PROBE = Path(__file__).with_name("workload") / "probe.py"
INSIDE = "/root/probe.py"
NOTES = "/run/probe.bin"
PID_FILE = "/run/client.pid"


def install(world: BenchWorld) -> None:
    """Copy the clients' programs to the client host."""
    world.client.write(INSIDE, PROBE.read_text())
    for file in (EXAMPLES / "__init__.py", *EXAMPLES.glob("quake/*.py")):
        if file.name.startswith(("q3", "__init__")):
            inside = Path("/opt/q3/examples", file.relative_to(EXAMPLES))
            world.client.write(str(inside), file.read_text())


class Client:
    """Asks the container of one workload at one address until it is told to stop."""

    def __init__(
        self, world: BenchWorld, workload: Workload, address: str, interval: float
    ) -> None:
        self._world = world
        self._workload = workload
        port = PORTS[workload.kind]
        match workload.kind:
            case "quake":
                argv = ["python3", SCRIPT, "play", f"{address}:{port}", "--json", "--timeline"]
                argv += ["--seconds", "100000"]
            case "redis":
                argv = ["python3", INSIDE, "redis", address, str(port), "--load",
                        str(workload.rate), "--keys", str(REDIS_KEYS)]  # fmt: skip
            case _:
                marks = [str(mark) for mark in MARKS.values()]
                argv = ["python3", INSIDE, "udp", address, str(port), *marks]
        if workload.kind != "quake":
            argv += ["--interval", str(interval), "--out", NOTES]
        # A pid file: nsenter forks, so its own pid is not the one that a signal must go to.
        script = f'echo $$ > {PID_FILE}; exec "$@"'
        self._process = world.client.popen(["sh", "-c", script, "sh", *argv])
        assert self._process.stderr is not None
        first = self._process.stderr.readline()
        if first not in ("asking\n", "playing\n"):
            rest = self._end()[1]
            raise BenchError(f"the client heard nothing: {(first + rest).strip()[-200:]}")

    @property
    def follows_route(self) -> bool:
        """Whether the way to the container must be switched for it."""
        return self._workload.kind != "heart"

    def _end(self) -> tuple[str, str]:
        self._world.client.sh(f"kill -TERM $(cat {PID_FILE})", check=False)
        try:
            return self._process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.communicate()

    def stop(self) -> tuple[list[Answer], dict[str, Any]]:
        """All answers, and what else the client noted."""
        out, err = self._end()
        if not out:
            raise BenchError(f"the client ended without a word: {err[-200:]}")
        figures: dict[str, Any] = json.loads(out)
        if self._workload.kind == "quake":
            rows = figures.pop("timeline")
            figures.pop("gaps", None)
            return [Answer(at, sequence, 0.0) for at, sequence, _ in rows], figures
        rows = array.array("d")
        rows.frombytes(self._world.client.path(NOTES).read_bytes())
        return answers(rows), figures


def verify(world: BenchWorld, workload: Workload, address: str) -> dict[str, Any]:
    """Let the heart compare all of its memory. Raises BenchError when a page is wrong."""
    if workload.kind != "heart":
        return {}
    argv = ["python3", INSIDE, "verify", address, str(PORTS["heart"])]
    result = world.client.run(argv, timeout=90, check=False)
    if not result.ok:
        raise BenchError(f"after the move, its memory could not be read: {result.stderr[-200:]}")
    found: dict[str, Any] = json.loads(result.stdout)
    if found["wrong"] or found["pages"] != workload.mib * 256:
        raise BenchError(f"its memory did not arrive whole: {found}")
    return found


def wait_until_ready(world: BenchWorld, workload: Workload, address: str) -> None:
    """The heart answers when its memory is filled, redis and the game when they have started."""
    port = PORTS[workload.kind]
    match workload.kind:
        case "quake":
            argv = ["python3", SCRIPT, "status", f"{address}:{port}"]
        case "redis":
            argv = [
                "python3",
                "-c",
                f"import socket; socket.create_connection(('{address}', {port}), 1)",
            ]
        case _:
            argv = ["python3", INSIDE, "verify", address, str(port), "--timeout", "1"]
    deadline = time.monotonic() + 60
    while not (last := world.client.run(argv, timeout=30, check=False)).ok:
        if time.monotonic() > deadline:
            raise BenchError(f"the container does not answer: {last.stderr.strip()[-200:]}")
        time.sleep(0.1)
