"""One virtual machine: QEMU without KVM, and SSH into it through a port of this machine."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from migrate.run import Result, run
from tests.lab.host import start_time
from tests.lab.reach import Host
from tests.vm.image import VmImage
from tests.vm.seed import MTU

BOOT_TIMEOUT = 420.0
MEMORY = 1536  # MiB
# Debian 12's QEMU 7.2 panicked the guest with cx16; erms and fsrm promise that string instructions
# are fast, which emulated ones are not. The kernel's mitigations cost, and protect nobody here.
CPU = "max,erms=off,fsrm=off,cx16=off"
KERNEL_LINE = (
    "root=/dev/nvme0n1 rw console=ttyS0 quiet net.ifnames=0 mitigations=off"
    " nokaslr audit=0 systemd.show_status=0 panic=1"
)


@dataclass(frozen=True)
class MachineSpec:
    """`number`: 1, 2, ... among the machines of one pair; `port`: of this machine, to its sshd.

    `client`: beside the machine there is a client, a network namespace with a card of its own.
    """

    name: str
    number: int
    port: int
    client: bool = False

    @property
    def address(self) -> str:
        return f"10.77.0.{10 + self.number}"


class Machine(Host):
    """A machine that runs, or not yet; `state` is where its disk, logs and sockets are."""

    patience = 300.0

    def __init__(self, spec: MachineSpec, state: Path, keys: Path) -> None:
        self.spec = spec
        self.name = spec.name
        self.address = spec.address
        self.state = state
        self.keys = keys
        self._process: subprocess.Popen[bytes] | None = None

    # -- life ----------------------------------------------------------------------------------

    def start(self, image: VmImage, peer: Path) -> None:
        """Switch it on; `peer`: the other machine's socket, to which its wire leads.

        The disk is an overlay of the image; one that is there already goes on being used, so that a
        machine whose power was cut boots from what it had written.
        """
        disk = self.state / "disk.qcow2"
        if not disk.exists():
            run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(image.disk),
                 str(disk)])  # fmt: skip
        self.socket.unlink(missing_ok=True)
        with (self.state / "qemu.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(image, disk, peer), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        pid = self._process.pid
        note = {"pid": pid, "start": start_time(pid)}
        (self.state / "qemu.json").write_text(json.dumps(note))

    def _command(self, image: VmImage, disk: Path, peer: Path) -> list[str]:
        number = self.spec.number
        # Datagrams between two files: each machine may come and go, and nothing is listened on.
        wire = (
            f"dgram,id=wire,local.type=unix,local.path={self.socket},"
            f"remote.type=unix,remote.path={peer}"
        )
        command = [
            "nice", "-n", "5", "qemu-system-x86_64", "-name", self.name,
            "-accel", "tcg,thread=multi", "-cpu", CPU, "-smp", "1", "-m", str(MEMORY),
            "-display", "none", "-nodefaults", "-no-user-config", "-no-reboot",
            "-serial", f"file:{self.state}/console.log",
            "-kernel", str(image.kernel), "-append", f"{KERNEL_LINE} systemd.hostname={self.name}",
            "-drive", f"file={disk},if=none,id=root,format=qcow2,discard=unmap",
            # Of its sort the only one: two NVMe disks are named by who is found first.
            "-device", "nvme,drive=root,serial=root",
            "-drive", f"file={self.state}/seed.tar,if=none,id=seed,format=raw,readonly=on",
            "-device", "virtio-blk-pci,drive=seed",
            "-device", "virtio-rng-pci",
            "-netdev", f"user,id=user,restrict=on,hostfwd=tcp:127.0.0.1:{self.spec.port}-:22",
            "-device", f"virtio-net-pci,netdev=user,mac=52:54:00:00:0{number}:00",
            "-netdev", wire,
            "-netdev", "hubport,id=hub,hubid=0,netdev=wire",
        ]  # fmt: skip
        for card in range(1, 3 if self.spec.client else 2):
            command += [
                "-netdev", f"hubport,id=hub{card},hubid=0",
                "-device", f"virtio-net-pci,netdev=hub{card},mac=52:54:00:00:0{number}:0{card},"
                f"host_mtu={MTU}",
            ]  # fmt: skip
        return command

    @property
    def socket(self) -> Path:
        return self.state / "wire"

    @property
    def pid(self) -> int | None:
        """Of QEMU, None when it does not run."""
        try:
            noted = json.loads((self.state / "qemu.json").read_text())
        except (OSError, ValueError):
            return None
        return noted["pid"] if start_time(noted["pid"]) == noted["start"] else None

    def wait_for_boot(self, timeout: float = BOOT_TIMEOUT) -> None:
        """Until commands can be run. Opens the SSH connection that all of them share."""
        deadline = time.monotonic() + timeout
        master = [*self._ssh(), "-o", "ConnectTimeout=60", "-M", "-N", "-f", "machine"]
        # With pipes `run` would wait for the connection's end, not for its beginning.
        while subprocess.run(
            master, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            timeout=timeout, check=False,
        ).returncode:  # fmt: skip
            if self.pid is None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} does not boot: {self.log()}")
            time.sleep(1)

    def cut_power(self) -> None:
        """End it at once: no process of it gets to do anything."""
        run([*self._ssh(), "-O", "exit", "machine"], check=False)
        pid = self.pid
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        if self._process:
            self._process.wait(timeout=30)
            self._process = None
        deadline = time.monotonic() + 30
        while self.pid is not None:
            if time.monotonic() > deadline:
                raise RuntimeError(f"QEMU of {self.name} does not die (pid {self.pid})")
            time.sleep(0.05)

    # -- use -----------------------------------------------------------------------------------

    def _ssh(self) -> list[str]:
        options = {
            "IdentityFile": self.keys / "user", "IdentitiesOnly": "yes", "User": "root",
            "HostName": "127.0.0.1", "Port": self.spec.port, "HostKeyAlias": self.name,
            "UserKnownHostsFile": self.keys / "known_hosts", "BatchMode": "yes",
            "ControlPath": self.state / "ssh", "LogLevel": "ERROR",
        }  # fmt: skip
        return ["ssh", "-F", "none", *(w for k, v in options.items() for w in ("-o", f"{k}={v}"))]

    def enter(self, argv: Sequence[str]) -> list[str]:
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        inside = shlex.join(["env", path, "LANG=C.UTF-8", *argv])
        return [*self._ssh(), "machine", inside]

    def write(self, inside: str, text: str, mode: int = 0o644) -> None:
        script = 'mkdir -p "$(dirname "$1")" && : > "$1" && chmod "$2" "$1" && cat > "$1"'
        self.run(["sh", "-c", script, "sh", inside, f"{mode:o}"], stdin=text)

    def log(self) -> str:
        """What QEMU said, and the end of the console."""
        found = ""
        for name in ("qemu.log", "console.log"):
            path = self.state / name
            if path.exists():
                found += path.read_text(errors="replace")[-2000:]
        return found


class Client(Host):
    """The third host: a network namespace in a machine, with its own card on the same wire."""

    name = "client"
    patience = Machine.patience

    def __init__(self, machine: Machine, address: str) -> None:
        self.machine = machine
        self.address = address

    def enter(self, argv: Sequence[str]) -> list[str]:
        return self.machine.enter(["nsenter", "--net=/run/netns/client", "--", *argv])

    def write(self, inside: str, text: str, mode: int = 0o644) -> None:
        self.machine.write(inside, text, mode)


def delay(host: Host, ms: float | None) -> Result:
    """Delay what a machine or the client sends by `ms`; None takes that away."""
    device = ["dev", "eth2" if isinstance(host, Client) else "eth1"]
    if ms is None:
        return host.run(["tc", "qdisc", "del", *device, "root"], check=False)
    netem = ["netem", "delay", f"{ms}ms", "limit", "10000"]
    return host.run(["tc", "qdisc", "replace", *device, "root", *netem])
