"""Container images for the tests, cut out of a lab tree: Debian's python3 and busybox."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.lab.reach import Host
from tests.lab.tree import CACHE, locked, tree

APPLETS = ("sh", "sleep", "echo", "cat", "ls", "rm", "mkdir", "seq", "setsid", "env", "kill", "ps",
           "touch", "mv", "head", "tail", "grep", "true", "false", "printf", "dd", "md5sum", "wc",
           "tee", "sed", "date", "test", "mkfifo", "chmod", "ln", "stat", "find")  # fmt: skip
# Parts of the standard library that no workload needs.
LEFT_OUT = ("test", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "__pycache__")


def workload_image(base: Path | None = None) -> Path:
    """A tar for `docker import`: python3 and busybox of a tree (trixie's), about 35 MB; cached."""
    base = base or tree("trixie")
    target = CACHE / f"image-{base.name}.tar"
    with locked(CACHE / ".image.lock"):
        if not target.exists():
            kind = base.name.partition("-")[0]
            for old in CACHE.glob(f"image-{kind}-*.tar"):
                old.unlink()
            _cut_out(base, target)
    return target


def _cut_out(base: Path, target: Path) -> None:
    root = CACHE / ".image-root"
    shutil.rmtree(root, ignore_errors=True)
    # Debian's merged /usr: /bin, /lib and /lib64 are links.
    for directory in ("usr/bin", "usr/lib", "usr/lib64", "tmp", "var", "etc", "root"):
        (root / directory).mkdir(parents=True)
    for link in ("bin", "lib", "lib64"):
        (root / link).symlink_to(f"usr/{link}")
    python = (base / "usr/bin/python3").resolve().name
    shutil.copy2(base / "usr/bin" / python, root / "usr/bin/python3")
    shutil.copy2(base / "usr/bin/busybox", root / "usr/bin/busybox")
    for applet in APPLETS:
        (root / "usr/bin" / applet).symlink_to("busybox")
    library = base / "usr/lib" / python
    shutil.copytree(library, root / "usr/lib" / python, symlinks=True,
                    ignore=shutil.ignore_patterns(*LEFT_OUT))  # fmt: skip
    modules = [f"/usr/lib/{python}/lib-dynload/{p.name}" for p in library.glob("lib-dynload/*.so")]
    listed = subprocess.run(
        ["chroot", str(base), "ldd", f"/usr/bin/{python}", *modules],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    words = {word for line in listed.splitlines() for word in line.split() if word[0] == "/"}
    for library_path in sorted(word for word in words if ".so" in word and ":" not in word):
        source = base / library_path.lstrip("/")
        into = root / library_path.lstrip("/")
        into.parent.mkdir(parents=True, exist_ok=True)
        if not into.exists():
            shutil.copy2(source.resolve(), into)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    building = target.with_suffix(".building")
    subprocess.run(["tar", "-C", str(root), "-cf", str(building), "."], check=True)
    building.rename(target)
    shutil.rmtree(root)


def import_image(host: Host, tar: Path, name: str, *changes: str) -> None:
    """`docker import` a tar of this machine on a host."""
    options = [word for change in changes for word in ("--change", change)]
    command = host.enter(["docker", "import", *options, "-", name])
    with tar.open("rb") as stream:
        subprocess.run(command, stdin=stream, check=True, capture_output=True,
                       timeout=2 * host.patience)  # fmt: skip
