"""migrate.incoming: files and pages come in, and what CRIU restores from comes out."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from migrate import incoming as incoming_module
from migrate.errors import MemoryLost, RestoreFailed
from migrate.incoming import IMAGES_SLACK, Incoming
from migrate.messages import Filled, SmallFile, SmallFiles
from migrate.page_batch import LITERAL, PageRun, encode
from migrate.pagemap import PE_LAZY, PE_PRESENT, Entry, write
from tests.unit.migrate.criu_reader import eager, filled_in
from tests.unit.migrate.lazy_server import Server, init, server
from tests.unit.migrate.store_lab import SEED, page
from transport.errors import StreamCorrupt

__all__ = ["init", "server"]
Make = Callable[..., Incoming]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would be mounted and unmounted."""
    seen: list[list[str]] = []
    monkeypatch.setattr(incoming_module, "run", seen.append)
    return seen


@pytest.fixture
def make(calls: list[list[str]]) -> Iterator[Make]:
    base = Path(tempfile.mkdtemp(prefix="migrate-test-", dir="/dev/shm"))
    made: list[Incoming] = []

    def incoming(*, lazy: bool = False, memory: int = 1 << 20, free: int = 0) -> Incoming:
        made.append(
            Incoming(base, memory=memory, free=free, seed=SEED, lazy=lazy, cached=lambda _: None)
        )
        return made[0]

    yield incoming
    made[0].close()
    shutil.rmtree(base)


def come(incoming: Incoming, tmp_path: Path) -> int:
    """An address space of two pages, the second one lazy; gives the number of files."""
    incoming.pages.announce(1, "27")
    content = page(1) + page(2)
    incoming.pages.apply(encode([PageRun(1, 0x400, 2, LITERAL)], b"", content))
    path = tmp_path / "pagemap"
    write(path, 1, [Entry(0x400, 1, PE_PRESENT), Entry(0x401, 1, PE_PRESENT | PE_LAZY)])
    files = [SmallFile("pagemap-27.img", path.read_bytes()), SmallFile("core-27.img", b"core")]
    incoming.files.small_files(SmallFiles(files=files))
    return len(files)


@pytest.mark.parametrize(
    ("memory", "free", "size"), [(1 << 30, 0, 2 << 30), (1 << 30, 8 << 30, 4 << 30)]
)
def test_a_tmpfs_of_its_own(
    memory: int, free: int, size: int, make: Make, calls: list[list[str]]
) -> None:
    incoming = make(memory=memory, free=free)
    options = f"mode=0700,size={size + IMAGES_SLACK}"
    assert calls == [["mount", "-t", "tmpfs", "-o", options, "migrate", str(incoming.base)]]


def test_the_standard_streams(make: Make) -> None:
    incoming = make()
    for wrong in ([], ["/dev/null"] * 4):
        with pytest.raises(StreamCorrupt):
            incoming.write_descriptors(wrong)
    incoming.write_descriptors(["/dev/null", "pipe:[1]", "pipe:[2]"])
    written = (incoming.images / "descriptors.json").read_text()
    assert written == '["/dev/null", "pipe:[1]", "pipe:[2]"]'


def test_all_at_once(make: Make, tmp_path: Path) -> None:
    incoming = make()
    assert incoming.criu_options == []
    incoming.complete(come(incoming, tmp_path))
    assert eager(incoming.images, "27") == {0x400: page(1), 0x401: page(2)}
    incoming.commit(1)
    assert incoming.filled() == Filled(pages=0, seconds=0.0)
    assert not (incoming.base / "lazy").exists()


def test_what_is_lacking(make: Make, tmp_path: Path) -> None:
    incoming = make()
    files = come(incoming, tmp_path)
    with pytest.raises(StreamCorrupt, match="2 of 3 checkpoint files"):
        incoming.complete(files + 1)
    incoming.pages.drop([1])
    with pytest.raises(StreamCorrupt, match="never came"):
        incoming.complete(files)


def test_the_rest_later(
    make: Make, tmp_path: Path, server: Server, init: subprocess.Popen[bytes]
) -> None:
    incoming = make(lazy=True)
    assert incoming.criu_options == ["lazy-pages"]
    server.becomes_soon("ready")
    incoming.complete(come(incoming, tmp_path))
    assert eager(incoming.images, "27", lazy_pages=True) == {0x400: page(1)}
    assert filled_in(incoming.base / "lazy", "27") == {0x401: page(2)}
    called = (server.home / "argv").read_text()
    assert f"--images-dir {incoming.base}/lazy --work-dir {incoming.work} " in called
    incoming.commit(init.pid)
    server.ends(0)
    filled = incoming.filled()
    assert filled.pages == 1
    assert filled.seconds > 0


def test_the_rest_never_comes(
    make: Make, tmp_path: Path, server: Server, init: subprocess.Popen[bytes]
) -> None:
    incoming = make(lazy=True)
    server.becomes_soon("ready")
    incoming.complete(come(incoming, tmp_path))
    incoming.commit(init.pid)
    server.ends(1)
    with pytest.raises(MemoryLost):
        incoming.filled()


def test_no_server_of_the_rest(make: Make, tmp_path: Path, server: Server) -> None:
    incoming = make(lazy=True)
    server.becomes_soon("1")
    with pytest.raises(RestoreFailed):
        incoming.complete(come(incoming, tmp_path))


def test_it_is_unmounted_while_files_in_it_are_open(
    make: Make, calls: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    incoming = make()
    calls.clear()
    incoming.release()
    assert calls == []  # nothing is mounted there
    monkeypatch.setattr(os.path, "ismount", lambda path: path == incoming.base)
    incoming.release()
    assert calls == [["umount", "--lazy", str(incoming.base)]]
