"""The checkpoint on the wire: the files of a CRIU image directory, but for the memory in it.

What is in `pages-*.img` goes page by page (migrate/memory_source.py), as far as the destination
does not have it yet.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import xxhash

from migrate.errors import NoSpace
from migrate.messages import CloseFile, OpenFile, SmallFile, SmallFiles
from migrate.protocol import FILE_PIECE, NAME, send
from transport.channel import Channel
from transport.errors import StreamCorrupt

PIECE = 1 << 20
SMALL = 16 << 10  # bytes; files up to this size travel together
SMALL_BATCH = 64
MAX_FILES = 60_000  # streams are numbered in 16 bits


class ImageSender:
    """Sends what a dump has written, but for the pages."""

    def __init__(
        self, channel: Channel, images: Path, progress: Callable[[int], object] = lambda n: None
    ) -> None:
        self._channel = channel
        self.images = images
        self._progress = progress
        self.bytes = 0
        self.files = 0
        self._large = 0

    def send(self) -> int:
        """The dump has ended: send its files. Gives their number."""
        # CRIU leaves nothing here but regular files, and `parent`.
        small: list[SmallFile] = []
        for path in sorted(self.images.iterdir()):
            if path.name.startswith("pages-") or path.is_symlink():
                continue
            if path.stat().st_size > SMALL:
                self._send_large(path)
                continue
            small.append(SmallFile(path.name, path.read_bytes()))
            if len(small) == SMALL_BATCH:
                self._send_small(small)
        self._send_small(small)
        return self.files

    def _send_large(self, path: Path) -> None:
        self._large += 1
        number, size, digest = self._large, 0, xxhash.xxh3_64()
        send(self._channel, OpenFile(number=number, name=path.name))
        with path.open("rb", buffering=0) as file:
            while piece := file.read(PIECE):
                digest.update(piece)
                self._channel.send(FILE_PIECE, piece, stream=number)
                size += len(piece)
                self._count(0, len(piece))
        self._count(1, 0)
        send(self._channel, CloseFile(number=number, size=size, digest=digest.intdigest()))

    def _send_small(self, small: list[SmallFile]) -> None:
        if small:
            send(self._channel, SmallFiles(files=small))
            self._count(len(small), sum(len(file.content) for file in small))
            small.clear()

    def _count(self, files: int, amount: int) -> None:
        self.files += files
        self.bytes += amount
        self._progress(amount)


class _Receiving:
    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self.fd = os.open(path, flags, 0o600)
        self.size = 0
        self.digest = xxhash.xxh3_64()


class ImageReceiver:
    """Writes what an ImageSender sends into `images`, at most `limit` bytes in all.

    Hostile input: a name outside the pattern, a second file of a name, a piece of no open file, too
    much, a wrong size or digest raise StreamCorrupt; a full tmpfs raises NoSpace.
    """

    def __init__(self, images: Path, limit: int) -> None:
        self._images = images
        self._left = limit
        self._open: dict[int, _Receiving] = {}
        self._numbers: set[int] = set()
        self.files = 0

    def open(self, message: OpenFile) -> None:
        if message.number in self._numbers or not 0 < message.number <= MAX_FILES:
            raise StreamCorrupt(f"checkpoint file number {message.number} is out of order")
        self._numbers.add(message.number)
        self._begin(message.number, message.name)

    def _begin(self, number: int, name: str) -> None:
        if not NAME.fullmatch(name) or name == "parent":
            raise StreamCorrupt(f"a checkpoint has no file called {name!r}")
        try:
            self._open[number] = _Receiving(self._images / name)
        except FileExistsError:
            raise StreamCorrupt(f"the checkpoint file {name} came twice") from None
        except OSError as problem:
            raise NoSpace(f"the checkpoint cannot be stored here: {problem.strerror}") from problem

    def small_files(self, message: SmallFiles) -> None:
        for file in message.files:
            number = -1 - len(self._numbers)  # theirs are positive
            self._numbers.add(number)
            self._begin(number, file.name)
            self.piece(number, file.content)
            os.close(self._open.pop(number).fd)
            self.files += 1
            if self.files > MAX_FILES:
                raise StreamCorrupt("more files than any checkpoint has")

    def piece(self, number: int, payload: bytes) -> None:
        file = self._open.get(number)
        if file is None:
            raise StreamCorrupt(f"a piece of checkpoint file {number}, which is not open")
        self._left -= len(payload)
        if self._left < 0:
            raise NoSpace("the checkpoint is larger than the space set aside for it here")
        view = memoryview(payload)
        try:
            while view:
                view = view[os.write(file.fd, view) :]
        except OSError as problem:
            raise NoSpace(f"the checkpoint cannot be stored here: {problem.strerror}") from problem
        file.digest.update(payload)
        file.size += len(payload)

    def close_file(self, message: CloseFile) -> None:
        file = self._open.pop(message.number, None)
        if file is None:
            raise StreamCorrupt(f"the end of checkpoint file {message.number}, which is not open")
        os.close(file.fd)
        if (file.size, file.digest.intdigest()) != (message.size, message.digest):
            raise StreamCorrupt(f"checkpoint file {message.number} did not arrive as it was sent")
        self.files += 1

    def complete(self, files: int) -> None:
        """Check that all `files` have arrived."""
        if self._open or self.files != files:
            raise StreamCorrupt(f"{self.files} of {files} checkpoint files have arrived")

    def close(self) -> None:
        for file in self._open.values():
            os.close(file.fd)
        self._open.clear()
