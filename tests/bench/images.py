"""The images of the benchmark's containers, made from Debian's packages of the tree `bench`."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from examples.quake.build_image import build as build_quake
from tests.lab.tree import CACHE, locked, tree

HEART = Path(__file__).with_name("workload") / "heart.c"
FLAVOUR = "bench"


def image(kind: str) -> Path:
    """A tar of a root file system for `heart`, `redis` or `quake`; cached."""
    if kind == "quake":
        return build_quake(CACHE / "bench-quake.tar")
    base = tree(FLAVOUR)
    recipe = hashlib.sha256(HEART.read_bytes() + Path(__file__).read_bytes()).hexdigest()[:12]
    target = CACHE / f"benchimage-{kind}-{base.name}-{recipe}.tar"
    with locked(CACHE / ".benchimage.lock"):
        if not target.exists():
            for old in CACHE.glob(f"benchimage-{kind}-*"):
                old.unlink()
            with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
                root = Path(scratch) / "root"
                root.mkdir()
                (heart if kind == "heart" else redis)(base, root)
                building = Path(scratch) / "image.tar"
                subprocess.run(
                    ["tar", "-C", str(root), "--owner=0", "--group=0", "-cf", str(building), "."],
                    check=True,
                )
                building.rename(target)
    return target


def heart(base: Path, root: Path) -> None:
    """One static program, compiled by the tree's compiler: this machine may have none."""
    source = HEART.read_text()
    command = "cd /tmp && gcc -O2 -static -x c -o bench-heart - && cat bench-heart"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", 'mount -t tmpfs tmp "$0/tmp" && exec chroot "$0" sh -c "$1"',
         str(base), command],
        input=source.encode(), capture_output=True, check=False, timeout=120,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"heart.c does not compile: {done.stderr.decode()}")
    (root / "heart").write_bytes(done.stdout)
    (root / "heart").chmod(0o755)
    folders(root, "tmp", "proc", "sys", "dev", "etc")


def redis(base: Path, root: Path) -> None:
    folders(root, "tmp", "proc", "sys", "dev", "etc", "usr/bin", "usr/lib", "usr/lib64")
    for link in ("lib", "lib64", "bin"):
        (root / link).symlink_to(f"usr/{link}")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/false\n")
    server = (base / "usr/bin/redis-server").resolve()
    shutil.copy2(server, root / "usr/bin/redis-server")
    listed = subprocess.run(
        ["chroot", str(base), "ldd", "/usr/bin/redis-server"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for word in listed.split():
        if word.startswith("/") and ".so" in word:
            into = root / word.lstrip("/")
            into.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2((base / word.lstrip("/")).resolve(), into)


def folders(root: Path, *names: str) -> None:
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True)
