"""Docker's hook that plugs a container's network in, without the start of a whole dockerd.

Up to 26, Docker names itself as a prestart hook of the container, `libnetwork-setkey`: runc then
starts the `dockerd` binary once more, in the freeze and for 70 ms, which does nothing but tell the
one that runs where the network namespace is, by a socket, and wait for `success` (moby,
libnetwork/sandbox_externalkey_unix.go; docs/criu-notes.md). A restore tells it by itself. Later
versions have no such hook.
"""

from __future__ import annotations

import json
import re
import socket
from dataclasses import dataclass
from typing import Any

NAME = "libnetwork-setkey"
SUCCESS = "success"
STAGES = ("prestart", "createRuntime")  # what `runc restore` calls (runc, criu_linux.go)
ANSWER = 1 << 10  # bytes: what Docker's own hook reads of the answer
CONNECT = 5.0  # seconds: a dockerd that hangs, with its backlog full, would not be noticed else


@dataclass(frozen=True)
class NetworkHook:
    """What it is for: the network of `container`; and the `socket` where dockerd listens."""

    socket: str
    container: str


def network_hook(config: dict[str, Any]) -> NetworkHook | None:
    """The hook, if this OCI configuration has it and no other hook that could depend on it."""
    hooks = config.get("hooks") or {}
    named = [one for stage in STAGES for one in hooks.get(stage) or []]
    if len(named) != 1 or not hooks.get("prestart"):
        return None
    args = named[0].get("args") or []
    if len(args) != 4 or args[0] != NAME:
        return None
    root = re.fullmatch(r"-exec-root=(/.*)", args[1])
    if not root or not re.fullmatch(r"[0-9a-f]+", args[3]):
        return None
    return NetworkHook(f"{root[1]}/libnetwork/{args[3]}.sock", args[2])


def without_network_hook(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration for runc when somebody else does what that hook does."""
    hooks = {stage: ones for stage, ones in config["hooks"].items() if stage != "prestart"}
    return {**config, "hooks": hooks}


def tell_dockerd(hook: NetworkHook, pid: int) -> socket.socket:
    """Say where the namespace of process `pid` is. When the network is there, the answer comes over
    the socket that is given: `refusal` reads it. Raises OSError when dockerd does not listen."""
    talk = socket.socket(socket.AF_UNIX)
    talk.settimeout(CONNECT)
    try:
        talk.connect(hook.socket)
        what = {"ContainerID": hook.container, "Key": f"/proc/{pid}/ns/net"}
        talk.sendall(json.dumps(what).encode() + b"\n")
    except OSError:
        talk.close()
        raise
    return talk


def refusal(talk: socket.socket) -> str:
    """Read dockerd's answer and close the socket. Gives '' for success, else its reason."""
    with talk:
        try:
            answer = talk.recv(ANSWER).decode(errors="replace")
        except OSError as problem:
            answer = str(problem)
    return "" if answer == SUCCESS else answer or "dockerd hung up"
