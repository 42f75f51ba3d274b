"""The journal: what a migration has done on this host and how to undo it, on disk.

One file of JSON lines per session under /var/lib/migrate/journal. Each undo step is written and
fsynced *before* the thing is done, so that whoever reads the file after a crash (the guard, or
`migrate recover`) can undo everything that may have been done. Undo steps are idempotent.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Mapping
from io import FileIO
from pathlib import Path
from typing import IO, Any

import msgspec

from migrate.errors import Busy
from migrate.hooks import Hook
from migrate.locked import locked
from migrate.undo import Step, Unmount, shared, undo

DIRECTORY = Path("/var/lib/migrate/journal")


class Header(msgspec.Struct, frozen=True, tag="header"):
    """`role`: `source` or `destination`; `container`: full id at the source; `peer`: the host,
    `peer_id`: its `Greeting.host_id`.

    Of the source alone: `freezer`, its freezer cgroup, `keep`, whether it stays, stopped, and
    `hooks` with what they are `told`.
    Of the destination alone: `policy`, the restart policy that the container gets once it runs;
    `relies`: what it counts on to stay here, as `undo.shared` calls it.
    """

    session: str
    role: str
    container: str
    name: str
    peer: str
    started: float
    freezer: str = ""
    keep: bool = False
    policy: dict[str, Any] = {}
    peer_id: str = ""
    hooks: tuple[Hook, ...] = ()
    told: dict[str, str] = {}
    relies: tuple[str, ...] = ()


def restarts(policy: Mapping[str, Any]) -> bool:
    """Whether Docker would start a container of that restart policy again by itself."""
    return str(policy.get("Name") or "no") != "no"


class Push(msgspec.Struct, frozen=True, tag="push"):
    number: int
    step: Step


class Undone(msgspec.Struct, frozen=True, tag="undone"):
    number: int


class Phase(msgspec.Struct, frozen=True, tag="phase"):
    """The migration has come to a phase (DESIGN.md), or to one of the marks below."""

    name: str
    at: float


# Marks. COMMIT_SENT: (source) the destination may own the container; only it can tell.
# CONFIRMED: (source) it has said that the container runs there, and has that on its disk.
# OWNED: (destination) the restored container was told to run; RUNNING: it does.
COMMIT_SENT = "commit-sent"
CONFIRMED = "confirmed"
OWNED = "owned"
RUNNING = "running"

Line = Header | Push | Undone | Phase
_decoder = msgspec.json.Decoder(Line)
_encoder = msgspec.json.Encoder()


class Journal:
    """The journal of one session, open for writing; holds a lock, so that only one acts on it."""

    def __init__(self, path: Path, file: FileIO, header: Header) -> None:
        self.path = path
        self.header = header
        self.phases: list[str] = []
        self._file = file
        self._steps: dict[int, Step] = {}
        self._next = 0

    @classmethod
    def create(cls, header: Header, directory: Path = DIRECTORY) -> Journal:
        """Begin the journal of a new session. Raises Busy when its container has one already."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with locked(directory):  # two that begin at once must not both find the container free
            for other in read_all(directory):
                if (other.role, other.container) == (header.role, header.container):
                    raise Busy(f"container {header.name} is in migration {other.session} already")
            path = directory / f"{header.session}.{header.role}.jsonl"
            file = path.open("x+b", buffering=0)
            fcntl.flock(file, fcntl.LOCK_EX)
            journal = cls(path, file, header)
            try:
                journal._write(header)
            except OSError:  # a full disk: nothing is begun, so nothing is to be left
                journal.close(finished=True)
                raise
        return journal

    @classmethod
    def reopen(cls, path: Path) -> Journal:
        """Take over the journal of a session whose process has died.

        Raises Busy while another process acts on it, FileNotFoundError when it is gone.
        """
        file = path.open("r+b", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise Busy(f"migration {path.name.partition('.')[0]} is still under way") from None
        if os.fstat(file.fileno()).st_nlink == 0:  # finished between our open and our lock
            file.close()
            raise FileNotFoundError(path)
        lines = _read(file)
        _cut_torn_line(file)
        if not lines or not isinstance(lines[0], Header):
            file.close()
            path.unlink(missing_ok=True)  # died while it wrote the very first line: nothing done
            raise FileNotFoundError(path)
        journal = cls(path, file, lines[0])
        for line in lines:
            if isinstance(line, Push):
                journal._steps[line.number] = line.step
                journal._next = line.number + 1
            elif isinstance(line, Undone):
                journal._steps.pop(line.number, None)
            elif isinstance(line, Phase):
                journal.phases.append(line.name)
        return journal

    @property
    def steps(self) -> list[Step]:
        """The undo steps that are noted, first one first."""
        return [self._steps[number] for number in sorted(self._steps)]

    def _write(self, line: Line, sync: bool = True) -> None:
        end = self._file.seek(0, os.SEEK_END)
        rest = memoryview(_encoder.encode(line) + b"\n")
        try:
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError:  # a full disk: half a line would spoil the next one, too
            with contextlib.suppress(OSError):
                self._file.truncate(end)
            raise
        if sync:
            os.fdatasync(self._file.fileno())

    def phase(self, name: str, *, sync: bool = True) -> None:
        """Note a phase. `sync=False` inside the freeze, where a later `sync()` follows."""
        self.phases.append(name)
        self._write(Phase(name, time.time()), sync)

    def sync(self) -> None:
        os.fdatasync(self._file.fileno())

    def push(self, step: Step, *, sync: bool = True) -> int:
        """Note how to undo what is about to be done; gives a number for `drop`."""
        number = self._next
        self._next += 1
        self._steps[number] = step
        self._write(Push(number, step), sync)
        return number

    def drop(self, number: int) -> None:
        """What was pushed needs no undo any more: it was undone, or is to stay."""
        if self._steps.pop(number, None) is not None:
            self._write(Undone(number), sync=False)

    def rollback(self, report: Callable[[str], Any] = lambda text: None) -> list[str]:
        """Undo all steps, last first. Gives the sentences of those that failed; they stay noted.

        What another migration to this host counts on is left to it.
        """
        failed = []
        for number in sorted(self._steps, reverse=True):
            step = self._steps[number]
            try:
                report(type(step).__name__)
                if not (what := shared(step)) or what not in self._relied():
                    undo(step)
            except Exception as problem:  # noqa: BLE001 - the other steps must be tried all the same
                failed.append(f"{type(step).__name__}: {problem}")
            else:
                # A full disk must not stop us (the next step may be the one that thaws): what is
                # not noted as undone is undone once more by whoever reads this, which is harmless.
                with contextlib.suppress(OSError):
                    self.drop(number)
        return failed

    def _relied(self) -> set[str]:
        """What other migrations to this host count on."""
        others = (h for h in read_all(self.path.parent) if h.session != self.header.session)
        return {thing for other in others for thing in other.relies}

    def tidy(self) -> None:
        """The migration stands: of the undo steps do only those that free memory."""
        for number, step in sorted(self._steps.items(), reverse=True):
            if isinstance(step, Unmount):
                undo(step)
                self.drop(number)

    def close(self, *, finished: bool) -> None:
        """Close; with `finished` nothing is left to do and the file goes."""
        if finished:
            self.path.unlink(missing_ok=True)
        self._file.close()


def _cut_torn_line(file: FileIO) -> None:
    """Cut off what a crash left of the last line: the next line must not become part of it."""
    file.seek(0)
    text = file.read()
    whole = text.rfind(b"\n") + 1
    if whole < len(text):
        file.truncate(whole)


def _read(file: IO[bytes] | FileIO) -> list[Line]:
    file.seek(0)
    lines: list[Line] = []
    for raw in file:
        # A torn last line is that of a step not yet begun. A power cut can leave any bytes, and for
        # what is no UTF-8 msgspec raises no DecodeError.
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            lines.append(_decoder.decode(raw))
    return lines


def read_all(directory: Path = DIRECTORY) -> list[Header]:
    """The headers of all journals on this host, of live and of dead sessions."""
    headers = []
    for path in sorted(directory.glob("*.jsonl")):
        try:
            with path.open("rb") as file:
                lines = _read(file)
        except OSError:
            continue
        if lines and isinstance(lines[0], Header):
            headers.append(lines[0])
    return headers


def find(session: str, role: str, directory: Path = DIRECTORY) -> Path:
    return directory / f"{session}.{role}.jsonl"
