"""The checkpoint on the wire: the files of a CRIU image directory, sent while CRIU writes them.

CRIU writes `pages-*.img` strictly forward (criu/page-xfer.c appends), so their pieces can go while
the dump is still going on; every other file goes when the dump has ended.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import xxhash

from migrate.errors import NoSpace
from migrate.protocol import (
    FILE_PIECE,
    NAME,
    CloseFile,
    OpenFile,
    SmallFile,
    SmallFiles,
    send,
)
from transport.channel import Channel
from transport.errors import StreamCorrupt

PIECE = 1 << 20
POLL = 0.004  # seconds between looks at files that CRIU is writing
SMALL = 16 << 10  # bytes; files up to this size travel together
SMALL_BATCH = 64
MAX_FILES = 60_000  # streams are numbered in 16 bits


class Sending:
    """One file of which pieces have been sent."""

    def __init__(self, channel: Channel, number: int, path: Path) -> None:
        self.channel = channel
        self.number = number
        self.file = path.open("rb", buffering=0)
        self.sent = 0
        self.digest = xxhash.xxh3_64()
        send(channel, OpenFile(number=number, name=path.name))

    def advance(self, *, to_end: bool) -> int:
        """Send what is there: whole pieces, and the rest `to_end`. Gives the number of bytes."""
        before = self.sent
        available = os.fstat(self.file.fileno()).st_size - self.sent
        while available >= PIECE or (to_end and available > 0):
            piece = self.file.read(min(PIECE, available))
            if not piece:
                break
            self.digest.update(piece)
            self.channel.send(FILE_PIECE, piece, stream=self.number)
            self.sent += len(piece)
            available -= len(piece)
        return self.sent - before

    def close(self) -> None:
        self.file.close()


class ImageSender:
    """Sends an image directory: `follow` in a thread during the dump, then `finish`."""

    def __init__(
        self, channel: Channel, images: Path, progress: Callable[[int], object] = lambda n: None
    ) -> None:
        self._channel = channel
        self.images = images
        self._progress = progress
        self._open: dict[str, Sending] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self.bytes = 0
        self.files = 0

    def follow(self) -> None:
        """Start sending the page files while they grow."""
        self._thread = threading.Thread(target=self._follow, name="image-stream", daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        try:
            while not self._stop.wait(POLL):
                for path in self.images.glob("pages-*.img"):
                    if path.stat().st_size - self._sent(path.name) >= PIECE:
                        self._count(self._sending(path).advance(to_end=False))
        except BaseException as failure:  # noqa: BLE001 - handed over to the main thread
            self._failure = failure

    def _sent(self, name: str) -> int:
        return self._open[name].sent if name in self._open else 0

    def _sending(self, path: Path) -> Sending:
        if path.name not in self._open:
            self._open[path.name] = Sending(self._channel, len(self._open) + 1, path)
        return self._open[path.name]

    def _count(self, amount: int) -> None:
        self.bytes += amount
        self._progress(amount)

    def stop(self) -> None:
        """End the thread; harmless when there is none."""
        self._stop.set()
        if self._thread:
            self._thread.join()
            self._thread = None

    def finish(self) -> int:
        """The dump has ended: send the rest. Gives the number of files."""
        self.stop()
        if self._failure:
            raise self._failure
        # CRIU leaves nothing but regular files here.
        small: list[SmallFile] = []
        for path in sorted(self.images.iterdir()):
            if path.name not in self._open and path.stat().st_size <= SMALL:
                small.append(SmallFile(path.name, path.read_bytes()))
                if len(small) == SMALL_BATCH:
                    self._send_small(small)
                continue
            sending = self._sending(path)
            self._count(sending.advance(to_end=True))
            digest = sending.digest.intdigest()
            send(self._channel, CloseFile(number=sending.number, size=sending.sent, digest=digest))
            sending.close()  # a hundred processes are a thousand files: more than may be open
        self._send_small(small)
        self.files += len(self._open)
        return self.files

    def _send_small(self, small: list[SmallFile]) -> None:
        if small:
            send(self._channel, SmallFiles(files=small))
            self.files += len(small)
            self._count(sum(len(file.content) for file in small))
            small.clear()

    def close(self) -> None:
        self.stop()
        for sending in self._open.values():
            sending.close()


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
