"""Where runc puts a container with cgroup v2: pure, from what Docker tells it.

runc before 1.5 does not tell CRIU (it does with v1), and CRIU then restores the tasks into a cgroup
that is called as theirs was at the source. Docker would neither see nor limit them there, and
systemd ends the scope that was made for them, as nothing is in it.
"""

from __future__ import annotations


def unified_path(cgroups_path: str, *, systemd: bool, own: str) -> str | None:
    """The container's cgroup, from the root of the hierarchy; None when runc chooses it otherwise.

    `cgroups_path`: `linux.cgroupsPath` of the OCI configuration; `systemd`: whether runc was called
    with --systemd-cgroup; `own`: the cgroup of runc, to which a relative path refers. The rules are
    runc's (vendor/github.com/opencontainers/cgroups: systemd/common.go, fs2/defaultpath.go).
    """
    if systemd:
        slice_, _, rest = cgroups_path.partition(":")
        prefix, _, name = rest.partition(":")
        if not (name and slice_.endswith(".slice")):
            return None
        unit = name if name.endswith(".slice") else f"{prefix}-{name}.scope"
        return f"{_slice_path(slice_)}/{unit}"
    if not cgroups_path:
        return None
    if cgroups_path.startswith("/"):
        return cgroups_path
    return f"{own.rpartition('/')[0]}/{cgroups_path}"


def _slice_path(name: str) -> str:
    """a-b.slice lies in a.slice (systemd.slice(5)); -.slice is the root."""
    words = name.removesuffix(".slice").split("-")
    if words == ["", ""]:
        return ""
    return "".join(f"/{'-'.join(words[: n + 1])}.slice" for n in range(len(words)))


def own_unified(text: str) -> str:
    """The v2 cgroup in the text of /proc/self/cgroup; '' when there is none (cgroups(7))."""
    for line in text.splitlines():
        if line.startswith("0::"):
            return line.removeprefix("0::")
    return ""
