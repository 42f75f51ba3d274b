"""The lab of the benchmark: hosts a and b with every peer's tools, and a client."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from examples.quake.build_image import PORT as QUAKE_PORT
from examples.quake.build_image import command as quake_command
from migrate.run import Result, run
from tests.bench.images import FLAVOUR, image
from tests.bench.meters import Wire, adopt, join_script
from tests.bench.plan import Link, Workload
from tests.lab.host import HostSpec, LabHost
from tests.lab.images import import_image
from tests.lab.lab import Lab
from tests.lab.network import in_netns

LAB = "benchmx"
POOL = "10.96.0.0/14"
"""All addresses of containers: each kind of peer has a subnet of its own in it, on both hosts."""
KINDS = ("heart", "redis", "quake")
PORTS = {"heart": 7000, "redis": 6379, "quake": QUAKE_PORT}
MARKS = {"a": 1, "b": 2}
SSH = "/run/bench-ssh"
"""The control socket of the connection that the peers' ssh, scp and rsync share."""
# The cipher that the tool uses: every way has the same.
CIPHER = "aes128-gcm@openssh.com"
SSH_OPTIONS = f"-c {CIPHER} -o ControlPath={SSH} -o BatchMode=yes"


class BenchError(Exception):
    """A move, or what belongs to it, did not work; the text says why."""


def container_command(workload: Workload) -> list[str]:
    match workload.kind:
        case "redis":
            words = "--port 6379 --bind 0.0.0.0 --protected-mode no --appendonly no --dir /tmp"
            return ["/usr/bin/redis-server", *words.split(), "--save", ""]
        case "quake":
            return quake_command(rcon_password="bench")
    command = ["/heart", str(workload.mib), str(workload.rate), workload.content]
    return [*command, "forks"] if workload.forks else command


@dataclass
class BenchWorld:
    lab: Lab
    image_ids: dict[str, str] = field(default_factory=dict)

    @property
    def a(self) -> LabHost:
        return self.lab["a"]

    @property
    def b(self) -> LabHost:
        return self.lab["b"]

    @property
    def client(self) -> LabHost:
        return self.lab["client"]

    # -- making it -------------------------------------------------------------------------------

    def prepare(self) -> None:
        self.wire = Wire(self.a, self.b)
        notrack = f"""table ip bench_notrack {{ chain pre {{
            type filter hook prerouting priority -310;
            ip saddr {POOL} notrack; ip daddr {POOL} notrack; }}
        }}\n"""
        for host in (self.a, self.b):
            adopt(host)
            in_netns(host.netns, ["nft", "-f", "-"], stdin=notrack)
            for way in ("-s", "-d"):  # Docker's policy for forwarded packets is DROP
                host.run(["iptables", "-I", "DOCKER-USER", way, POOL, "-j", "ACCEPT"])
        for kind in KINDS:
            for host in (self.a, self.b):
                import_image(host, image(kind), kind)
        self.command(self.a, f"ssh -fN -M -o ControlPersist=yes {SSH_OPTIONS} b")
        for name, mark in MARKS.items():
            table = str(100 + mark)
            via = self.lab[name].address
            self.client.run(["ip", "route", "add", "default", "via", via, "table", table])
            self.client.run(["ip", "rule", "add", "fwmark", str(mark), "lookup", table])

    def shape(self, link: Link) -> None:
        """Limit the way to and from host b; client and a are not in it."""
        self.lab.switch.rate("b", self.b.netns, link.mbit)

    # -- running programs ------------------------------------------------------------------------

    def metered(self, host: LabHost, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` in the host and in the cgroup that is measured."""
        return host.enter(["sh", "-c", f'{join_script(host.cgroup)}; exec "$@"', "sh", *argv])

    def command(
        self,
        host: LabHost,
        script: str,
        *,
        timeout: float = 120,
        on_line: Callable[[str], None] = lambda _: None,
        check: bool = True,
    ) -> Result:
        """A shell script in the host, metered; each line of stdout goes to `on_line` at once.

        Raises BenchError with what it said last, unless it succeeds.
        """
        # Inside: nsenter forks, and killing it would leave the script there.
        limited = ["timeout", "-k", "5", f"{timeout:.0f}", "sh", "-ec", script]
        with tempfile.TemporaryFile("w+", errors="replace") as errors:
            process = subprocess.Popen(
                self.metered(host, limited), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=errors, text=True, errors="replace",
            )  # fmt: skip
            lines = []
            assert process.stdout is not None
            with process.stdout:
                for line in process.stdout:
                    on_line(line.rstrip("\n"))
                    lines.append(line)
            process.wait()
            errors.seek(0)
            result = Result(tuple(limited), process.returncode, "".join(lines), errors.read())
        if result.returncode == 124:
            raise BenchError(f"did not end within {timeout:.0f} s")
        if check and not result.ok:
            raise BenchError(last_words(result))
        return result

    def route(self, via: LabHost) -> None:
        """Unmarked packets of the client reach the containers through this host."""
        self.client.run(["ip", "route", "replace", POOL, "via", via.address])

    def ssh_cat(self, mib: int) -> float:
        """Bytes per second of random bytes from memory to /dev/null there, by plain ssh."""
        # A second, so that it is far longer than the start and what TBF lets through at once.
        script = (
            f"[ -f /run/bench-cat ] || head -c {mib}M /dev/urandom > /run/bench-cat;"
            f" b=$(date +%s.%N); ssh {SSH_OPTIONS} b 'cat > /dev/null' < /run/bench-cat;"
            " e=$(date +%s.%N); rm /run/bench-cat; echo $b $e"
        )
        begun, ended = map(float, self.command(self.a, script, timeout=600).stdout.split())
        return mib * 2**20 / (ended - begun)

    # -- facts -----------------------------------------------------------------------------------

    def versions(self) -> dict[str, str]:
        asked = {
            "docker": "docker version -f '{{.Server.Version}}'",
            "runc": "runc --version",
            "criu": "criu --version",
            "podman": "podman --version",
            "crun": "crun --version",
            "rsync": "rsync --version",
            "ssh": "ssh -V 2>&1",
            "redis": "redis-server --version",
            "migrate": "migrate version",
            "cipher of ssh": (
                f"ssh -c {CIPHER} -v b true 2>&1 | sed -n 's/.*server->client cipher: //p'"
            ),
        }
        found = {}
        for name, script in asked.items():
            lines = self.a.sh(script, check=False).splitlines()
            found[name] = lines[0].strip() if lines else "none"
        return found

    def options_of_tool(self) -> set[str]:
        """The long options that `migrate move` has: variants that need more are left out."""
        return set(re.findall(r"--[a-z-]+", self.a.run(["migrate", "move", "--help"]).stdout))

    def inspect_pid(self, host: LabHost, name: str) -> int:
        found = json.loads(host.run(["docker", "inspect", name]).stdout)
        return int(found[0]["State"]["Pid"])


def last_words(result: Result) -> str:
    """The last lines that say what was wrong, for a table cell."""
    lines = [one.strip() for one in (result.stderr or result.stdout).splitlines() if one.strip()]
    wanted = [
        one for one in lines if re.search(r"error|fail|cannot|refus|not ", one, re.IGNORECASE)
    ]
    shown = " / ".join((wanted or lines)[-2:]) or "it said nothing"
    return f"exit code {result.returncode}: {shown[-400:]}"


@contextlib.contextmanager
def bench_world() -> Iterator[BenchWorld]:
    """The lab for the length of a `with` block."""
    client = HostSpec("client", FLAVOUR, docker=False, tool=False)
    lab = Lab.up(LAB, [HostSpec("a", FLAVOUR), HostSpec("b", FLAVOUR), client])
    try:
        world = BenchWorld(lab)
        world.prepare()
        yield world
    finally:
        lab.down()


def commit_of_checkout() -> str:
    """What is measured, in git's words."""
    return run(["git", "describe", "--always", "--dirty"], check=False).stdout.strip() or "unknown"
