"""Which keys to show to a host: those of the agent, and those in files without a passphrase."""

from __future__ import annotations

import base64
import binascii
import contextlib
import socket
from collections.abc import Generator
from pathlib import Path

import paramiko
from paramiko.agent import AgentSSH

from transport.errors import AuthenticationFailed
from transport.ssh_config import HostConfig

_KEY_CLASSES: tuple[type[paramiko.PKey], ...] = (
    paramiko.Ed25519Key,
    paramiko.ECDSAKey,
    paramiko.RSAKey,
)
_AGENT_TIMEOUT = 30.0  # seconds: an agent may ask its owner before it signs


def authenticate(transport: paramiko.Transport, config: HostConfig) -> None:
    """Log in with the first key that the host accepts; never asks for a password or passphrase.

    Raises `AuthenticationFailed`, with the keys that were tried.
    """
    who = f"{config.user}@{config.host}"
    tried: list[str] = []
    locked: list[str] = []
    reason = ""
    with contextlib.closing(_keys(config, locked)) as keys:
        for label, key in keys:
            tried.append(label)
            try:
                also = transport.auth_publickey(config.user, key)
            except paramiko.BadAuthenticationType as error:
                allowed = ", ".join(error.allowed_types)
                raise AuthenticationFailed(
                    f"{who} does not let anyone in by key (it allows: {allowed})"
                ) from error
            except (paramiko.SSHException, EOFError, OSError) as error:
                reason = "" if _is_plain_refusal(error) else f" ({error})"
                if not transport.is_active():  # such as MaxAuthTries of sshd
                    reason = f" (the connection ended at key {len(tried)}: {error})"
                    break
                continue
            if transport.is_authenticated():
                return
            raise AuthenticationFailed(f"{who} wants {', '.join(also)} beyond a key")
    hint = f"; passphrase needed, so add to the agent: {', '.join(locked)}" if locked else ""
    if not tried:
        raise AuthenticationFailed(f"there is no key to show to {who}{hint}")
    raise AuthenticationFailed(f"{who} accepted none of {', '.join(tried)}{reason}{hint}")


def _is_plain_refusal(error: BaseException) -> bool:
    return type(error) is paramiko.AuthenticationException


def _keys(
    config: HostConfig, locked: list[str]
) -> Generator[tuple[str, paramiko.PKey], None, None]:
    """The keys in ssh's order: agent keys that the config names, other agent keys, key files.

    Files that need a passphrase are put into `locked` instead.
    """
    public = {path: _public_blob(path) for path in config.identities}
    named = set(public.values())
    shown: set[bytes] = set()
    with contextlib.ExitStack() as stack:
        agent_keys = _agent_keys(config.agent, stack)
        agent_keys.sort(key=lambda key: key.asbytes() not in named)
        for key in agent_keys:
            if not config.identities_only or key.asbytes() in named:
                shown.add(key.asbytes())
                yield f"agent key {getattr(key, 'comment', '') or key.get_name()}", key
        for path in config.identities:
            if public[path] in shown:
                continue
            file_key = _load(path, locked)
            if file_key is not None and file_key.asbytes() not in shown:
                shown.add(file_key.asbytes())
                yield str(path), file_key


def _agent_keys(path: str | None, stack: contextlib.ExitStack) -> list[paramiko.PKey]:
    """What the agent at `path` has; nothing when there is no agent. It is closed with `stack`."""
    if not path:
        return []
    agent = AgentSSH()
    try:
        sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        sock.settimeout(_AGENT_TIMEOUT)
        sock.connect(path)
        # paramiko.Agent is this, for the path in the environment only.
        agent._connect(sock)  # type: ignore[attr-defined]
    except (OSError, paramiko.SSHException):
        return []
    return list(agent.get_keys())


def _public_blob(path: Path) -> bytes | None:
    """The public half of an identity from the .pub file beside it, to find it in the agent."""
    for candidate in (Path(f"{path}.pub"), path):
        try:
            fields = candidate.read_text(encoding="utf-8", errors="replace").split()
            if len(fields) >= 2 and not fields[0].startswith("-"):
                return base64.b64decode(fields[1], validate=True)
        except (OSError, binascii.Error, ValueError):
            continue
    return None


def _load(path: Path, locked: list[str]) -> paramiko.PKey | None:
    if not path.is_file():
        return None
    for kind in _KEY_CLASSES:
        try:
            return kind.from_private_key_file(str(path))
        except paramiko.PasswordRequiredException:
            locked.append(str(path))
            return None
        # Not of this kind, or not a private key at all.
        except (paramiko.SSHException, OSError, ValueError):
            continue
    return None
