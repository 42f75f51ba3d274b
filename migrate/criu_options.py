"""What CRIU must be told about a runc container: a pure translation of its OCI configuration.

The dump is made here and the restore by `runc restore`, so both must name the same external mounts
with the same keys. The rules are runc's (libcontainer/criu_linux.go: Checkpoint, addCriuDumpMount,
addMaskPaths, getCgroupMounts), written anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from migrate.proc_text import lines


@dataclass(frozen=True)
class MountLine:
    """A line of /proc/PID/mountinfo (proc_pid_mountinfo(5)), as far as it is needed."""

    root: str
    mountpoint: str
    fstype: str
    super_options: str


def parse_mountinfo(content: str) -> list[MountLine]:
    """Read mountinfo; octal escapes (\\040) in paths are undone."""
    found = []
    for line in lines(content):
        left, _, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        if len(fields) >= 6 and len(tail) >= 3:
            found.append(MountLine(_plain(fields[3]), _plain(fields[4]), tail[0], _plain(tail[2])))
    return found


def _plain(text: str) -> str:
    for escape, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(escape, char)
    return text


def upper_directory(mounts: Iterable[MountLine]) -> str | None:
    """The overlayfs upper directory of the mount at `/`, or None when `/` is no overlay.

    Works for Docker's overlay2 and for containerd's snapshotter alike, unlike `GraphDriver.Data`,
    which is null for the latter. Only true when read in the mount namespace of the container.
    """
    for mount in mounts:
        if mount.mountpoint == "/" and mount.fstype == "overlay":
            for option in mount.super_options.split(","):
                if option.startswith("upperdir="):
                    return option.removeprefix("upperdir=")
    return None


def external_mounts(
    config: dict[str, Any], mounts: Iterable[MountLine], is_file: Callable[[str], bool]
) -> dict[str, str]:
    """CRIU's external mounts: path in the container -> the name that the restore gives it.

    `config`: the OCI config.json; `mounts`: the container's own mountinfo; `is_file` tells whether
    a masked path is there and no directory (such a path is masked by a bind mount of /dev/null).
    """
    external: dict[str, str] = {}
    for mount in config.get("mounts", []):
        options = mount.get("options") or []
        if mount.get("type") == "bind" or "bind" in options or "rbind" in options:
            external[mount["destination"]] = mount["destination"]
    linux = config.get("linux", {})
    if not any(ns.get("type") == "cgroup" for ns in linux.get("namespaces", [])):
        for line in mounts:
            # Without a cgroup namespace, each v1 controller is a bind mount of the host's.
            if line.fstype == "cgroup":
                external[line.mountpoint] = line.mountpoint
    for path in linux.get("maskedPaths") or []:
        if is_file(path):
            external[path] = "/dev/null"
    return external


def feature_obstacle(config: dict[str, Any]) -> str | None:
    """Why this OCI configuration cannot be dumped by us, or None."""
    for namespace in config.get("linux", {}).get("namespaces", []):
        if namespace.get("path") and namespace.get("type") in ("network", "pid", "ipc", "mount"):
            return f"it shares its {namespace['type']} namespace with something outside"
    return None
