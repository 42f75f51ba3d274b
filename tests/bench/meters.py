"""What a move costs, seen from outside: CPU and memory of each host, bytes on the wire."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

from tests.bench.figures import Use
from tests.lab.host import LabHost
from tests.lab.network import in_netns

CGROUPS = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpuacct", "memory")
EVERY = 0.05  # seconds; reading both files takes some 0.1 ms
TABLE = "bench_wire"


def join_script(cgroup: str) -> str:
    """Shell: put process $$ into a cgroup for measuring; what it starts follows."""
    paths = " ".join(f"/sys/fs/cgroup/{name}/{cgroup}/cgroup.procs" for name in CONTROLLERS)
    return f"for f in {paths}; do echo $$ > $f; done"


def adopt(host: LabHost) -> None:
    """Put all that runs on the host, and what it will start, into the cgroup of its containers."""
    folders = " ".join(f"/sys/fs/cgroup/{name}/{host.cgroup}" for name in CONTROLLERS)
    host.sh(
        f"for d in {folders}; do mkdir -p $d; for p in /proc/[0-9]*; do"
        " echo ${p#/proc/} 2>/dev/null > $d/cgroup.procs; done 2>/dev/null; done; true"
    )


def use(cgroup: str) -> Use:
    """What a cgroup uses now; nothing when it is not there."""
    try:
        cpu = int((CGROUPS / "cpuacct" / cgroup / "cpuacct.usage").read_text()) / 1e9
        text = (CGROUPS / "memory" / cgroup / "memory.stat").read_text()
    except OSError:
        return Use(time.monotonic(), 0.0, 0)
    found = dict(re.findall(r"^total_(rss|shmem) (\d+)$", text, re.MULTILINE))
    return Use(time.monotonic(), cpu, sum(int(value) for value in found.values()))


class Sampler:
    """Notes what some cgroups use, from `start` until `stop`."""

    def __init__(self, *cgroups: str) -> None:
        self.series: dict[str, list[Use]] = {name: [] for name in cgroups}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._note()
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()
        self._note()

    def _run(self) -> None:
        while not self._ended.wait(EVERY):
            self._note()

    def _note(self) -> None:
        for name, series in self.series.items():
            series.append(use(name))


class Wire:
    """Counts what goes between two hosts, not what their clients send: two nft counters on one."""

    def __init__(self, here: LabHost, there: LabHost) -> None:
        self._netns = here.netns
        rules = f"""table ip {TABLE} {{
            counter out {{}}
            counter in {{}}
            chain outgoing {{ type filter hook postrouting priority 300;
                ip saddr {here.address} ip daddr {there.address} counter name out; }}
            chain incoming {{ type filter hook prerouting priority -350;
                ip saddr {there.address} ip daddr {here.address} counter name in; }}
        }}"""
        in_netns(self._netns, ["nft", "-f", "-"], stdin=rules)

    def bytes(self) -> int:
        listed = in_netns(self._netns, ["nft", "list", "counters", "table", "ip", TABLE]).stdout
        return sum(int(count) for count in re.findall(r"\bbytes (\d+)", listed))
