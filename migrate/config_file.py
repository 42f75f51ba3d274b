"""Read and replace a configuration file of somebody else's, so that it is never half there."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from migrate.errors import ConfigBroken, HostUnfit


def read(path: Path) -> str | None:
    """The file's text with its line endings as they are, or None where there is no file.

    Raises `ConfigBroken` when it cannot be read or is not UTF-8.
    """
    try:
        return path.read_bytes().decode()  # read_text() would turn \r\n into \n
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise ConfigBroken(f"{path} is not UTF-8: {error}", "correct it by hand") from error
    except OSError as error:
        raise ConfigBroken(f"{path} cannot be read: {error.strerror}", "run as root") from error


def replace(path: Path, content: str | None, *, like: Path, mode: int = 0o644) -> None:
    """Write `content` atomically, with mode and owner of the file `like`, or `mode` where there is
    no such file; None removes the file.

    A file that has this content already is not touched. Raises OSError; see `as_root`.
    """
    if content is None:
        path.unlink(missing_ok=True)
        return
    if path.exists() and path.read_bytes() == content.encode():
        return
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(fd, "wb") as file:
            try:
                stat = like.stat()
            except FileNotFoundError:
                os.fchmod(fd, mode)
            else:
                os.fchown(fd, stat.st_uid, stat.st_gid)
                os.fchmod(fd, stat.st_mode & 0o7777)
            file.write(content.encode())
            file.flush()
            os.fsync(fd)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # else a power cut may bring the old name back
    finally:
        os.close(folder)


@contextlib.contextmanager
def as_root() -> Iterator[None]:
    """Turn an OSError of what root would be allowed to do into `HostUnfit`, which says so."""
    try:
        yield
    except OSError as error:
        remedy = "run as root" if isinstance(error, PermissionError) else ""
        raise HostUnfit(f"{error.filename}: {error.strerror}", remedy) from error
