"""known_hosts files as sshd(8) describes them: which key belongs to which host.

paramiko.HostKeys knows no patterns, no `@revoked` and only one key of each type per host; so the
files are read here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

_SSH_PORT = 22
_MARKERS = ("@revoked", "@cert-authority")


class Verdict(Enum):
    """What known_hosts says of a key that a host has shown."""

    KNOWN = "known"
    UNKNOWN = "unknown"
    CHANGED = "changed"
    REVOKED = "revoked"


@dataclass(frozen=True)
class Entry:
    """One line: the hosts it is about, the key, and the marker (`@revoked`, ... or empty)."""

    hosts: tuple[str, ...]
    key_type: str
    blob: bytes
    marker: str = ""
    path: Path | None = None

    def matches(self, name: str) -> bool:
        """Whether the line is about `name`, a lower-case host or `[host]:port`."""
        if self.hosts[0].startswith("|"):
            return _matches_hash(self.hosts[0], name)
        hit = False
        for pattern in self.hosts:
            negated = pattern.startswith("!")
            if _matches_pattern(pattern.removeprefix("!"), name):
                if negated:
                    return False
                hit = True
        return hit


@dataclass(frozen=True)
class KnownHosts:
    """The lines of all files, in the order of the files."""

    entries: tuple[Entry, ...]
    paths: tuple[Path, ...]

    def judge(self, name: str, blob: bytes) -> tuple[Verdict, Entry | None]:
        """What is to be thought of the key `blob` from the host `name` (see `lookup_name`).

        The entry is the one that decided. A host that is known by keys of other types only, and
        shows one of a new type, has CHANGED: whoever stands in between picks the type.
        """
        about = [entry for entry in self.entries if entry.matches(name)]
        same = [entry for entry in about if hmac.compare_digest(entry.blob, blob)]
        for entry in same:
            if entry.marker == "@revoked":
                return Verdict.REVOKED, entry
        for entry in same:
            if not entry.marker:
                return Verdict.KNOWN, entry
        for entry in about:
            if not entry.marker:
                return Verdict.CHANGED, entry
        return Verdict.UNKNOWN, None

    def key_types(self, name: str) -> list[str]:
        """The types of key that `name` is known by, such as `ssh-ed25519`, in file order."""
        about = [entry for entry in self.entries if not entry.marker and entry.matches(name)]
        return list(dict.fromkeys(entry.key_type for entry in about))


def load(paths: Iterable[Path]) -> KnownHosts:
    """Read the files; one that is missing or not ours to read counts as empty."""
    entries: list[Entry] = []
    tried = tuple(paths)
    for path in tried:
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        for line in text.splitlines():
            entry = parse_line(line, path)
            if entry is not None:
                entries.append(entry)
    return KnownHosts(tuple(entries), tried)


def parse_line(line: str, path: Path | None = None) -> Entry | None:
    """Read one line; None for a comment, and for what cannot be read (as ssh does)."""
    fields = line.split()
    if not fields or fields[0].startswith("#"):
        return None
    marker = fields.pop(0) if fields[0].startswith("@") else ""
    if len(fields) < 3 or (marker and marker not in _MARKERS):
        return None
    hosts, key_type, key = fields[:3]
    try:
        blob = base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        return None
    names = tuple(filter(None, hosts.split(",")))
    return Entry(names, key_type, blob, marker, path) if names and blob else None


def lookup_name(host: str, port: int) -> str:
    """The name under which ssh keeps the key of `host`: the port shows when it is not 22."""
    return host.lower() if port == _SSH_PORT else f"[{host.lower()}]:{port}"


def add(path: Path, name: str, key_type: str, blob: bytes, *, hashed: bool = False) -> None:
    """Append a key to the file, which is made (0600) with its directory (0700) if need be.

    `hashed` hides the name, as HashKnownHosts asks for. Raises `OSError`.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    shown = _hash(name, os.urandom(hashlib.sha1().digest_size)) if hashed else name
    line = f"{shown} {key_type} {base64.b64encode(blob).decode()}\n"
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    with open(fd, "ab") as file:
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":  # someone's editor left the last line open
            line = "\n" + line
        file.write(line.encode())


def fingerprint(blob: bytes) -> str:
    """The key's `SHA256:...`, as ssh-keygen -l shows it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def describe(paths: Sequence[Path]) -> str:
    """The files for a message: `a`, or `a and b`."""
    return " and ".join(str(path) for path in paths) or "no known_hosts file"


def _matches_pattern(pattern: str, name: str) -> bool:
    # Not fnmatch: for it the brackets of [host]:port are a set of characters.
    parts = [{"*": ".*", "?": "."}.get(char, re.escape(char)) for char in pattern.lower()]
    return re.fullmatch("".join(parts), name, re.DOTALL) is not None


def _matches_hash(hashed: str, name: str) -> bool:
    parts = hashed.split("|")
    if len(parts) != 4 or parts[1] != "1":
        return False
    try:
        salt = base64.b64decode(parts[2], validate=True)
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(_hash(name, salt).encode(), hashed.encode())


def _hash(name: str, salt: bytes) -> str:
    digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"
