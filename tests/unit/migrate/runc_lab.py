"""bin/migrate-runc in a folder of its own, over a `runc` that pretends: no root, no container.

The fake `runc` notes how it was called. Its `restore` calls the gate script at each stage as CRIU
would, with a `sleep` for the container's init, and touches `resumed` in the work directory where
CRIU would let the tasks run.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from migrate.runtime import RAN

ROOT = Path(__file__).parents[3]
ID = "c0ffee" * 10 + "c0ff"
PATIENCE = 20.0  # seconds: nothing here needs more than a few tenths

RUNC = """#!/bin/sh
printf '%s\\0' "$#" "$@" >>"{calls}"
for word; do [ "$word" = restore ] && exec "{python}" -S "{restore}" "$@"; done
exit "${{FAKE_EXIT:-0}}"
"""

# What is left of `python3 -I` is that this checkout is found.
PYTHON = """#!/bin/sh
[ "$1" = -I ] && shift
PYTHONPATH="{root}" exec "{python}" "$@"
"""

RESTORE = """
import json, os, subprocess, sys, time

argv = sys.argv[1:]
def option(name): return argv[argv.index(name) + 1]
mode, work = os.environ.get("FAKE_RESTORE", ""), option("--work-path")
def end(reason):
    with open(os.path.join(work, "restore.log"), "w") as log:
        log.write("(00.000001) Error (criu/files.c:99): " + reason + "\\n")
    sys.exit(1)
state = os.path.join(option("--root"), argv[-1])
os.makedirs(state, exist_ok=True)
if mode == "dies": end("the sky has fallen")
if mode == "silent": sys.exit(7)
if mode == "hangs": time.sleep(600)
with open(os.path.join(option("--bundle"), "config.json")) as file:
    conf = json.load(file)["annotations"]["org.criu.config"]
with open(conf) as file:
    gate = next(line.split()[1] for line in file if line.startswith("action-script "))
init = subprocess.Popen(["sleep", "600"])
with open(os.path.join(work, "init"), "w") as file: file.write(str(init.pid))
for stage in ("pre-restore", "setup-namespaces", "post-setup-namespaces", "post-restore"):
    open(os.path.join(work, "stage " + stage), "w").close()
    if mode == "dies at " + stage: end("it died at " + stage)
    if mode == "mute" : os.environ.pop("CRTOOLS_INIT_PID", None)
    env = {**os.environ, "CRTOOLS_SCRIPT_ACTION": stage}
    if mode != "mute": env["CRTOOLS_INIT_PID"] = str(init.pid)
    if subprocess.run([gate], env=env).returncode:
        init.kill()
        init.wait()
        end("the script said no")
open(os.path.join(work, "resumed"), "w").close()
"""


class FakeAgent:
    """The agent's end of `agent.sock`."""

    def __init__(self, path: Path) -> None:
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._peer: socket.socket | None = None
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            self._peer, _ = self._listener.accept()
            with self._peer.makefile("r") as lines:
                for line in lines:
                    self._events.put(json.loads(line))

    def hear(self, event: str) -> dict[str, Any]:
        """The next event; it has to be this one."""
        heard = self._events.get(timeout=PATIENCE)
        assert heard["event"] == event, heard
        return heard

    def say(self, word: str) -> None:
        assert self._peer
        self._peer.sendall(json.dumps({"do": word}).encode() + b"\n")

    def supervisor(self) -> int:
        """Its pid."""
        assert self._peer
        size = struct.calcsize("3i")
        credentials = self._peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        pid: int = struct.unpack("3i", credentials)[0]
        return pid

    def die(self) -> None:
        for end in (self._peer, self._listener):
            if end:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()


class RuncLab:
    def __init__(self, top: Path) -> None:
        self.top = top
        # Not below pytest's folder: the name of a socket has no more than 107 letters.
        self.pending = Path(tempfile.mkdtemp(prefix="pending-"), "p")
        self.directory = self.pending / ID
        self.work, self.images, self.bundle = top / "work", top / "images", top / "bundle"
        self.log, self.calls, self.pid_file = top / "log.json", top / "calls", top / "init.pid"
        self.state = top / "state"
        bin_ = top / "bin"
        for path in (self.work, self.images, self.bundle, self.state, bin_):
            path.mkdir()
        self.script = bin_ / "migrate-runc"
        shutil.copy(ROOT / "bin/migrate-runc", self.script)
        restore = top / "restore.py"
        restore.write_text(RESTORE)
        names = {"calls": self.calls, "python": sys.executable, "restore": restore, "root": ROOT}
        for name, text in (("runc", RUNC), ("python3", PYTHON)):
            (bin_ / name).write_text(text.format(**names))
            (bin_ / name).chmod(0o755)
        self.env = {
            **os.environ, "MIGRATE_RUNC": str(bin_ / "runc"), "MIGRATE_PENDING": str(self.pending),
        }  # fmt: skip
        self.agent: FakeAgent | None = None
        self._started: list[subprocess.Popen[str]] = []

    # -- what the agent lays out -----------------------------------------------------------------

    def expect_restore(self, *, agent: bool = False, **pending: Any) -> None:
        self.directory.mkdir(parents=True)
        what = {"images": str(self.images), "work": str(self.work), **pending}
        (self.directory / "pending.json").write_text(json.dumps(what))
        (self.bundle / "config.json").write_text(json.dumps({"root": {"path": "rootfs"}}))
        if agent:
            self.agent = FakeAgent(self.directory / "agent.sock")

    # -- what containerd's shim calls ------------------------------------------------------------

    def call(self, *words: str) -> subprocess.Popen[str]:
        """Call migrate-runc. Not through pipes: the container inherits them and keeps them open."""
        with (self.top / "stderr").open("a") as stderr:
            process = subprocess.Popen(
                [str(self.script), *words], env=self.env, text=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr,
            )  # fmt: skip
        self._started.append(process)
        return process

    def verb(self, verb: str, *options: str) -> subprocess.Popen[str]:
        words = ("--root", str(self.state), "--log", str(self.log), "--log-format", "json")
        return self.call(*words, verb, *options, ID)

    def create(self) -> subprocess.Popen[str]:
        return self.verb("create", "--bundle", str(self.bundle), "--pid-file", str(self.pid_file))

    def begin(self, word: str) -> tuple[FakeAgent, subprocess.Popen[str]]:
        """`create`, and the agent says `word`, up to where the namespaces are there."""
        create = self.create()
        assert self.agent
        self.agent.hear("created")
        self.agent.say(word)
        self.agent.hear("namespaces")
        return self.agent, create

    # -- what came of it -------------------------------------------------------------------------

    def code(self, process: subprocess.Popen[str]) -> int:
        return process.wait(PATIENCE)

    def said(self) -> str:
        return (self.top / "stderr").read_text()

    def logged(self) -> list[str]:
        """The messages in runc's log."""
        if not self.log.exists():
            return []
        return [json.loads(line)["msg"] for line in self.log.read_text().splitlines()]

    def seen(self) -> list[list[str]]:
        """How the fake runc was called."""
        if not self.calls.exists():
            return []
        words = iter(self.calls.read_bytes().decode().split("\0")[:-1])
        return [[next(words) for _ in range(int(count))] for count in words]

    def init(self) -> int:
        """The pid of what stands for the container."""
        return int((self.work / "init").read_text())

    def resumed(self) -> bool:
        return (self.work / "resumed").exists()

    def nothing_runs(self) -> bool:
        """The container never ran, and nothing of it is left alive."""
        return not self.resumed() and not (self.work / RAN).exists() and not lives(self.init())

    def end(self) -> None:
        if self.agent:
            self.agent.die()
        shutil.rmtree(self.pending.parent, ignore_errors=True)
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait()
        with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
            os.kill(self.init(), signal.SIGKILL)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def soon(condition: Any) -> bool:
    """Whether it comes true within PATIENCE."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def is_fifo(path: Path) -> bool:
    return stat.S_ISFIFO(path.stat().st_mode)
