"""The front ends of this host on disk, for root only, in one file: they change together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from migrate.config_file import replace
from migrate.errors import ConfigBroken
from migrate.frontend_record import Frontend, checked
from migrate.locked import locked as folder_locked
from transport.errors import BadTarget

DIRECTORY = Path("/var/lib/migrate/frontends")
FILE = "frontends.json"


def read(directory: Path | None = None) -> list[Frontend]:
    """All of them, by name. Raises ConfigBroken when the file cannot be read."""
    path = (directory or DIRECTORY) / FILE
    try:
        found = msgspec.json.decode(path.read_bytes(), type=list[Frontend])
        return sorted((checked(one) for one in found), key=lambda one: one.name)
    except FileNotFoundError:
        return []
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, BadTarget) as problem:
        raise ConfigBroken(
            f"{path} cannot be read: {problem}",
            "remove it; `nft list table ip migrate_frontend` shows what is in force",
        ) from problem


def write(frontends: Sequence[Frontend], directory: Path | None = None) -> None:
    """Write all of them, atomically and to the disk."""
    path = _made(directory or DIRECTORY) / FILE
    # It appears whole: others read without asking for the lock.
    replace(path, msgspec.json.encode(list(frontends)).decode() + "\n", like=path, mode=0o600)


@contextlib.contextmanager
def locked(directory: Path | None = None) -> Iterator[None]:
    """Nobody else changes front ends of this host meanwhile."""
    with folder_locked(_made(directory or DIRECTORY)):
        yield


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    return directory
