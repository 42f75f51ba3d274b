"""One `criu swrk` process and the conversation with it: CRIU's RPC (images/rpc.proto).

Started before it is needed, so that the request is all that is left to do. CRIU answers a request
once; before that it may notify of stages (`notify_scripts`), each of which is answered.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from migrate.criu_log import criu_reason
from migrate.errors import CriuUnfit, DumpFailed

END_TIMEOUT = 60.0  # seconds for a dump that nobody waits for any more to come to its end


class Swrk:
    """`start`, then `request`, then `next_stage` until it gives None; `close` always."""

    def __init__(self, images: Path, work: Path, log: str) -> None:
        """`images` gets the CRIU images, `work` the log, which is called `log`."""
        self.images = images
        self.work = work
        self.log = log
        self.error = ""  # CRIU's, once the conversation is over; '' when it went well
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._fds: list[int] = []
        self._rpc: Any = None

    @property
    def pid(self) -> int:
        """Of the criu process; only after `start`."""
        assert self._process
        return self._process.pid

    def start(self, tools: str = "") -> Any:
        """Start `criu swrk`. Gives the module of CRIU's messages. Raises CriuUnfit.

        `tools`: a directory with programs that are to stand before the system's.
        """
        try:
            from pycriu import rpc_pb2
        except ImportError as missing:
            raise CriuUnfit(
                f"pycriu cannot be imported ({missing})", "install the package python3-pycriu"
            ) from missing
        path = os.environ.get("PATH", os.defpath)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    ["criu", "swrk", str(theirs.fileno())], pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C must not end it in the middle of a dump
                    env={**os.environ, "PATH": f"{tools}:{path}" if tools else path},
                )  # fmt: skip
            except FileNotFoundError as missing:
                ours.close()
                raise CriuUnfit("criu is not installed", "install the package criu") from missing
        self._socket = ours
        # A dump keeps a pipe for every MiB of memory that it has not written yet.
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.prlimit(self._process.pid, resource.RLIMIT_NOFILE, (hard, hard))
        self._rpc = rpc_pb2
        return rpc_pb2

    def options(self, **fields: Any) -> Any:
        """A criu_opts with directories, log and `fields`."""
        images, work = (os.open(d, os.O_DIRECTORY) for d in (self.images, self.work))
        self._fds += [images, work]
        return self._rpc.criu_opts(
            images_dir_fd=images, work_dir_fd=work, log_file=self.log, log_level=4, **fields
        )

    def request(self, kind: int, options: Any) -> None:
        """Send the request that was prepared."""
        self._send(self._rpc.criu_req(type=kind, opts=options))

    def next_stage(self) -> str | None:
        """The next stage that CRIU notifies of, which it waits in; None when it has ended its work
        (`error`)."""
        assert self._socket
        try:
            data = self._socket.recv(1 << 16)
        except OSError as problem:
            raise DumpFailed(f"CRIU went away: {problem.strerror}") from problem
        if not data:
            self.error = "it ended without an answer"
            return None
        answer = self._rpc.criu_resp()
        answer.ParseFromString(data)
        if answer.type == self._rpc.NOTIFY:
            return str(answer.notify.script)
        self.error = "" if answer.success else str(answer.cr_errmsg or f"error {answer.cr_errno}")
        return None

    def answer(self, ok: bool) -> None:
        """Let CRIU go on from the stage, or refuse it."""
        self._send(self._rpc.criu_req(type=self._rpc.NOTIFY, notify_success=ok))

    def finish(self, allow: Callable[[str], bool] = lambda stage: True) -> None:
        """Answer all stages that are left, until CRIU has ended its work."""
        while (stage := self.next_stage()) is not None:
            self.answer(allow(stage))

    def _send(self, message: Any) -> None:
        assert self._socket
        try:
            self._socket.send(message.SerializeToString())
        except OSError as problem:
            raise DumpFailed(f"CRIU went away: {problem.strerror}") from problem

    def reason(self) -> str:
        """Why it failed: in the words of CRIU's log, else of its answer."""
        try:
            logged = criu_reason((self.work / self.log).read_text(errors="replace"))
        except OSError:
            logged = ""
        return logged or self.error

    def abandon(self) -> None:
        """Let whoever waits for its answer wait no longer, as if it had gone. From any thread."""
        if self._socket:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

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
        for fd in self._fds:
            os.close(fd)
        self._fds = []
