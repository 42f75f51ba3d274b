"""The part of the CRIU probe that runs inside its own pid, net and mount namespaces.

Started as `python -m migrate.criu_inside CRIU DIR` by `migrate.criu_probe`, as pid 1 of those
namespaces: when it ends, the kernel ends all it has started and takes the network away. So a
probe can neither leave a process behind nor meet a taken pid or port.

It prints one JSON object: {"ok": bool, "reason": str}.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import NoReturn

from migrate.criu_log import criu_reason
from migrate.errors import CommandFailed
from migrate.run import run, tail

ANSWER_WITHIN = 5.0  # seconds; the guinea pig answers in well under a millisecond
CRIU_WITHIN = 20.0  # seconds for one dump or restore of 10 MB; 0.1 to 0.3 are usual


class ProbeFailed(Exception):
    """One step of the probe did not do what it should; the text is the reason."""


def guinea_pig(listener: socket.socket, near: socket.socket, far: socket.socket) -> NoReturn:
    """Be a process that has what containers have: memory, a listener, an established connection.

    To everybody who connects to `listener` it says how often that has happened, and only after
    the number went through the connection between `near` and `far`.
    """
    os.setsid()  # a session of its own, as a container's first process has: no --shell-job needed
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    asked = 0
    while True:
        visitor, _ = listener.accept()
        asked += 1
        near.sendall(asked.to_bytes(8, "big"))
        visitor.sendall(far.recv(8, socket.MSG_WAITALL))
        visitor.close()


def ask(address: tuple[str, int]) -> int:
    """How often the guinea pig has been asked, this time included."""
    try:
        with socket.create_connection(address, timeout=ANSWER_WITHIN) as connection:
            answer = b""
            # Until it has closed: a connection that is still open would be dumped as well.
            while part := connection.recv(64):
                answer += part
    except OSError as error:
        raise ProbeFailed(f"the probe process does not answer: {error}") from error
    return int.from_bytes(answer, "big")


def criu(binary: str, verb: str, directory: Path, *options: str) -> None:
    """Run `criu dump` or `criu restore`; raise `ProbeFailed` with the reason of CRIU's own log."""
    log = directory / f"{verb}.log"
    try:
        result = run(
            [
                *(binary, verb, "--images-dir", str(directory), "--work-dir", str(directory)),
                *("--log-file", log.name, "-v3", "--tcp-established"),
                # The probe is about tasks and sockets. Without this CRIU also wants to save and
                # move cgroups, which runc does itself for containers.
                "--manage-cgroups=ignore",
                *options,
            ],
            timeout=CRIU_WITHIN,
            check=False,
        )
    except CommandFailed as error:
        raise ProbeFailed(f"criu {verb}: {error.message}") from error
    if not result.ok:
        text = log.read_text(errors="replace") if log.exists() else ""
        raise ProbeFailed(f"criu {verb}: {criu_reason(text) or tail(result)}")


def probe(binary: str, directory: Path) -> None:
    """Dump and restore the guinea pig; raise `ProbeFailed` when it is not the same afterwards."""
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    near = socket.create_connection(address)
    far, _ = listener.accept()
    pid = os.fork()
    if pid == 0:
        try:
            guinea_pig(listener, near, far)
        finally:
            os._exit(1)  # never on into the parent's code
    for sock in (listener, near, far):
        sock.close()
    try:
        before = ask(address)
        criu(binary, "dump", directory, "--tree", str(pid))
        reap(pid)
    except BaseException:
        os.kill(pid, signal.SIGKILL)  # not reaped yet, so this pid is still the guinea pig's
        raise
    criu(binary, "restore", directory, "--restore-detached")
    after = ask(address)
    if after != before + 1:
        raise ProbeFailed(f"the restored process has forgotten: {after} instead of {before + 1}")
    os.kill(pid, signal.SIGKILL)


def reap(pid: int) -> None:
    """Wait for the process that the dump has ended: only then is its pid free for the restore."""
    deadline = time.monotonic() + ANSWER_WITHIN
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            raise ProbeFailed("criu dump left the probe process alive")
        time.sleep(0.002)


def main() -> None:
    """Probe as the command line says, and print the outcome."""
    try:
        probe(sys.argv[1], Path(sys.argv[2]))
    except (ProbeFailed, CommandFailed, OSError) as error:
        print(json.dumps({"ok": False, "reason": str(error)}))
    else:
        print(json.dumps({"ok": True, "reason": ""}))


if __name__ == "__main__":
    main()
