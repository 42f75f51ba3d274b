"""The record of what has been evacuated from this host, and to where: for `migrate return`.

One file per container below /var/lib/migrate/evacuated, which only root can read. It is written
before a container leaves, so that whatever happens the record names the host to look at.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import msgspec

from migrate.errors import NoSpace

DIRECTORY = Path("/var/lib/migrate/evacuated")
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")  # moby, daemon/names: of a container


class Record(msgspec.Struct, frozen=True):
    """One container. `host`: where it is, as this host calls it; `sure`: whether it has arrived.

    `new_id`: the container's id there, "" until it is sure; `at`: seconds since the epoch;
    `after`, `project`: as in `migrate.plan.Move`.
    """

    name: str
    host: str
    at: float
    sure: bool = False
    new_id: str = ""
    project: str = ""
    after: tuple[str, ...] = ()
    size: int = 0


class Records:
    """All records of this host."""

    def __init__(self, directory: Path = DIRECTORY) -> None:
        self._directory = directory

    def all(self) -> list[Record]:
        """By name; what is no record is passed over."""
        return self.read()[0]

    def read(self) -> tuple[list[Record], list[str]]:
        """All records, by name; and a sentence about each file there that is none."""
        found, broken = [], []
        for path in sorted(self._directory.glob("*.json")):
            try:
                record = msgspec.json.decode(path.read_bytes(), type=Record)
                if path != self._path(record.name):
                    raise ValueError(f"it is named otherwise: {record.name!r}")
            except (OSError, ValueError) as why:  # msgspec's and Unicode's errors are ValueErrors
                broken.append(f"{path} is no record of a container, and is not heeded: {why}")
            else:
                found.append(record)
        return found, broken

    def write(self, record: Record) -> None:
        """Put it on the disk, whole or not at all. Raises NoSpace when it cannot be written."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            fd, temporary = tempfile.mkstemp(dir=self._directory, prefix=".new")
            try:
                with os.fdopen(fd, "wb") as file:
                    file.write(msgspec.json.encode(record))
                    file.flush()
                    os.fsync(fd)
                Path(temporary).replace(self._path(record.name))
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
            self._sync()
        except OSError as error:
            raise self._unwritable(record.name, error) from error

    def drop(self, name: str) -> None:
        """It is back, or did not leave. Raises NoSpace when that cannot be written."""
        try:
            self._path(name).unlink()
            self._sync()
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self._unwritable(name, error) from error

    def _unwritable(self, name: str, error: OSError) -> NoSpace:
        return NoSpace(
            f"the record of `{name}` cannot be written: {error}",
            f"see that {self._directory} can be written to",
        )

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError(f"not a container's name: {name!r}")
        return self._directory / f"{name}.json"

    def _sync(self) -> None:
        folder = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
