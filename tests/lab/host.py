"""One lab host: a Debian tree in namespaces of its own, with its own dockerd and sshd."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab.reach import Host
from tests.lab.tool import layer
from tests.lab.tree import tree

SETUP_TIMEOUT = 180.0
PATIENCE = 60.0  # seconds, for what takes one or two on a machine that is not busy


@dataclass(frozen=True)
class HostSpec:
    """What a host is made of.

    `flavour`: `trixie` or `forky`; `docker`: run dockerd; `containerd_store`: Docker keeps images
    in containerd (Docker 29's default); `tool`: install `migrate`; `setup`: run `migrate setup`;
    `disk`: MiB of Docker's disk, 0 for no limit of its own.
    """

    name: str
    flavour: str = "trixie"
    address: str = ""
    docker: bool = True
    containerd_store: bool = False
    tool: bool = True
    setup: bool = True
    disk: int = 0

    def __post_init__(self) -> None:
        if not self.name.isalnum() or len(self.name) > 10:
            raise ValueError(f"a host name is 1-10 letters and digits, not {self.name!r}")


class LabHost(Host):
    """A running (or not yet started) lab host; `spec` says what it is, `state` where it lives."""

    def __init__(self, lab: str, spec: HostSpec, state: Path, prefix: str) -> None:
        self.lab = lab
        self.spec = spec
        self.state = state
        self.name = spec.name
        self.address = spec.address.partition("/")[0]
        self.netns = f"{prefix}-{lab}-{spec.name}"
        self.cgroup = self.netns
        self._daemons: list[subprocess.Popen[bytes]] = []

    # -- life ----------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        """The host's PID 1 as this machine numbers it; None when the host is not running."""
        try:
            noted = json.loads((self.state / "init.json").read_text())
        except (OSError, ValueError):
            return None
        return noted["pid"] if start_time(noted["pid"]) == noted["start"] else None

    def start(self) -> None:
        """Boot: namespaces, file system, sshd, dockerd. The network namespace is there already."""
        for name in ("upper", "work", "root", "docker", "log"):
            (self.state / name).mkdir(parents=True, exist_ok=True)
        lowers = [str(tree(self.spec.flavour))]
        if self.spec.tool:
            lowers.insert(0, str(layer(self.spec.flavour)))
        with (self.state / "log/init").open("wb") as log:
            outer = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{self.netns}", "--",
                 "unshare", "-m", "-u", "-i", "-p", "-f", "--kill-child", "--",
                 "sh", str(Path(__file__).with_name("inside.sh")), self.name, str(self.state),
                 ":".join(lowers), str(self.spec.disk)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._daemons.append(outer)
        self._note_init(outer)
        self._write_files()
        if self.spec.docker:
            self.start_dockerd()
        self.spawn(["/usr/sbin/sshd", "-D", "-e"], "sshd")
        self._wait_for_sshd()
        if self.spec.docker:
            self.wait_for_docker()
            if self.spec.tool and self.spec.setup:
                self.run(["migrate", "setup"], timeout=SETUP_TIMEOUT)

    def _note_init(self, outer: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + PATIENCE
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
        while time.monotonic() < deadline:
            if outer.poll() is not None:
                raise RuntimeError(f"{self.name} did not boot: {self.log('init')}")
            # init is up when it has become Python, after the pivot.
            pids = children.read_text().split()
            if pids and _comm(int(pids[0])).startswith("python3"):
                pid = int(pids[0])
                note = {"pid": pid, "start": start_time(pid), "outer": outer.pid,
                        "outer_start": start_time(outer.pid)}  # fmt: skip
                (self.state / "init.json").write_text(json.dumps(note))
                return
            time.sleep(0.02)
        outer.kill()
        raise RuntimeError(f"{self.name} did not boot in {PATIENCE:.0f} s: {self.log('init')}")

    def _write_files(self) -> None:
        keys = self.state.parent.parent / "keys"
        hosts = (self.state.parent.parent / "etc-hosts").read_text()
        self.write("/etc/hosts", f"127.0.0.1 localhost\n{hosts}")
        self.write("/root/.ssh/id_ed25519", (keys / "user").read_text(), mode=0o600)
        self.write("/root/.ssh/authorized_keys", (keys / "user.pub").read_text(), mode=0o600)
        self.write("/root/.ssh/known_hosts", (keys / "known_hosts").read_text(), mode=0o600)
        host_key = "/etc/ssh/ssh_host_ed25519_key"
        self.write(host_key, (keys / f"host-{self.name}").read_text(), mode=0o600)
        self.write(host_key + ".pub", (keys / f"host-{self.name}.pub").read_text())
        self.run(["sh", "-c", "rm -f /etc/ssh/ssh_host_rsa_key* /etc/ssh/ssh_host_ecdsa_key*; "
                  "chmod 700 /root /root/.ssh; hostname > /etc/hostname"])  # fmt: skip
        if self.spec.containerd_store:
            features = {"features": {"containerd-snapshotter": True}}
            self.write("/etc/docker/daemon.json", json.dumps(features, indent=2) + "\n")

    def start_dockerd(self) -> None:
        self.spawn(
            ["dockerd", "--storage-driver", "overlayfs" if self.spec.containerd_store
             else "overlay2", "--cgroup-parent", f"/{self.cgroup}"],
            "dockerd",
        )  # fmt: skip

    def _wait_for_sshd(self, timeout: float = PATIENCE) -> None:
        deadline = time.monotonic() + timeout
        while not self.path("/run/sshd.pid").exists():  # written when it listens
            if time.monotonic() > deadline:
                raise RuntimeError(f"sshd on {self.name} does not listen: {self.log('sshd')}")
            time.sleep(0.02)

    def wait_for_docker(self, timeout: float = 2 * PATIENCE) -> None:
        deadline = time.monotonic() + timeout
        while not self.run(["docker", "info"], check=False).ok:
            if time.monotonic() > deadline:
                raise RuntimeError(f"dockerd on {self.name} does not answer: {self.log('dockerd')}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Power off: kill PID 1 (the kernel kills the rest), then remove what is left outside."""
        try:
            noted = json.loads((self.state / "init.json").read_text())
        except (OSError, ValueError):
            noted = {}
        # A frozen task (v1 freezer: a paused container) does not even die of SIGKILL.
        for frozen in Path("/sys/fs/cgroup/freezer", self.cgroup).glob("**/freezer.state"):
            frozen.write_text("THAWED")
        for pid, start in (("pid", "start"), ("outer", "outer_start")):
            if noted and start_time(noted[pid]) == noted[start]:
                os.kill(noted[pid], signal.SIGKILL)
        for daemon in self._daemons:
            daemon.wait(timeout=PATIENCE)
        self._daemons.clear()
        deadline = time.monotonic() + PATIENCE
        while noted and start_time(noted["pid"]) == noted["start"]:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} does not die (pid {noted['pid']})")
            time.sleep(0.02)
        self._remove_cgroups()

    def _remove_cgroups(self) -> None:
        deadline = time.monotonic() + PATIENCE
        for top in Path("/sys/fs/cgroup").glob(f"*/{self.cgroup}"):
            while top.exists():
                for directory, _, _ in os.walk(top, topdown=False):
                    try:
                        os.rmdir(directory)
                    except OSError:
                        if time.monotonic() > deadline:
                            raise
                if top.exists():
                    time.sleep(0.02)

    def erase(self) -> None:
        shutil.rmtree(self.state, ignore_errors=True)

    # -- use -----------------------------------------------------------------------------------

    def enter(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` inside the host."""
        pid = self.pid
        if pid is None:
            raise RuntimeError(f"{self.name} is not running")
        return ["nsenter", "-t", str(pid), "-m", "-u", "-i", "-n", "-p", "-r", "-w", "--",
                "/usr/bin/env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:"
                "/sbin:/bin", "HOME=/root", "USER=root", "LANG=C.UTF-8",
                *argv]  # fmt: skip

    def spawn(self, argv: Sequence[str], log: str) -> subprocess.Popen[bytes]:
        """Start a program inside the host, its output in `state/log/LOG`; ends with the host."""
        with (self.state / "log" / log).open("ab") as output:
            started = subprocess.Popen(
                self.enter(argv), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        self._daemons.append(started)
        return started

    def path(self, inside: str) -> Path:
        """A path of the host as this machine sees it, through PID 1's root."""
        return Path(f"/proc/{self.pid}/root{inside}")

    def write(self, inside: str, text: str, mode: int = 0o644) -> None:
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=mode)
        path.write_text(text)
        path.chmod(mode)

    def log(self, name: str) -> str:
        """The end of a daemon's log."""
        try:
            return (self.state / "log" / name).read_text(errors="replace")[-2000:]
        except OSError:
            return ""


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def start_time(pid: int) -> int | None:
    """Clock ticks since boot at which a process started: tells it from a later one of its pid."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])
