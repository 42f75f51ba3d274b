"""Doing to a file tree, at random, what containers do to theirs."""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path

NAMES = [b"a", b"b", b"c", b"d", b"e", b"log", b"caf\xe9", b"\xff\xfe", b"with space", b"new\nline"]
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service=ep
ACL = bytes.fromhex(
    "02000000" "01000700ffffffff" "0200070001000000" "04000400ffffffff" "10000700ffffffff"
    "20000400ffffffff"
)  # fmt: skip


class Mutator:
    """Random changes below `root`. `privileged`: also those that only root may make."""

    def __init__(self, root: Path, seed: int, *, privileged: bool) -> None:
        self.root = os.fsencode(root)
        self.random = random.Random(seed)
        self.privileged = privileged
        self.maps: list[mmap.mmap] = []

    def run(self, count: int) -> None:
        """Make `count` changes. One that cannot be made (a lower folder's rename) is left out."""
        for _ in range(count):
            with contextlib.suppress(OSError):
                self.random.choice(self._actions())()

    def close(self) -> None:
        for mapping in self.maps:
            mapping.close()

    def fill(self, count: int) -> None:
        """Make a tree to begin with."""
        for _ in range(count):
            with contextlib.suppress(OSError):
                self.random.choice([self.create, self.create, self.mkdir, self.symlink])()

    def _actions(self) -> list[Callable[[], None]]:
        plain = [
            self.create, self.create, self.mkdir, self.append, self.overwrite, self.rewrite_in_tick,
            self.truncate, self.sparse, self.unlink, self.remove_tree, self.replace_folder,
            self.rename, self.rename, self.save_by_rename, self.link, self.link, self.symlink,
            self.fifo, self.socket, self.chmod, self.utime, self.xattr, self.change_type,
            self.map_write, self.map_again, self.map_again, self.swap,
        ]  # fmt: skip
        return [
            *plain,
            self.chown,
            self.device,
            self.capability,
            self.acl,
        ] * self.privileged or plain

    def _all(self, wanted: Callable[[int], bool]) -> list[bytes]:
        found = [self.root] if wanted(stat.S_IFDIR) else []
        for folder, folders, files in os.walk(self.root):
            for name in sorted(folders) + sorted(files):
                path = os.path.join(folder, name)
                with contextlib.suppress(OSError):
                    if wanted(stat.S_IFMT(os.lstat(path).st_mode)):
                        found.append(path)
        return sorted(found)

    def any(self, *kinds: int) -> bytes:
        """A path of one of these types, not the root; FileNotFoundError if there is none."""
        found = [p for p in self._all(lambda k: not kinds or k in kinds) if p != self.root]
        if not found:
            raise FileNotFoundError
        return self.random.choice(found)

    def file(self) -> bytes:
        return self.any(stat.S_IFREG)

    def folder(self) -> bytes:
        return self.random.choice(self._all(lambda kind: kind == stat.S_IFDIR))

    def new(self) -> bytes:
        return os.path.join(self.folder(), self.random.choice(NAMES))

    def content(self) -> bytes:
        size = self.random.choice([0, 1, 100, 5000, 131072, 131073, 400_000, 1_500_000])
        return self.random.randbytes(64) * (size // 64) + self.random.randbytes(size % 64)

    def create(self) -> None:
        with open(self.new(), "xb") as file:
            file.write(self.content())

    def mkdir(self) -> None:
        os.mkdir(self.new(), self.random.choice([0o755, 0o700, 0o2775, 0o1777]))

    def append(self) -> None:
        with open(self.file(), "ab") as file:
            file.write(self.content())

    def overwrite(self) -> None:
        path = self.file()
        with open(path, "r+b") as file:
            file.seek(self.random.randrange(os.path.getsize(path) + 1))
            file.write(self.random.randbytes(100))

    def rewrite_in_tick(self) -> None:
        """Other content, same size, same mtime."""
        path = self.file()
        st = os.stat(path)
        with open(path, "r+b") as file:
            file.write(self.random.randbytes(st.st_size))
        os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))

    def truncate(self) -> None:
        os.truncate(self.file(), self.random.choice([0, 50, 131072, 300_000]))

    def sparse(self) -> None:
        with open(self.new(), "xb") as file:  # never opens a FIFO, which would wait
            file.seek(self.random.choice([200_000, 3_000_000]))
            file.write(b"end")
            file.truncate(file.tell() + self.random.choice([0, 1_000_000]))

    def unlink(self) -> None:
        os.unlink(self.any(stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK))

    def remove_tree(self) -> None:
        shutil.rmtree(self.any(stat.S_IFDIR))

    def replace_folder(self) -> None:
        path = self.any(stat.S_IFDIR)
        shutil.rmtree(path)
        os.mkdir(path)
        if self.random.random() < 0.5:
            with open(os.path.join(path, b"a"), "wb") as file:
                file.write(b"in a folder made anew")

    def rename(self) -> None:
        os.rename(self.any(), self.new())

    def save_by_rename(self) -> None:
        path = self.file()
        with open(path + b".tmp", "wb") as file:
            file.write(self.content())
        os.rename(path + b".tmp", path)

    def swap(self) -> None:
        one, other = self.any(), self.any()
        os.rename(one, one + b".swap")
        os.rename(other, one)
        os.rename(one + b".swap", other)

    def link(self) -> None:
        os.link(
            self.any(stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO), self.new(), follow_symlinks=False
        )

    def symlink(self) -> None:
        os.symlink(self.random.choice([b"a", b"/nowhere/\xff", b"../x"]), self.new())

    def fifo(self) -> None:
        os.mkfifo(self.new())

    def socket(self) -> None:
        path = self.new()
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path)

    def device(self) -> None:
        os.mknod(self.new(), stat.S_IFCHR | 0o640, os.makedev(1, self.random.choice([3, 5])))

    def chmod(self) -> None:
        path = self.any(stat.S_IFREG, stat.S_IFDIR, stat.S_IFIFO)
        os.chmod(path, self.random.choice([0o600, 0o4755, 0o644, 0o755, 0o711]) | 0o700)

    def chown(self) -> None:
        os.chown(self.any(), self.random.randrange(5), 7, follow_symlinks=False)

    def utime(self) -> None:
        stamp = self.random.choice([-5, 0, 1, 1_000_000_000_123_456_789])
        os.utime(self.any(), ns=(stamp, stamp), follow_symlinks=False)

    def xattr(self) -> None:
        path = self.any(stat.S_IFREG, stat.S_IFDIR)
        if self.random.random() < 0.3:
            os.removexattr(path, "user.one")
        else:
            name = self.random.choice(["user.one", "user.two"])
            os.setxattr(path, name, self.random.randbytes(20))

    def capability(self) -> None:
        os.setxattr(self.file(), "security.capability", CAPABILITY)

    def acl(self) -> None:
        path = self.any(stat.S_IFREG, stat.S_IFDIR)
        os.setxattr(path, "system.posix_acl_access", ACL)
        if os.path.isdir(path):
            os.setxattr(path, "system.posix_acl_default", ACL)

    def change_type(self) -> None:
        path = self.any()
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
        self.random.choice([os.mkdir, os.mkfifo, lambda p: os.symlink(b"t", p)])(path)

    def map_write(self) -> None:
        """Write through a shared mapping, and keep it."""
        with open(self.file(), "r+b") as file:
            if os.fstat(file.fileno()).st_size > 200:
                mapping = mmap.mmap(file.fileno(), 0)
                mapping[100:110] = self.random.randbytes(10)
                self.maps.append(mapping)

    def map_again(self) -> None:
        """Write to a page that is already dirty: no time stamp moves."""
        if self.maps:
            mapping = self.random.choice(self.maps)
            if mapping.size() >= 110:
                mapping[100:110] = self.random.randbytes(10)
