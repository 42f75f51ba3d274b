"""Dumping a container with CRIU, through pycriu's RPC.

Not through `runc checkpoint`: that starts CRIU several times to ask for its version and features,
which costs 0.2 s within the freeze. Here one `criu swrk` is started before the freeze and given its
one request within it.
"""

from __future__ import annotations

import glob
import json
import os
import resource
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migrate.criu_log import criu_reason
from migrate.criu_options import external_mounts, feature_obstacle, parse_mountinfo
from migrate.errors import CriuUnfit, DumpFailed, Unsupported
from migrate.std_streams import Streams

CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h
LOG = "dump.log"
BUNDLES = "/run/containerd/io.containerd.runtime.v2.task/moby"
# A deleted file that is held open travels in the images, up to this size (CRIU's --ghost-limit).
GHOST_LIMIT = 256 << 20
END_TIMEOUT = 60.0  # seconds for a dump that nobody waits for any more to come to its end


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
    return DumpTarget(pid, config, freezer_cgroup(Path(f"/proc/{pid}/cgroup").read_text()))


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
    """One dump: `start` before the freeze, `dump` within it, `close` always."""

    def __init__(
        self, target: DumpTarget, images: Path, work: Path, *, tcp: str, streams: Streams,
        parent: str = "",
    ) -> None:  # fmt: skip
        """`images` gets the CRIU images, `work` the log; `tcp`: `established` or `close`;
        `streams`: as the destination was told. `parent`: the pre-dump's directory, relative to
        `images`; without one the dump is a skeleton, without private memory.
        """
        self.streams = streams
        self.parent = parent
        self.lazy = not parent
        self._error = ""
        self.target = target
        self.images = images
        self.work = work
        self.tcp = tcp
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._request: Any = None

    @property
    def pid(self) -> int:
        """Of the criu process; only after `start`."""
        assert self._process
        return self._process.pid

    def start(self) -> None:
        """Start `criu swrk` and make the request, so that nothing but the dump is left to do."""
        try:
            from pycriu import rpc_pb2
        except ImportError as missing:
            raise CriuUnfit(
                f"pycriu cannot be imported ({missing})", "install the package python3-pycriu"
            ) from missing
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    ["criu", "swrk", str(theirs.fileno())], pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip
            except FileNotFoundError as missing:
                ours.close()
                raise CriuUnfit("criu is not installed", "install the package criu") from missing
        self._socket = ours
        # A skeleton dump keeps a pipe for every MiB of memory.
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.prlimit(self._process.pid, resource.RLIMIT_NOFILE, (hard, hard))
        self._rpc = rpc_pb2
        options = self._options(rpc_pb2)
        self._request = rpc_pb2.criu_req(type=rpc_pb2.DUMP, opts=options)

    def _options(self, rpc: Any) -> Any:
        pid = self.target.pid
        self._images_fd = os.open(self.images, os.O_DIRECTORY)
        self._work_fd = os.open(self.work, os.O_DIRECTORY)
        options = rpc.criu_opts(
            images_dir_fd=self._images_fd,
            work_dir_fd=self._work_fd,
            log_file=LOG,
            log_level=4,
            pid=pid,
            root=self._rootfs(),
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
            lazy_pages=self.lazy,
        )
        if self.parent:
            options.track_mem = True
            options.parent_img = self.parent
        if self.target.freezer:
            options.freeze_cgroup = self.target.freezer
        mounts = parse_mountinfo(Path(f"/proc/{pid}/mountinfo").read_text())

        def is_file(path: str) -> bool:
            inside = Path(f"/proc/{pid}/root{path}")
            return inside.exists() and not inside.is_dir()

        for key, value in external_mounts(self.target.config, mounts, is_file).items():
            options.ext_mnt.add(key=key, val=value)
        return options

    def _rootfs(self) -> str:
        return str(self.target.config["root"]["path"])

    def dump(self) -> float:
        """Dump the (frozen) container; returns as soon as the images are complete, while CRIU still
        holds the tasks (`finish`). Gives the seconds that it took.

        Raises DumpFailed with CRIU's own reason.
        """
        begun = time.monotonic()
        lost = self.streams.lost(self.target.pid)
        if lost:
            raise DumpFailed(f"the container has a new standard stream ({lost})", "try it again")
        assert self._socket
        try:
            self._socket.send(self._request.SerializeToString())
            while (script := self._next_script()) is not None:
                self._answer(True)
                if script == "post-dump":
                    return time.monotonic() - begun
        except OSError as problem:
            raise DumpFailed(f"CRIU went away: {problem.strerror}") from problem
        raise DumpFailed(f"CRIU cannot dump the container: {self.reason() or self._error}")

    def _next_script(self) -> str | None:
        """What CRIU notifies us of; None when it has ended its work (`_error`)."""
        assert self._socket
        data = self._socket.recv(1 << 16)
        if not data:
            self._error = "it ended without an answer"
            return None
        answer = self._rpc.criu_resp()
        answer.ParseFromString(data)
        if answer.type == self._rpc.NOTIFY:
            return str(answer.notify.script)
        self._error = "" if answer.success else str(answer.cr_errmsg or answer.cr_errno)
        return None

    def _answer(self, success: bool) -> None:
        assert self._socket
        reply = self._rpc.criu_req(type=self._rpc.NOTIFY, notify_success=success)
        self._socket.send(reply.SerializeToString())

    def finish(self) -> None:
        """Wait until CRIU has let go of the tasks, which are frozen as they were found.

        A skeleton dump would now offer the pages that it left out to whoever connects to a port:
        that is refused at `status-ready` (criu/page-xfer.c: cr_page_server), and CRIU then reports
        a failure, after it has cleaned up.
        """
        try:
            while (script := self._next_script()) is not None:
                self._answer(script != "status-ready")
        except OSError as problem:
            raise DumpFailed(f"CRIU went away: {problem.strerror}") from problem
        if self._error and not self.lazy:
            raise DumpFailed(f"CRIU did not end the dump well: {self.reason() or self._error}")

    def reason(self) -> str:
        try:
            return criu_reason((self.work / LOG).read_text(errors="replace"))
        except OSError:
            return ""

    def close(self) -> None:
        """End criu, if it is still there; one that dumps is waited for: killed, it would leave the
        network locked, and it freezes again at its end what it found frozen."""
        if self._socket:
            self._socket.close()
            self._socket = None
        if self._process:
            try:
                self._process.wait(timeout=END_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        for name in ("_images_fd", "_work_fd"):
            fd = self.__dict__.pop(name, None)
            if fd is not None:
                os.close(fd)
