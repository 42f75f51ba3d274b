"""The records of this host's forwards on disk, for root only: one file of JSON each."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from migrate.config_file import replace
from migrate.errors import ConfigBroken
from migrate.forward_record import Forward
from migrate.locked import locked
from transport.errors import StreamCorrupt

DIRECTORY = Path("/var/lib/migrate/forwards")


def _path(ident: str, directory: Path) -> Path:
    if not re.fullmatch(r"[a-z0-9]{8,32}", ident):  # it may come from another host
        raise StreamCorrupt(f"not the id of a forward: {ident!r}")
    return directory / f"{ident}.json"


def read_all(directory: Path | None = None) -> list[Forward]:
    """All records, oldest slot first. Raises ConfigBroken for one that cannot be read."""
    found = [_read(path) for path in sorted((directory or DIRECTORY).glob("*.json"))]
    return sorted(filter(None, found), key=lambda forward: forward.slot)


def find(ident: str, directory: Path | None = None) -> Forward | None:
    """The record with that id."""
    return _read(_path(ident, directory or DIRECTORY))


def write(forward: Forward, directory: Path | None = None) -> None:
    """Write a record, atomically and to the disk."""
    where = directory or DIRECTORY
    where.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = _path(forward.id, where)
    # It appears whole: others read without asking for the lock.
    replace(path, msgspec.json.encode(forward).decode() + "\n", like=path, mode=0o600)


def claim(forward: Forward, directory: Path | None = None) -> Forward:
    """Write a new record with a slot that no other forward of this host has."""
    where = directory or DIRECTORY
    where.mkdir(parents=True, exist_ok=True, mode=0o700)
    with locked(where):
        taken = {other.slot for other in read_all(where) if other.id != forward.id}
        slot = next(number for number in range(len(taken) + 1) if number not in taken)
        claimed = msgspec.structs.replace(forward, slot=slot)
        write(claimed, where)
    return claimed


def delete(ident: str, directory: Path | None = None) -> None:
    _path(ident, directory or DIRECTORY).unlink(missing_ok=True)


def _read(path: Path) -> Forward | None:
    """None for one that went away just now, and for an empty file, which is no record: earlier
    versions left one when they were killed."""
    try:
        text = path.read_bytes()
        return msgspec.json.decode(text, type=Forward) if text else None
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise ConfigBroken(
            f"{path} cannot be read: {problem}",
            "remove it; `nft list tables` shows whether its rules are left",
        ) from problem
