"""Docker's own files in a container: /etc/hosts and /etc/resolv.conf.

They are bind mounts of files that dockerd makes anew for every container, so that they are neither
in the writable layer nor in CRIU's images. What the container has written into them goes along.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import msgspec

from migrate.runtime import DOCKERS_FILES
from transport.errors import StreamCorrupt

LIMIT = 1 << 16  # bytes of either; a resolver reads no more sense out of a longer one
BYTES = "latin-1"  # each of them as it is, whatever a container has written
# As dockerd writes them (moby, libnetwork/etchosts; `fe00::0` until 27).
USUAL = (
    "127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback", "fe00::0 ip6-localnet",
    "fe00:: ip6-localnet", "ff00::0 ip6-mcastprefix", "ff00:: ip6-mcastprefix",
    "ff02::1 ip6-allnodes", "ff02::2 ip6-allrouters",
)  # fmt: skip


class Written(msgspec.Struct, frozen=True):
    """`hosts`: the lines that a container has added; `resolver`: all of resolv.conf, when it is not
    as dockerd made it."""

    hosts: tuple[str, ...] = ()
    resolver: str | None = None


def written(container: Mapping[str, Any]) -> Written:
    """What a running container (its inspect) has written. A file that is not there has nothing."""
    hosts = _read(container.get("HostsPath"))
    resolver, digest = (_read(container.get("ResolvConfPath"), end) for end in ("", ".hash"))
    changed = bool(digest) and not digest.strip().endswith(_sha256(resolver))
    return Written(tuple(added(hosts, dockers_lines(container))), resolver if changed else None)


def added(hosts: str, dockers: Collection[str]) -> Iterator[str]:
    """The lines of a hosts file that are not `dockers`: words with one blank between them; `*` is
    any address."""
    for line in hosts.split("\n"):
        words = line.split()
        if words and not {" ".join(words), " ".join(["*", *words[1:]])} & {*dockers}:
            yield line


def dockers_lines(container: Mapping[str, Any]) -> set[str]:
    """What dockerd writes into the hosts file of a container: the usual, the container's own
    addresses, and what `--add-host` says."""
    config = container["Config"]
    host, domain = str(config.get("Hostname") or ""), str(config.get("Domainname") or "")
    names = f"{host}.{domain} {host}" if domain else host
    found = set(USUAL)
    networks = (container.get("NetworkSettings") or {}).get("Networks") or {}
    for endpoint in networks.values():
        for key in ("IPAddress", "GlobalIPv6Address"):
            if address := (endpoint or {}).get(key):
                found.add(f"{address} {names}")
    for extra in container["HostConfig"].get("ExtraHosts") or ():
        name, _, address = str(extra).partition(":")
        found.add(f"{'*' if address == 'host-gateway' else address.strip('[]')} {name}")
    return found


def bring(paths: Mapping[str, str], what: Written) -> None:
    """Write the same into the files of a container here; `paths`: where each of DOCKERS_FILES is.
    They stay the files that they are, since they are mounted. Raises OSError."""
    if any("\n" in line for line in what.hosts):
        raise StreamCorrupt("a line of a hosts file is none")
    if max(sum(map(len, what.hosts)), len(what.resolver or "")) > LIMIT:
        raise StreamCorrupt("a hosts file or resolv.conf is too long")
    hosts, resolver = (paths.get(name) for name in DOCKERS_FILES)
    if hosts and what.hosts:
        there = {" ".join(line.split()) for line in _read(hosts).split("\n")}
        lines = added("\n".join(what.hosts), there)
        _write(hosts, "".join(f"{line}\n" for line in lines), os.O_APPEND)
    if resolver and what.resolver is not None:
        _write(resolver, what.resolver, os.O_TRUNC)


def _read(path: Any, end: str = "") -> str:
    """As dockerd names it; '' for no file, and for one that nobody can have meant."""
    try:
        with open(f"{path or ''}{end}", encoding=BYTES, newline="") as file:
            text = file.read(LIMIT + 1)
    except OSError:
        return ""
    return text if len(text) <= LIMIT else ""


def _write(path: str, text: str, how: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | how)
    with os.fdopen(fd, "w", encoding=BYTES, newline="") as file:
        file.write(text)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode(BYTES)).hexdigest()
