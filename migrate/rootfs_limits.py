"""Which paths of a container's file system belong to the host it runs on, and stay there."""

from __future__ import annotations

from migrate.container_spec import ContainerSpec

# Docker makes these in every container: bind mounts of files of its own, and a marker.
DOCKERS_OWN = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/.dockerenv")
# Mount points of every runc container; what is below them is no part of the writable layer.
MOUNT_POINTS = ("/proc", "/sys", "/dev")


def kept_paths(spec: ContainerSpec) -> tuple[str, ...]:
    """The paths that are neither sent nor touched: Docker's own, and where something is mounted."""
    mounted = [str(mount["Target"]) for mount in spec.host_config.get("Mounts") or ()]
    mounted += list(spec.host_config.get("Tmpfs") or ())
    mounted += list(spec.config.get("Volumes") or ())
    inside = [path.rstrip("/") for path in mounted if path.rstrip("/")]
    return (*DOCKERS_OWN, *MOUNT_POINTS, *dict.fromkeys(inside))
