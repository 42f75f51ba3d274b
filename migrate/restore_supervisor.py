"""Watches one restore from `create` to the running container; the agent, if any, steers it.

It outlives the runtime's `create` call, holds the gates (see migrate/runtime.py) and is the
subreaper of everything that the restore starts, so that a failed restore leaves no process.

Words with the agent, one JSON object per line over `agent.sock`:
  from here: created{rootfs, dockers}, namespaces{pid}, network, ready{pid}, resumed, running{pid},
  failed{reason}
  from the agent: restore (the images are complete) or restore-unplugged (and no socket needs the
  container's network to be restored), commit (let it run)
An agent that goes away before `commit` ends the restore; without an agent nothing is waited for.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import selectors
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import IO, Any

from migrate import netlock
from migrate.criu_log import criu_reason
from migrate.errors import CommandFailed
from migrate.network_hook import refusal, tell_dockerd
from migrate.restore_undo import kill_descendants, remove_runc_state, runc_reason
from migrate.runtime import (
    DESCRIPTORS,
    HOLDS,
    RAN,
    RESTORE_UNPLUGGED,
    TOOLS,
    Bundle,
    Call,
    Pending,
    log_line,
    search_path,
)
from migrate.sysctls import set_within

PR_SET_CHILD_SUBREAPER = 36  # include/uapi/linux/prctl.h
DOOMED = "the restore was given up"


class GaveUp(Exception):
    """The restore ends; the text says why."""


class Supervisor:
    """One restore. `run` gives the exit code of the supervising process."""

    def __init__(
        self, directory: Path, pending: Pending, call: Call, bundle: Bundle, create_fd: int
    ) -> None:
        self.directory = directory
        self.pending = pending
        self.call = call
        self.bundle = bundle
        self.create_fd: int | None = create_fd
        self.holds: dict[str, IO[str]] = {}
        self.agent: socket.socket | None = None
        self.steered = False  # by an agent, even when it is gone: nothing may run without its word
        self.child: subprocess.Popen[bytes] | None = None
        self.selector = selectors.DefaultSelector()
        self.words: list[str] = []  # what was heard and not yet taken
        self.partial = {"said": b"", "agent": b""}
        self.committed = False
        self.unlock: netlock.Opening | None = None
        self.hook = bundle.hook
        self.sysctls = bundle.sysctls
        self.dockerd: socket.socket | None = None  # where its answer to the hook will come

    # -- talking -------------------------------------------------------------------------------

    def tell(self, event: str, **facts: Any) -> None:
        """Tell the agent; one that is gone is noticed when it is listened to."""
        if self.agent:
            try:
                self.agent.sendall(json.dumps({"event": event, **facts}).encode() + b"\n")
            except OSError:
                self._agent_gone()

    def answer_create(self, line: str) -> None:
        """Answer the waiting `create` call, once."""
        if self.create_fd is not None:
            fd, self.create_fd = self.create_fd, None
            try:
                os.write(fd, line.replace("\n", " ").encode() + b"\n")
            except BrokenPipeError:
                raise GaveUp("the caller of `create` went away") from None
            finally:
                os.close(fd)

    def _agent_gone(self) -> None:
        if self.agent:
            self.selector.unregister(self.agent)
            self.agent.close()
            self.agent = None
            if not self.committed:
                self.words.append("abort agent")

    def _hear(self, source: str, data: bytes) -> None:
        *lines, self.partial[source] = (self.partial[source] + data).split(b"\n")
        for line in lines:
            word = line.decode(errors="replace")
            if word.startswith("post-resume"):
                self.tell("resumed")  # for the figures; what counts is that runc ends well
                continue
            if source == "agent":
                word = str(json.loads(word).get("do", ""))
            self.words.append(word)

    def wait_for(self, wanted: str, timeout: float) -> str:
        """Wait for a word that begins with `wanted`, keep the others. Raises GaveUp.

        `timeout` in seconds. The end of the restore counts as the word `exited CODE`.
        """
        deadline = time.monotonic() + timeout
        while True:
            for word in self.words:
                if word.startswith("abort"):
                    gone = "the agent of the migration went away" if "agent" in word else DOOMED
                    raise GaveUp(gone)
                if word.startswith(wanted):
                    self.words.remove(word)
                    return word
                if word.startswith("exited"):
                    raise GaveUp(self.reason(word))
            left = deadline - time.monotonic()
            if left <= 0:
                raise GaveUp(f"no `{wanted}` within {timeout:.0f} s")
            for key, _ in self.selector.select(left):
                self._read(key.data)

    def _read(self, source: str) -> None:
        if source == "said":
            self._hear(source, os.read(self.said, 4096))
        elif source == "child":
            assert self.child is not None
            self.selector.unregister(self.child_fd)
            self.words.append(f"exited {self.child.wait()}")
        elif source == "dockerd":
            assert self.dockerd is not None
            self.selector.unregister(self.dockerd)
            self.words.append(f"plugged {refusal(self.dockerd)}")
        elif self.agent:
            try:
                data = self.agent.recv(4096)
            except OSError:
                data = b""
            if data:
                self._hear(source, data)
            else:
                self._agent_gone()

    # -- the gates -----------------------------------------------------------------------------

    def open_gates(self) -> None:
        self.said = os.open(self.directory / "said", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self.selector.register(self.said, selectors.EVENT_READ, "said")
        for stage in HOLDS:
            hold = (self.directory / f"hold.{stage}").open("w")
            fcntl.flock(hold, fcntl.LOCK_EX)
            self.holds[stage] = hold
        if (self.directory / "agent.sock").exists():
            self.agent = socket.socket(socket.AF_UNIX)
            self.agent.connect(str(self.directory / "agent.sock"))
            self.steered = True
            self.selector.register(self.agent, selectors.EVENT_READ, "agent")

    def release(self, stage: str, ok: bool = True) -> None:
        """Let whoever waits at a gate go on, `ok`, or fail. The word is in the file that is locked:
        whoever has it open reads it even when the directory is gone."""
        if stage in self.holds:
            with self.holds.pop(stage) as hold:
                hold.write("ok\n" if ok else "")

    # -- the restore ---------------------------------------------------------------------------

    def start_restore(self, *, held: bool) -> None:
        """Start `runc restore` with the stdio of the container, which `create` was given.

        `held`: CRIU itself waits until the images are complete (bin/migrate-runc, `criu`).
        """
        path = f"{self.directory}/{TOOLS}:{search_path()}"
        if held:
            path = f"{self.directory}/bin:{path}"
        argv = [
            os.environ.get("MIGRATE_RUNC", "runc"), *self.call.globals, "restore", "--detach",
            "--image-path", self.pending.images, "--work-path", self.pending.work,
            "--bundle", self.call.options["--bundle"], "--pid-file", str(self.directory / "pid"),
            "--manage-cgroups-mode", "soft", "--empty-ns", "network", self.call.container,
        ]  # fmt: skip
        self.child = subprocess.Popen(argv, env={**os.environ, "PATH": path})
        self.child_fd = os.pidfd_open(self.child.pid)
        self.selector.register(self.child_fd, selectors.EVENT_READ, "child")
        # The container's pipes belong to the container alone.
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.close(null)

    def reason(self, word: str = "") -> str:
        """Why the restore failed, in CRIU's words, else in runc's."""
        for log in ("restore.log",):
            try:
                said = criu_reason((Path(self.pending.work) / log).read_text(errors="replace"))
            except OSError:
                said = ""
            if said:
                return f"CRIU cannot restore: {said}"
        return runc_reason(self.call.log) or f"runc restore ended ({word.partition(' ')[2]})"

    def run(self) -> int:
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        try:
            self.open_gates()
            self.tell("created", rootfs=self.bundle.rootfs, dockers=self.bundle.dockers)
            # What runc reads of the images before it starts CRIU is this one file.
            held = self.steered and Path(self.pending.images, DESCRIPTORS).exists()
            if held:
                self.start_restore(held=True)
            unplugged = False
            if self.steered:
                word = self.wait_for("restore", self.pending.images_timeout)
                unplugged = word == RESTORE_UNPLUGGED
            if not held:
                self.start_restore(held=False)
            self.release("criu")
            pid = self.wait_for("setup-namespaces", self.pending.restore_timeout).split()[1]
            self.tell("namespaces", pid=int(pid))
            self.set_sysctls(int(pid))  # before any socket is made: some are for these
            if self.pending.deaf:
                self.deafen(int(pid))
            if unplugged:  # no socket needs the network: CRIU goes on while Docker plugs it in
                self.release("setup-namespaces")
            self.plug_in(int(pid))
            self.set_sysctls(int(pid))  # of interfaces
            self.release("setup-namespaces")
            self.wait_for("post-restore", self.pending.restore_timeout)
            if self.hook:  # else `start` has told that the network is there
                self.wait_for("start", self.pending.restore_timeout)
            self.tell("ready", pid=int(pid))
            self.undeafen()
            if self.steered:
                self.wait_for("commit", self.pending.commit_timeout)
            self.committed = True
            self.release("post-restore")
            self.await_running()
            Path(self.pending.work, RAN).touch()
            # Before the agent hears of it: after its word the source ends its copy, and Docker
            # would still end this one if `start` failed.
            self.release("start")
            self.tell("running", pid=int(pid))
        except GaveUp as why:
            self.give_up(str(why))
            return 1
        except Exception as problem:  # noqa: BLE001 - whatever it is, nothing of the restore may stay
            self.give_up(f"the restore's supervisor failed: {problem!r}")
            return 1
        shutil.rmtree(self.directory, ignore_errors=True)
        return 0

    def plug_in(self, pid: int) -> None:
        """Let Docker plug the network in: as it is told to, by the hook that was taken out of the
        bundle, or else by itself, between the end of `create` and `start`."""
        if self.hook:
            try:
                self.dockerd = tell_dockerd(self.hook, pid)
            except OSError as problem:
                raise GaveUp(f"dockerd does not listen at {self.hook.socket}: {problem}") from None
            self.selector.register(self.dockerd, selectors.EVENT_READ, "dockerd")
            why = self.wait_for("plugged", self.pending.restore_timeout).partition(" ")[2]
            if why:
                raise GaveUp(f"Docker cannot plug the network in: {why}")
        self.answer_create(f"pid {pid}")
        if not self.hook:
            self.wait_for("start", self.pending.restore_timeout)
        self.tell("network")

    def set_sysctls(self, pid: int) -> None:
        """Set those that there are; the others are left for the next call."""
        try:
            self.sysctls = set_within(pid, self.sysctls)
        except OSError as problem:
            raise GaveUp(f"a sysctl of the container cannot be set here: {problem}") from None

    def deafen(self, pid: int) -> None:
        """Where packets find the container by themselves, they come as soon as Docker has plugged
        the network in. Before its sockets are there the kernel would reset their connections."""
        os.environ["PATH"] = search_path()
        try:
            netlock.deafen(pid)
        except CommandFailed as failure:
            raise GaveUp(failure.message) from failure
        self.unlock = netlock.Opening(pid)

    def undeafen(self) -> None:
        """From the sockets on until it runs CRIU's own lock holds. (CRIU makes it only after the
        network was plugged in: criu/cr-restore.c, `network_lock_internal`.)"""
        if self.unlock:
            try:
                self.unlock.do()
            except CommandFailed as failure:
                raise GaveUp(failure.message) from failure

    def await_running(self) -> None:
        word = self.wait_for("exited", self.pending.restore_timeout)
        if word != "exited 0":
            raise GaveUp(self.reason(word))

    # -- giving up -----------------------------------------------------------------------------

    def give_up(self, reason: str) -> None:
        """End the restore: no process, mount or runc state is left; then say why."""
        Path(self.pending.work, RAN).unlink(missing_ok=True)
        for stage in HOLDS:
            if stage != "start":
                self.release(stage, ok=False)
        if self.child and self.child.poll() is None:
            # The refused gate makes CRIU undo its work; a CRIU that hangs is not waited for long.
            try:
                self.child.wait(timeout=3)
            except subprocess.TimeoutExpired:
                self.child.kill()
        kill_descendants()
        # None of these may keep us from saying why: runc may hang, the disk be full, `abort` have
        # removed the directory.
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            remove_runc_state(self.call.globals, self.call.container)
        with contextlib.suppress(OSError):
            (self.directory / "failed.json").write_text(log_line(reason) + "\n")
        self.tell("failed", reason=reason)
        try:
            self.answer_create(f"error {reason}")
        except GaveUp:
            shutil.rmtree(self.directory, ignore_errors=True)
        self.release("start", ok=False)


def supervise(directory: Path, pending: Pending, call: Call, bundle: Bundle, create_fd: int) -> int:
    """Watch over one restore to its end; the exit code says whether the container runs."""
    return Supervisor(directory, pending, call, bundle, create_fd).run()
