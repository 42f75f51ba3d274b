"""Dumping a container with CRIU, through pycriu's RPC.

Not through `runc checkpoint`: that starts CRIU several times to ask for its version and features,
which costs 0.2 s within the freeze. Here one `criu swrk` (migrate/criu_rpc.py) is started before
the freeze and given its one request within it.
"""

from __future__ import annotations

import glob
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migrate.criu_options import external_mounts, feature_obstacle, parse_mountinfo
from migrate.criu_rpc import Swrk
from migrate.errors import DumpFailed, Unsupported
from migrate.host_setup import runtime_path
from migrate.proc_text import text
from migrate.runtime import TOOLS
from migrate.std_streams import Streams

CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h
LOG = "dump.log"
PRE_DUMP_LOG = "pre-dump.log"
BUNDLES = "/run/containerd/io.containerd.runtime.v2.task/moby"
# A deleted file that is held open travels in the images, up to this size (CRIU's --ghost-limit).
GHOST_LIMIT = 256 << 20


@dataclass(frozen=True)
class DumpTarget:
    """A running container as CRIU sees it: init's pid, its OCI config.json, its freezer cgroup."""

    pid: int
    config: dict[str, Any]
    freezer: str | None


def find_target(container: str, pid: int) -> DumpTarget:
    """Look up what a dump of a container needs. `container`: full id; `pid`: its init.

    Raises Unsupported when its namespaces are not its own.
    """
    bundles = [f"{BUNDLES}/{container}", *glob.glob(f"/run/*/containerd/daemon/*/moby/{container}")]
    bundles += glob.glob(f"/var/run/docker/containerd/daemon/*/moby/{container}")
    for bundle in bundles:
        path = Path(bundle, "config.json")
        if path.exists():
            config = json.loads(path.read_text())
            break
    else:
        raise Unsupported(
            f"the OCI bundle of container {container[:12]} is not where containerd keeps it",
            "only containers of Docker with its own containerd or the system's are known",
        )
    obstacle = feature_obstacle(config)
    if obstacle:
        raise Unsupported(f"container {container[:12]} cannot be moved: {obstacle}")
    return DumpTarget(pid, config, freezer_cgroup(text(f"/proc/{pid}/cgroup")))


def freezer_cgroup(text: str, mount: str = "/sys/fs/cgroup") -> str | None:
    """The freezer cgroup's directory from /proc/PID/cgroup: v1's `freezer`, else the v2 one."""
    unified = None
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        if "freezer" in controllers.split(","):
            return f"{mount}/freezer{path}"
        if controllers == "":
            unified = f"{mount}{path}"
    return unified


class Dumper:
    """The final dump: `start` before the freeze, `dump` and `finish` within it, `close` always.

    It is a skeleton (`lazy_pages`): everything but private anonymous memory, which it only lists.
    """

    def __init__(
        self, target: DumpTarget, images: Path, work: Path, *, tcp: str, streams: Streams
    ) -> None:
        """`images` gets the CRIU images, `work` the log; `tcp`: `established` or `close`;
        `streams`: as the destination was told."""
        self.streams = streams
        self.target = target
        self.tcp = tcp
        self.criu = Swrk(images, work, LOG)
        self._kind = 0
        self._options: Any = None

    @property
    def pid(self) -> int:
        """Of the criu process; only after `start`."""
        return self.criu.pid

    def start(self) -> None:
        """Start CRIU and make the request, so that nothing but the dump is left to do."""
        tools = self.criu.work / TOOLS
        tools.mkdir()
        (tools / "tar").symlink_to(runtime_path())  # see there
        rpc = self.criu.start(str(tools))
        self._kind = rpc.DUMP
        pid = self.target.pid
        options = self.criu.options(
            pid=pid,
            root=str(self.target.config["root"]["path"]),
            leave_running=True,
            manage_cgroups=True,
            manage_cgroups_mode=rpc.SOFT,
            tcp_established=self.tcp == "established",
            tcp_close=self.tcp == "close",
            tcp_skip_in_flight=True,
            link_remap=True,
            file_locks=True,
            ghost_limit=GHOST_LIMIT,
            empty_ns=CLONE_NEWNET,
            # In-process; the default calls iptables-restore four times, for 110 ms (measured).
            network_lock=rpc.NFTABLES,
            orphan_pts_master=True,
            notify_scripts=True,
            lazy_pages=True,
        )
        if self.target.freezer:
            options.freeze_cgroup = self.target.freezer
        for key, value in mounts_of(self.target).items():
            options.ext_mnt.add(key=key, val=value)
        self._options = options

    def dump(self) -> float:
        """Dump the (frozen) container; returns as soon as the images are complete, while CRIU still
        holds the tasks (`finish`). Gives the seconds that it took.

        Raises DumpFailed with CRIU's own reason.
        """
        begun = time.monotonic()
        lost = self.streams.lost(self.target.pid)
        if lost:
            raise DumpFailed(f"the container has a new standard stream ({lost})", "try it again")
        self.criu.request(self._kind, self._options)
        while (stage := self.criu.next_stage()) is not None:
            # The images are complete when it comes to this stage (criu/cr-dump.c:
            # cr_dump_finish); then it unlocks the network and lets go of the tasks.
            self.criu.answer(True)
            if stage == "post-dump":
                return time.monotonic() - begun
        raise DumpFailed(f"CRIU cannot dump the container: {self.criu.reason()}")

    def finish(self) -> None:
        """Wait until CRIU has let go of the tasks, which are frozen as they were found.

        It would now offer the pages that it left out to whoever connects to a port: that is refused
        at `status-ready` (criu/page-xfer.c: cr_page_server), and CRIU then reports a failure, after
        it has cleaned up.
        """
        self.criu.finish(lambda stage: stage != "status-ready")

    def abandon(self) -> None:
        """Have `dump` and `finish` wait no longer. From any thread; `close` all the same."""
        self.criu.abandon()

    def close(self) -> None:
        """End CRIU, waiting for a dump that is under way."""
        self.criu.close()


def mounts_of(target: DumpTarget) -> dict[str, str]:
    """The external mounts of a container: path within -> name for the restore."""
    root = f"/proc/{target.pid}/root"
    mounts = parse_mountinfo(text(f"/proc/{target.pid}/mountinfo"))

    def is_file(path: str) -> bool:
        inside = Path(root + path)
        return inside.exists() and not inside.is_dir()

    return external_mounts(target.config, mounts, is_file)


def pre_dump(target: DumpTarget, images: Path, work: Path, parent: str) -> None:
    """Write the private memory that has changed since the pre-dump `parent` (relative to `images`;
    '' for all of it) to `images`, and begin to track changes anew. The container runs on but for
    the moment in which CRIU notes which pages have changed.

    Raises DumpFailed with CRIU's own reason.
    """
    criu = Swrk(images, work, PRE_DUMP_LOG)
    try:
        rpc = criu.start()
        # Read through process_vm_readv by CRIU itself, after the tasks run again: `splice` would
        # pin all pages in pipes while they stand still (criu.org/Memory_changes_tracking).
        options = criu.options(
            pid=target.pid, track_mem=True, leave_running=True, pre_dump_mode=rpc.VM_READ
        )
        if parent:  # an empty one would be a path that is not there (criu/image.c, open_image_dir)
            options.parent_img = parent
        if target.freezer:
            options.freeze_cgroup = target.freezer
        criu.request(rpc.PRE_DUMP, options)
        criu.finish()
        if criu.error:
            raise DumpFailed(f"CRIU cannot pre-dump the container: {criu.reason()}")
    finally:
        criu.close()
