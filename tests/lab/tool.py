"""The tool under test, installed into the hosts' tree by the script that users run."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.lab.tree import CACHE, locked, tree

REPO = Path(__file__).resolve().parents[2]
KEPT = 8  # layers of a flavour, of some MB each
SHIPPED = ("migrate", "transport", "bin", "pyproject.toml", "install.sh", "README.md", "LICENSE")


def source_digest() -> str:
    """Of every file that ends up on a host."""
    digest = hashlib.sha256()
    for top in SHIPPED:
        path = REPO / top
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            if "__pycache__" not in file.parts:
                digest.update(str(file.relative_to(REPO)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def layer(flavour: str) -> Path:
    """An overlay layer for `flavour` with the tool installed; built when the source has changed."""
    return layer_over(tree(flavour), flavour)


def layer_over(base: Path, kind: str) -> Path:
    """The same over any tree; `kind` names the tree's sort, of which the newest layers are kept."""
    target = CACHE / f"tool-{kind}-{base.name}-{source_digest()}"
    with locked(CACHE / f".tool-{kind}.lock"):
        if not target.exists():
            _forget_old(kind)
            _install(base, target)
    return target


def _forget_old(kind: str) -> None:
    """Remove layers but the newest: a lab of another checkout may still stand on them."""
    layers = sorted(CACHE.glob(f"tool-{kind}-*"), key=lambda path: path.stat().st_ctime)
    for old in layers[: -KEPT + 1]:
        shutil.rmtree(old, ignore_errors=True)


def wheel(into: Path) -> Path:
    """Build the wheel of this checkout."""
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(into),
         str(REPO)],
        check=True,
        timeout=300,
    )  # fmt: skip
    (built,) = into.glob("*.whl")
    return built


def _install(base: Path, target: Path) -> None:
    building = target.with_name(f".building-{target.name}")
    shutil.rmtree(building, ignore_errors=True)
    for name in ("upper", "work", "root"):
        (building / name).mkdir(parents=True)
    root = building / "root"
    with tempfile.TemporaryDirectory() as scratch:
        built = wheel(Path(scratch))
        # A mount namespace of its own: whatever happens, no mount is left.
        script = (
            "set -e; mount --make-rprivate /; mount -t overlay tool -o "
            f'"lowerdir={base},upperdir={building}/upper,workdir={building}/work" "{root}"; '
            f'mount -t proc proc "{root}/proc"; mount -t tmpfs tmp "{root}/tmp"; '
            f'mount --bind /dev "{root}/dev"; cp "{built}" "{REPO}/install.sh" "{root}/tmp/"; '
            f'chroot "{root}" /usr/bin/env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin '
            f"HOME=/root sh /tmp/install.sh --no-setup /tmp/{built.name}"
        )
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", script],
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
    if done.returncode != 0:
        shutil.rmtree(building, ignore_errors=True)
        raise RuntimeError(
            f"install.sh failed in the tree {base.name}:\n{done.stdout}{done.stderr}"
        )
    (building / "upper").rename(target)
    shutil.rmtree(building, ignore_errors=True)
