"""The kernel settings of a container's network (`docker run --sysctl net...`) after a restore.

runc sets them in the init that it starts (standard_init_linux.go), which a restore does not have,
and CRIU makes the network namespace empty. Docker itself asks for two of them in every container
(moby, daemon/oci_linux.go: ping_group_range, ip_unprivileged_port_start). Those of other namespaces
are in CRIU's images.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from migrate.netns import within

PROC = Path("/proc/sys")


def of_network(config: Mapping[str, Any]) -> dict[str, str]:
    """Those of the network that an OCI configuration asks for, by their names with dots."""
    asked = (config.get("linux") or {}).get("sysctl") or {}
    return {str(name): str(value) for name, value in asked.items() if name.startswith("net.")}


def set_within(pid: int, settings: Mapping[str, str], proc: Path = PROC) -> dict[str, str]:
    """Set them in the network namespace of a process.

    Gives those for which there is no such file, as that of an interface that is not there yet.
    Raises OSError when the kernel refuses one.
    """
    return within(pid, lambda: _set(settings, proc)) if settings else {}


def _set(settings: Mapping[str, str], proc: Path) -> dict[str, str]:
    missing = {}
    for name, value in settings.items():
        try:
            # Not created where it is missing: runc opens it in the same way.
            with (proc / name.replace(".", "/")).open("r+") as file:
                file.write(value)
        except FileNotFoundError:
            missing[name] = value
        except OSError as problem:
            raise OSError(problem.errno, f"{problem.strerror} for {name}={value}") from problem
    return missing
