"""Files of every awkward kind, and a process that remembers in memory what they must hold.

    python3 files.py WORK [IMAGE] [--no-locks]
    python3 files.py --digest WORK [IMAGE]        print the digest of what is on disk, and end

WORK is a folder for its own files (made if missing); IMAGE, a folder with files that came with the
container's image: one after the other is appended to, deleted, renamed, made private, rewritten.
In WORK it holds open a log that it appends to and reads along (by rename it begins a new one now
and then), a deleted file, and a file mapped MAP_SHARED; it creates, renames, links and deletes
files, sets user xattrs where the file system has them, and holds a flock and a POSIX lock unless
`--no-locks` (CRIU must be told to take locks along).

stdout: one JSON line per 50 ms,
    {"nonce", "tick", "files", "believed", "actual", "xattrs", "broken": [...]}
`believed` is the digest of the tree as the process remembers it, `actual` of the tree on disk: they
must be equal, and `broken` (differing files, wrong contents of open files, lost locks) empty. Ends
on SIGTERM after a last line; the tree must then have its `believed` wherever it is.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import hashlib
import json
import mmap
import os
import signal
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path

TICK = float(os.environ.get("PAUSE", "0.05"))  # seconds
LOG_LIMIT = 32 * 1024  # bytes: then a new log
MAPPED = 3 * mmap.PAGESIZE
XATTR = "user.tick"


@dataclass
class Remembered:
    """A file as it must be. Hard links are several names of one of these."""

    content: bytes = b""
    mode: int = 0o644
    xattr: str = ""
    names: set[str] = field(default_factory=set)


@dataclass
class Memory:
    """The tree as it must be: name below the roots ("work/log") -> file."""

    files: dict[str, Remembered] = field(default_factory=dict)

    def put(self, name: str, file: Remembered) -> None:
        self.drop(name)
        file.names.add(name)
        self.files[name] = file

    def drop(self, name: str) -> None:
        if name in self.files:
            self.files.pop(name).names.discard(name)

    def rename(self, old: str, new: str) -> None:
        file = self.files[old]
        self.drop(old)
        self.put(new, file)

    def describe(self) -> dict[str, list[str]]:
        return {
            name: _line(file.content, file.mode, len(file.names), file.xattr)
            for name, file in self.files.items()
        }


def describe(roots: dict[str, Path]) -> dict[str, list[str]]:
    """The tree as it is on disk, in the words of Memory.describe."""
    found = {}
    for label, root in roots.items():
        for path in root.iterdir():
            status = path.lstat()
            # An empty file is not opened: closing it would give up a POSIX lock on it (fcntl(2)).
            content = path.read_bytes() if status.st_size else b""
            try:
                xattr = os.getxattr(path, XATTR).decode()
            except OSError:
                xattr = ""
            mode = stat.S_IMODE(status.st_mode)
            found[f"{label}/{path.name}"] = _line(content, mode, status.st_nlink, xattr)
    return found


def _line(content: bytes, mode: int, links: int, xattr: str) -> list[str]:
    return [hashlib.sha256(content).hexdigest(), oct(mode), str(links), xattr]


def digest(tree: dict[str, list[str]]) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


class Workload:
    """The process's open files, and its memory of them all."""

    def __init__(self, roots: dict[str, Path], locks: bool) -> None:
        self.roots = roots
        self.work = roots["work"]
        self.memory = Memory()
        self.tick = 0
        self.broken: list[str] = []
        self.todo: list[str] = []
        if "image" in roots:
            for path in sorted(roots["image"].iterdir()):
                mode = stat.S_IMODE(path.stat().st_mode)
                self.memory.put(f"image/{path.name}", Remembered(path.read_bytes(), mode))
                self.todo.append(path.name)
        self.log = self.create("log")
        self.read_along = os.open(self.work / "log", os.O_RDONLY)
        self.read_next = 1
        self.ghost = os.open(self.work / "ghost", os.O_RDWR | os.O_CREAT, 0o644)
        os.unlink(self.work / "ghost")
        self.ghost_content = bytearray(128)
        os.pwrite(self.ghost, self.ghost_content, 0)
        self.mapped_fd = self.create("mapped", bytes(MAPPED))
        self.mapped = mmap.mmap(self.mapped_fd, MAPPED, mmap.MAP_SHARED)
        self.xattrs = self.set_xattr("mapped", "0")
        self.locks = locks
        if locks:
            self.flock = self.create("flock")
            fcntl.flock(self.flock, fcntl.LOCK_EX)
            self.posix = self.create("posix")
            fcntl.lockf(self.posix, fcntl.LOCK_EX, 10, 5)

    def create(self, name: str, content: bytes = b"") -> int:
        """Make a file and keep it open for reading and appending."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND
        fd = os.open(self.work / name, flags, 0o644)
        os.write(fd, content)
        self.memory.put(f"work/{name}", Remembered(content))
        return fd

    def set_xattr(self, name: str, value: str) -> bool:
        try:
            os.setxattr(self.work / name, XATTR, value.encode())
        except OSError as error:
            if error.errno != errno.ENOTSUP:  # tmpfs has user xattrs since Linux 6.6 only
                raise
            return False
        self.memory.files[f"work/{name}"].xattr = value
        return True

    def step(self) -> None:
        """Change something of everything."""
        self.tick += 1
        self.append()
        at = self.tick % 16 * 8
        self.ghost_content[at : at + 8] = self.tick.to_bytes(8, "big")
        os.pwrite(self.ghost, self.ghost_content[at : at + 8], at)
        # Every page in turn; the last one only every third tick.
        at = self.tick * 4104 % (MAPPED - 8)
        self.mapped[at : at + 8] = self.tick.to_bytes(8, "big")
        file = self.memory.files["work/mapped"]
        file.content = file.content[:at] + self.tick.to_bytes(8, "big") + file.content[at + 8 :]
        if self.xattrs:
            self.set_xattr("mapped", str(self.tick))
        self.churn()
        if self.todo and self.tick % 4 == 0:
            self.change_image(self.todo.pop(0), self.tick // 4 % 5)

    def append(self) -> None:
        if os.fstat(self.log).st_size > LOG_LIMIT:
            os.close(self.log)
            os.rename(self.work / "log", self.work / "log.old")
            self.memory.rename("work/log", "work/log.old")
            self.log = self.create("log")
            os.close(self.read_along)
            self.read_along = os.open(self.work / "log", os.O_RDONLY)
        line = f"line {self.tick}\n".encode()
        os.write(self.log, line)
        self.memory.files["work/log"].content += line

    def churn(self) -> None:
        """A file is born, linked, renamed and deleted, each a few ticks after the other."""
        memory, work, tick = self.memory, self.work, self.tick
        os.close(self.create(f"new-{tick}", b"n" * (tick % 7000)))
        if tick > 3:
            os.link(work / f"new-{tick - 3}", work / f"link-{tick - 3}")
            memory.put(f"work/link-{tick - 3}", memory.files[f"work/new-{tick - 3}"])
        if tick > 6:
            os.rename(work / f"new-{tick - 6}", work / f"old-{tick - 6}")
            memory.rename(f"work/new-{tick - 6}", f"work/old-{tick - 6}")
        for age, kind in ((9, "old"), (12, "link")):
            if tick > age:
                os.unlink(work / f"{kind}-{tick - age}")
                memory.drop(f"work/{kind}-{tick - age}")

    def change_image(self, name: str, what: int) -> None:
        path, key = self.roots["image"] / name, f"image/{name}"
        file = self.memory.files[key]
        if what == 0:
            with path.open("ab") as out:
                out.write(b"appended\n")
            file.content += b"appended\n"
        elif what == 1:
            path.unlink()
            self.memory.drop(key)
        elif what == 2:
            path.rename(path.with_name(f"{name}.renamed"))
            self.memory.rename(key, f"{key}.renamed")
        elif what == 3:
            path.chmod(0o600)
            file.mode = 0o600
        else:
            path.write_bytes(b"rewritten\n")
            file.content = b"rewritten\n"

    def check(self) -> str:
        """Compare all with memory; give the line to print."""
        believed, actual = self.memory.describe(), describe(self.roots)
        for name in sorted(believed.keys() | actual.keys()):
            if believed.get(name) != actual.get(name):
                self.complain(f"{name}: {actual.get(name)} instead of {believed.get(name)}")
        self.check_open_files()
        if self.locks and self.tick % 10 == 0:
            self.check_locks()
        return json.dumps(
            {
                "nonce": NONCE,
                "tick": self.tick,
                "files": len(actual),
                "believed": digest(believed),
                "actual": digest(actual),
                "xattrs": self.xattrs,
                "broken": self.broken,
            }
        )

    def check_open_files(self) -> None:
        if os.pread(self.ghost, 4096, 0) != self.ghost_content:
            self.complain("the deleted file has changed")
        if os.fstat(self.ghost).st_nlink != 0:
            self.complain("the deleted file has a name again")
        if self.mapped[:] != os.pread(self.mapped_fd, MAPPED, 0):
            self.complain("the mapping is not the file")
        for fd, name in ((self.log, "log"), (self.mapped_fd, "mapped")):
            held, named = os.fstat(fd), os.stat(self.work / name)
            if (held.st_dev, held.st_ino) != (named.st_dev, named.st_ino):
                self.complain(f"the open {name} is not the file of that name")
        # The reader's own place in the file: only the new line is left to read.
        if (line := os.read(self.read_along, 4096)) != f"line {self.read_next}\n".encode():
            self.complain(f"read {line!r} instead of line {self.read_next}")
        self.read_next = self.tick + 1

    def check_locks(self) -> None:
        """Somebody else must not get them: another open file, and (POSIX) another process."""
        with open(self.work / "flock", "rb") as other, contextlib.suppress(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.complain("the flock is lost")
        child = os.fork()
        if child == 0:
            try:
                fcntl.lockf(self.posix, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 7)
            except OSError:
                os._exit(0)
            os._exit(1)
        if os.waitpid(child, 0)[1] != 0:
            self.complain("the POSIX lock is lost")

    def complain(self, text: str) -> None:
        if len(self.broken) < 20:
            self.broken.append(f"tick {self.tick}: {text}")


NONCE = os.urandom(8).hex()


def main() -> None:
    parser = argparse.ArgumentParser(description="Files of every awkward kind.")
    parser.add_argument("work", type=Path)
    parser.add_argument("image", type=Path, nargs="?")
    parser.add_argument("--no-locks", action="store_true")
    parser.add_argument("--digest", action="store_true")
    args = parser.parse_args()
    roots = {"work": args.work} | ({"image": args.image} if args.image else {})
    if args.digest:
        print(digest(describe(roots)))
        return
    os.umask(0o022)
    args.work.mkdir(parents=True, exist_ok=True)
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    workload = Workload(roots, locks=not args.no_locks)
    while not ended:
        workload.step()
        print(workload.check(), flush=True)
        time.sleep(TICK)


if __name__ == "__main__":
    main()
