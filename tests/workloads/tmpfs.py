"""Fills a tmpfs once, and says again and again what is in it.

    python3 tmpfs.py DIRECTORY MIB

Writes MIB MiB of random bytes, an empty folder, a link and modes of its own into DIRECTORY, and as
much as 1 MiB into /dev/shm; then prints "N DIGEST" per line, N = 1, 2, 3..., DIGEST of all names,
modes and contents as they are now. A tmpfs that did not come along has another digest.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path


def fill(top: Path, size: int) -> None:
    (top / "folder" / "empty").mkdir(parents=True)
    (top / "blob").write_bytes(os.urandom(size))
    (top / "secret").write_text("x")
    (top / "secret").chmod(0o600)
    (top / "link").symlink_to("secret")
    top.chmod(0o1770)


def digest(*tops: Path) -> str:
    found = hashlib.sha256()
    for top in tops:
        for path in [top, *sorted(top.rglob("*"))]:
            found.update(f"{path} {path.lstat().st_mode:o}\n".encode())
            if path.is_file():
                found.update(path.read_bytes())
    return found.hexdigest()


def main() -> int:
    top, shm = Path(sys.argv[1]), Path("/dev/shm")
    fill(top, int(sys.argv[2]) << 20)
    fill(shm, 1 << 20)
    number = 0
    while True:
        number += 1
        print(number, digest(top, shm), flush=True)
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
