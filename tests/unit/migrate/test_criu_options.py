"""migrate.criu_options, and the pure parts of migrate.criu."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.criu_options import (
    MountLine,
    external_mounts,
    feature_obstacle,
    parse_mountinfo,
    upper_directory,
)

REAL = """\
1241 1012 0:66 / / rw,relatime master:405 - overlay overlay rw,lowerdir=/l1:/l2,upperdir=/u,workdir=/w
1242 1241 0:69 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
1245 1244 0:29 /docker/c0ffee /sys/fs/cgroup/freezer ro,relatime master:11 - cgroup cgroup rw,freezer
1250 1241 8:1 /var/lib/docker/containers/x/resolv.conf /etc/resolv.conf rw - ext4 /dev/sda1 rw
"""  # noqa: E501


def test_a_real_one() -> None:
    mounts = parse_mountinfo(REAL)
    assert [mount.mountpoint for mount in mounts] == [
        "/", "/proc", "/sys/fs/cgroup/freezer", "/etc/resolv.conf",
    ]  # fmt: skip
    assert [mount.fstype for mount in mounts] == ["overlay", "proc", "cgroup", "ext4"]
    assert mounts[2].root == "/docker/c0ffee"
    assert upper_directory(mounts) == "/u"


def escaped(path: str) -> str:
    """As the kernel writes it (fs/proc_namespace.c, mangle)."""
    return "".join(f"\\{ord(c):03o}" if c in " \t\n\\" else c for c in path)


# What looks like an escape, too; paths of the kernel begin with a slash.
paths = st.text(st.sampled_from("ab/ \t\n\\0134ü-"), max_size=12).map(lambda path: f"/{path}")


@given(root=paths, mountpoint=paths, upper=paths, shared=st.integers(0, 2))
def test_every_path_comes_back(root: str, mountpoint: str, upper: str, shared: int) -> None:
    optional = "".join(f" shared:{number}" for number in range(shared))
    line = (
        f"36 35 98:0 {escaped(root)} {escaped(mountpoint)} rw,noatime{optional} - "
        f"overlay none rw,upperdir={escaped(upper)}\n"
    )
    assert parse_mountinfo(line) == [MountLine(root, mountpoint, "overlay", f"rw,upperdir={upper}")]


@given(st.text())
def test_nonsense_is_no_mount_and_no_crash(text: str) -> None:
    for mount in parse_mountinfo(text):
        assert mount.mountpoint != ""


@pytest.mark.parametrize(
    ("fstype", "options", "upper"),
    [
        ("overlay", "rw,lowerdir=/l,upperdir=/up,workdir=/w", "/up"),
        ("overlay", "rw,lowerdir=/l", None),  # read-only: no upper directory at all
        ("ext4", "rw,upperdir=/up", None),
    ],
)
def test_where_the_writable_layer_is(fstype: str, options: str, upper: str | None) -> None:
    root = MountLine("/", "/", fstype, options)
    other = MountLine("/", "/mnt", "overlay", "rw,upperdir=/other")
    assert upper_directory([other, root]) == upper


def oci(*mounts: dict[str, Any], cgroupns: bool = True, **linux: Any) -> dict[str, Any]:
    namespaces = [{"type": "network"}, {"type": "pid"}]
    if cgroupns:
        namespaces.append({"type": "cgroup"})
    return {"mounts": list(mounts), "linux": {"namespaces": namespaces, **linux}}


def no_file(path: str) -> bool:
    return False


def test_bind_mounts_keep_their_place() -> None:
    config = oci(
        {"destination": "/proc", "type": "proc"},
        {"destination": "/etc/hosts", "type": "bind", "options": ["rbind"]},
        {"destination": "/data", "type": "none", "options": ["rbind", "ro"]},
        {"destination": "/dev/shm", "type": "tmpfs", "options": None},
    )
    assert external_mounts(config, [], no_file) == {"/etc/hosts": "/etc/hosts", "/data": "/data"}


def test_cgroups_of_v1_are_external_without_a_namespace_of_their_own() -> None:
    mounts = parse_mountinfo(REAL)
    freezer = {"/sys/fs/cgroup/freezer": "/sys/fs/cgroup/freezer"}
    assert external_mounts(oci(cgroupns=False), mounts, no_file) == freezer
    assert external_mounts(oci(cgroupns=True), mounts, no_file) == {}


def test_only_files_that_are_there_are_masked_by_dev_null() -> None:
    config = oci(maskedPaths=["/proc/kcore", "/proc/scsi", "/proc/none"])
    assert external_mounts(config, [], lambda path: path == "/proc/kcore") == {
        "/proc/kcore": "/dev/null"
    }
    assert external_mounts(oci(maskedPaths=None), [], lambda path: True) == {}
    assert external_mounts({}, [], no_file) == {}


@pytest.mark.parametrize("kind", ["network", "pid", "ipc", "mount"])
def test_a_namespace_of_somebody_else_is_an_obstacle(kind: str) -> None:
    config = {"linux": {"namespaces": [{"type": "uts"}, {"type": kind, "path": "/proc/1/ns/x"}]}}
    assert kind in str(feature_obstacle(config))
    assert feature_obstacle(json.loads(json.dumps(config).replace("/proc/1/ns/x", ""))) is None


def test_a_plain_container_has_no_obstacle() -> None:
    assert feature_obstacle(oci()) is None
    assert feature_obstacle({}) is None
