"""After a restore that was given up: no process, mount or state of runc is left, and why it failed.

Of the standard library alone, like the supervisor that calls it.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from migrate.proc_text import lines, stat_fields, text


def kill_descendants(timeout: float = 10.0) -> None:
    """Kill all children, again and again until none lives (we are their subreaper).

    They are left as zombies on purpose: containerd's shim knows the restored init by its pid, and
    waits for ever for a death that somebody else has reaped. They become its children when we end.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        alive = False
        for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
            fields = stat_fields(child)
            if fields and fields[0] != "Z":
                alive = True
                with suppress(ProcessLookupError):
                    os.kill(int(child), signal.SIGKILL)
        if not alive:
            return
        time.sleep(0.005)


def runc_reason(log: str | None) -> str:
    """The last error in runc's JSON log, or ''."""
    try:
        lines = Path(log or "").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("level") == "error":
            return str(entry.get("msg", ""))
    return ""


def remove_runc_state(globals_: Sequence[str], container: str) -> None:
    """Undo what a killed runc left: its bind mount of the rootfs, its state directory.

    `globals_`: the global options that runc was called with.
    """
    root = globals_[globals_.index("--root") + 1] if "--root" in globals_ else "/run/runc"
    state = os.path.realpath(Path(root) / container)
    for line in lines(text("/proc/self/mountinfo")):
        mounted = line.split(" ")[4]
        if mounted.startswith(state + "/"):
            ctypes.CDLL(None).umount2(os.fsencode(mounted), 2)  # MNT_DETACH
    # Only when runc knows it: `delete` of an unknown container would log an error of its own.
    if os.path.isdir(state):
        runc = os.environ.get("MIGRATE_RUNC", "runc")
        subprocess.run(
            [runc, "--root", root, "delete", "--force", container],
            check=False, timeout=20, capture_output=True,
        )  # fmt: skip
        shutil.rmtree(state, ignore_errors=True)
