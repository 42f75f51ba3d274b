"""bin/migrate-runc as `tar`: what CRIU writes by it, it reads by it; by its own call, too."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "bin" / "migrate-runc"
# criu/filesystems.c: tmpfs_dump, tmpfs_restore
CREATE = [
    "tar", "--create", "--gzip", "--no-unquote", "--no-wildcards", "--one-file-system",
    "--check-links", "--preserve-permissions", "--sparse", "--numeric-owner", "--directory",
    "/proc/self/fd/0", ".",
]  # fmt: skip
EXTRACT = ["tar", "--extract", "--gzip", "--no-unquote", "--no-wildcards", "--directory"]


@pytest.fixture
def tools(tmp_path: Path) -> str:
    """A PATH on which it stands first."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "tar").symlink_to(SCRIPT)
    return f"{tmp_path}/tools:{os.environ['PATH']}"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    top = tmp_path / "source"
    (top / "deep er").mkdir(parents=True)
    (top / "deep er" / "a file").write_bytes(os.urandom(100_000))
    (top / "secret").write_text("x")
    (top / "secret").chmod(0o600)
    (top / "link").symlink_to("secret")
    (top / "hole").write_bytes(b"")
    os.truncate(top / "hole", 10 << 20)
    top.chmod(0o1777)
    return top


def write(source: Path, image: Path, path: str) -> None:
    fd = os.open(source, os.O_RDONLY)
    try:
        with image.open("wb") as out:
            subprocess.run(CREATE, stdin=fd, stdout=out, env={"PATH": path}, check=True)
    finally:
        os.close(fd)


def read(image: Path, target: Path, path: str) -> None:
    target.mkdir()
    with image.open("rb") as file:
        subprocess.run([*EXTRACT, str(target)], stdin=file, env={"PATH": path}, check=True)


def seen(top: Path) -> dict[str, tuple[int, bytes]]:
    found = {".": (top.stat().st_mode, b"")}
    for path in top.rglob("*"):
        content = b""
        if path.is_symlink():
            content = os.readlink(path).encode()
        elif path.is_file():
            content = path.read_bytes()
        found[str(path.relative_to(top))] = (path.lstat().st_mode, content)
    return found


def test_there_and_back_without_gzip(source: Path, tools: str, tmp_path: Path) -> None:
    write(source, tmp_path / "image", tools)
    assert (tmp_path / "image").read_bytes()[:2] == b"./"
    assert (tmp_path / "image").stat().st_size < 1 << 20  # holes stay holes
    read(tmp_path / "image", tmp_path / "target", tools)
    assert seen(tmp_path / "target") == seen(source)
    assert len(seen(source)) == 6


def test_what_was_compressed_is_read_as_well(source: Path, tools: str, tmp_path: Path) -> None:
    write(source, tmp_path / "image", os.environ["PATH"])
    assert (tmp_path / "image").read_bytes()[:2] == b"\x1f\x8b"
    read(tmp_path / "image", tmp_path / "target", tools)
    assert seen(tmp_path / "target") == seen(source)


def test_an_empty_directory_keeps_its_mode(tools: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir(mode=0o700)
    write(tmp_path / "empty", tmp_path / "image", tools)
    read(tmp_path / "image", tmp_path / "target", tools)
    assert seen(tmp_path / "target") == seen(tmp_path / "empty")


def test_a_failure_is_passed_on(tools: str, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"no archive" * 1000)
    with pytest.raises(subprocess.CalledProcessError):
        read(tmp_path / "image", tmp_path / "target", tools)
