"""What this host is and has, and what of that stands in the way of a migration.

`facts()` looks, `findings()` judges: the facts of both hosts travel to the source, which judges
and compares them in one place.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

import migrate
from migrate import errors
from migrate.criu_probe import SBIN, find_criu
from migrate.errors import CommandFailed, DockerUnavailable
from migrate.network_facts import NetworkFacts, network_facts
from migrate.run import run
from transport.errors import Failure

RUNTIME = "migrate"

# CRIU asks the kernel for sockets through the diag modules; CONFIG_X=m is as good as =y, criu
# loads them. The list is https://criu.org/Linux_kernel's.
KERNEL_OPTIONS = (
    *("CHECKPOINT_RESTORE", "NAMESPACES", "UTS_NS", "IPC_NS", "PID_NS", "NET_NS"),
    *("UNIX_DIAG", "INET_DIAG", "INET_TCP_DIAG", "INET_UDP_DIAG", "PACKET_DIAG", "NETLINK_DIAG"),
    *("MEM_SOFT_DIRTY", "USERFAULTFD"),
)
FATAL_OPTIONS = ("CHECKPOINT_RESTORE",)
# Looked at by the memory source and the lazy restore, which have other ways: nothing to report.
SILENT_OPTIONS = ("MEM_SOFT_DIRTY", "USERFAULTFD")


class DockerFacts(msgspec.Struct, frozen=True):
    """What dockerd says of itself. `runtimes`: name -> path, "" for one without a path."""

    version: str
    api_version: str
    storage_driver: str
    containerd_snapshotter: bool
    cgroup_driver: str
    cgroup_version: str
    default_runtime: str
    runtimes: dict[str, str]
    root_dir: str


class HostFacts(msgspec.Struct, frozen=True):
    """One host at one moment. None: the thing is not there, or could not be asked."""

    kernel: str  # the release, such as 6.12.48+deb13-amd64
    arch: str
    cpu_model: str
    cpu_flags: tuple[str, ...]
    kernel_options: dict[str, str] | None  # option without CONFIG_ -> "y", "m", or "" for off
    criu_path: str | None
    criu_version: tuple[int, ...] | None
    pycriu: bool
    pycriu_reason: str  # why pycriu cannot be imported, else ""
    docker: DockerFacts | None
    docker_reason: str  # why docker is None, else ""
    runc_version: tuple[int, ...] | None
    nft: bool
    iptables: bool
    runtime_path: str | None  # of the runtime `migrate` in dockerd
    runtime_runs: bool  # whether that path can be executed
    free_memory: int | None  # bytes that can be had without swapping
    free_disk: int | None  # bytes below Docker's root folder
    boot_id: str
    tool_version: str
    wall_clock: float  # seconds since the epoch, when the facts were taken
    network: NetworkFacts = NetworkFacts()
    docker_init: str = ""  # digest of the program that `docker run --init` puts first


class Finding(msgspec.Struct, frozen=True):
    """One thing looked at. With `ok` a `remedy` is advice; without, nothing works before it.

    `code` is the name of the class in `migrate.errors` that this is as a failure.
    """

    ok: bool
    what: str
    remedy: str = ""
    code: str = ""

    def failure(self) -> Failure:
        """The failure to raise for a finding that is not ok."""
        kind: type[Failure] = getattr(errors, self.code or "HostUnfit")
        return kind(self.what, self.remedy or None)


class DockerSays(msgspec.Struct, frozen=True):
    """The answers of `GET /info` and `GET /version`."""

    info: dict[str, Any]
    version: dict[str, Any]


DockerInfo = Callable[[], DockerSays]


def ask_docker() -> DockerSays:
    """Ask dockerd (`DOCKER_HOST` or its usual socket); `DockerUnavailable` when it cannot."""
    import docker  # 0.5 s to import: not for those who only want the types

    try:
        # "auto": docker-py 5 would else speak 1.41, which Docker 29 (>= 1.44) refuses.
        client = docker.from_env(version="auto", timeout=10)
        with contextlib.closing(client):
            return DockerSays(client.info(), client.version())
    # requests' errors, which docker-py does not always wrap, are OSErrors.
    except (docker.errors.DockerException, OSError) as error:
        raise DockerUnavailable(docker_problem(str(error))) from error


def docker_problem(text: str) -> str:
    """One sentence for what docker-py says, which wraps the cause into three exceptions' texts."""
    for sign, sentence in (
        ("FileNotFoundError", "dockerd does not run here: its socket is missing"),
        ("ConnectionRefusedError", "dockerd does not run here: nobody listens at its socket"),
        ("PermissionError", "you may not use Docker's socket"),
        ("timed out", "dockerd does not answer within 10 s"),
    ):
        if sign in text:
            return sentence
    return f"Docker cannot be asked: {text}"


def facts(
    *,
    docker_info: DockerInfo = ask_docker,
    proc: Path = Path("/proc"),
    boot: Path = Path("/boot"),
) -> HostFacts:
    """Look at this host; takes about 0.5 s, most of it for Docker's and pycriu's import.

    Never fails: what cannot be found out is None, with a reason where a person needs one.
    """
    kernel = os.uname()
    cpu_model, cpu_flags = parse_cpuinfo(_read(proc / "cpuinfo"))
    docker, docker_reason = None, ""
    says = DockerSays({}, {})
    try:
        says = docker_info()
        docker = docker_facts(says)
    except DockerUnavailable as error:
        docker_reason = error.message
    pycriu_reason = _import_problem("pycriu.images")
    criu = find_criu()
    runtime_path = docker.runtimes.get(RUNTIME) if docker else None
    return HostFacts(
        kernel=kernel.release,
        arch=kernel.machine,
        cpu_model=cpu_model,
        cpu_flags=cpu_flags,
        kernel_options=kernel_options(kernel.release, proc, boot),
        criu_path=criu,
        criu_version=_version_of(criu),
        pycriu=not pycriu_reason,
        pycriu_reason=pycriu_reason,
        docker=docker,
        docker_reason=docker_reason,
        runc_version=_version_of(_which("runc")),
        nft=_which("nft") is not None,
        iptables=_which("iptables") is not None,
        runtime_path=runtime_path,
        runtime_runs=runtime_path is not None and os.access(runtime_path, os.X_OK),
        free_memory=parse_available(_read(proc / "meminfo")),
        free_disk=_free_disk(docker.root_dir) if docker else None,
        boot_id=_read(proc / "sys/kernel/random/boot_id").strip(),
        tool_version=migrate.__version__,
        wall_clock=time.time(),
        network=network_facts(says.info),
        docker_init=_digest(_docker_init(str(says.info.get("InitBinary") or ""))),
    )


def docker_facts(says: DockerSays) -> DockerFacts:
    """Pick what matters out of dockerd's answers (Docker Engine API 1.41 to 1.52)."""
    info = says.info
    runtimes: Mapping[str, Any] = info.get("Runtimes") or {}
    return DockerFacts(
        version=str(info.get("ServerVersion", "")),
        api_version=str(says.version.get("ApiVersion", "")),
        storage_driver=str(info.get("Driver", "")),
        # The only place where it shows: DriverStatus [["driver-type", "io.containerd..."]].
        containerd_snapshotter=any(
            "io.containerd.snapshotter" in str(value)
            for pair in info.get("DriverStatus") or []
            for value in pair
        ),
        cgroup_driver=str(info.get("CgroupDriver", "")),
        cgroup_version=str(info.get("CgroupVersion", "")),
        default_runtime=str(info.get("DefaultRuntime", "")),
        runtimes={name: str((entry or {}).get("path", "")) for name, entry in runtimes.items()},
        root_dir=str(info.get("DockerRootDir", "/var/lib/docker")),
    )


def parse_cpuinfo(text: str) -> tuple[str, tuple[str, ...]]:
    """Model and flags of the first CPU of /proc/cpuinfo; arm64 calls the flags `Features`."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip(), value.strip())
    model = fields.get("model name") or " ".join(
        fields[key] for key in ("CPU implementer", "CPU part") if key in fields
    )
    return model, tuple((fields.get("flags") or fields.get("Features") or "").split())


def parse_available(meminfo: str) -> int | None:
    """Bytes of `MemAvailable` in /proc/meminfo (which says kB and means KiB; proc(5))."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB$", meminfo, re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def parse_version(text: str) -> tuple[int, ...] | None:
    """The first dotted number in what `criu --version`, `runc --version` or `uname -r` say."""
    match = re.search(r"\d+(?:\.\d+)+", text)
    return tuple(int(part) for part in match[0].split(".")) if match else None


def kernel_options(release: str, proc: Path, boot: Path) -> dict[str, str] | None:
    """How the kernel was built, for `KERNEL_OPTIONS`; None where it does not say."""
    text = ""
    with contextlib.suppress(OSError, EOFError):
        text = gzip.decompress((proc / "config.gz").read_bytes()).decode(errors="replace")
    text = text or _read(boot / f"config-{release}")
    if not text:
        return None
    built = dict(re.findall(r"^CONFIG_(\w+)=([ym])$", text, re.MULTILINE))
    return {option: built.get(option, "") for option in KERNEL_OPTIONS}


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{SBIN}")


def _docker_init(name: str) -> str | None:
    """Where dockerd finds it (moby, daemon/config: LookupInitPath; not all of its places)."""
    folders = "/usr/local/libexec/docker:/usr/libexec/docker:/usr/local/lib/docker:/usr/lib/docker"
    return (shutil.which(name, path=folders) or _which(name)) if name else None


def _digest(program: str | None) -> str:
    with contextlib.suppress(OSError):
        if program:
            return hashlib.sha256(Path(program).read_bytes()).hexdigest()
    return ""


def _version_of(program: str | None) -> tuple[int, ...] | None:
    if program is None:
        return None
    try:
        return parse_version(run([program, "--version"], timeout=10).stdout)
    except CommandFailed:  # there, but it does not run: as good as not there
        return None


def _import_problem(module: str) -> str:
    # In a process of its own: what a protobuf that does not fit raises is of many classes, and a
    # half-imported protobuf would stay in this process.
    try:
        run([sys.executable, "-c", f"import {module}"], timeout=20)
    except CommandFailed as error:
        return error.message.rpartition("): ")[2]
    return ""


def _free_disk(folder: str) -> int | None:
    try:
        stat = os.statvfs(folder)
    except OSError:
        return None
    return stat.f_bavail * stat.f_frsize
