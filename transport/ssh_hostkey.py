"""Is it the right host? The key that it shows, held against known_hosts."""

from __future__ import annotations

import logging

import paramiko

from transport import known_hosts as hostkeys
from transport.errors import HostKeyRejected
from transport.ssh_config import HostConfig

_log = logging.getLogger(__name__)


def prefer_known(
    transport: paramiko.Transport, known: hostkeys.KnownHosts, config: HostConfig
) -> None:
    """Ask for a key of a type that known_hosts has: any other one would look unknown."""
    options = transport.get_security_options()
    wanted: list[str] = []
    for key_type in known.key_types(_name(config)):
        wanted += ["rsa-sha2-512", "rsa-sha2-256"] if key_type == "ssh-rsa" else [key_type]
    offered = options.key_types
    first = [algorithm for algorithm in wanted if algorithm in offered]
    options.key_types = tuple(dict.fromkeys([*first, *offered]))


def check(
    key: paramiko.PKey, known: hostkeys.KnownHosts, config: HostConfig, *, accept_new: bool
) -> None:
    """Hold the key that the host has shown against known_hosts.

    With `accept_new` the key of an unknown host is recorded in the first of the files. Raises
    `HostKeyRejected`: for an unknown key otherwise, for a changed or revoked one always.
    """
    name = _name(config)
    key_type, blob = key.get_name(), key.asbytes()
    verdict, entry = known.judge(name, blob)
    if verdict is hostkeys.Verdict.UNKNOWN and config.host_key_alias is None:
        # As ssh: a key that is recorded for the host without its port will do as well.
        plain, plain_entry = known.judge(hostkeys.lookup_name(config.host, 22), blob)
        if plain in (hostkeys.Verdict.KNOWN, hostkeys.Verdict.REVOKED):
            verdict, entry = plain, plain_entry
    if verdict is hostkeys.Verdict.KNOWN:
        return
    shown = f"{key_type} {hostkeys.fingerprint(blob)}"
    if verdict is hostkeys.Verdict.UNKNOWN:
        if accept_new:
            _remember(known, name, key_type, blob, config)
            return
        raise HostKeyRejected(
            f"the key of {config.address} is unknown: {shown} is not in "
            f"{hostkeys.describe(known.paths)} under {name}"
        )
    path = entry.path if entry is not None else None
    if verdict is hostkeys.Verdict.REVOKED:
        raise HostKeyRejected(
            f"the key of {config.address}, {shown}, is marked as revoked in {path}",
            "do not connect before the owner of the host has given it a new key",
        )
    recorded = f"{entry.key_type} {hostkeys.fingerprint(entry.blob)}" if entry is not None else ""
    raise HostKeyRejected(
        f"the key of {config.address} has changed: it shows {shown}, but {path} has {recorded}",
        f"if the host was installed anew, `ssh-keygen -R '{name}' -f {path}` forgets the old key; "
        "if not, someone may be in between",
    )


def _remember(
    known: hostkeys.KnownHosts, name: str, key_type: str, blob: bytes, config: HostConfig
) -> None:
    if not known.paths:
        return
    try:
        hostkeys.add(known.paths[0], name, key_type, blob, hashed=config.hash_known_hosts)
    except OSError as error:
        _log.warning("the new key of %s is not recorded: %s", name, error)


def _name(config: HostConfig) -> str:
    return config.host_key_alias or hostkeys.lookup_name(config.host, config.port)
