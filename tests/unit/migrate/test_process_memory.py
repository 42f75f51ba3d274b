"""migrate.process_memory: what is read of a real process, and what is not."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from migrate.page_batch import PAGE
from migrate.page_compare import AREA_PAGES
from migrate.process_memory import CHUNK, Gone, ProcessMemory
from tests.unit.migrate.guinea_pig import CGROUP, GuineaPig

PAGES = 3 * CHUNK // PAGE


@pytest.fixture
def pig() -> Iterator[GuineaPig]:
    with GuineaPig(PAGES * PAGE) as made:
        made.do(f"for i in range({PAGES}): m[i*PAGE:(i+1)*PAGE] = (i + 1).to_bytes(8, 'big') * 512")
        yield made


@pytest.fixture(autouse=True, params=["process_vm_readv", "/proc/PID/mem"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Everything holds with what the kernel does not offer, too."""
    if request.param == "/proc/PID/mem":
        monkeypatch.setattr("migrate.process_memory._READV", None)
    return str(request.param)


class Sink:
    def __init__(self) -> None:
        self.pages: dict[int, bytes] = {}
        self.pieces: list[tuple[int, int]] = []

    def __call__(self, page: int, content: memoryview) -> None:
        count = len(content) // PAGE
        assert len(content) == count * PAGE
        assert page // AREA_PAGES == (page + count - 1) // AREA_PAGES
        self.pieces.append((page, count))
        for i in range(count):
            assert page + i not in self.pages
            self.pages[page + i] = bytes(content[i * PAGE : (i + 1) * PAGE])


def content(number: int) -> bytes:
    return (number + 1).to_bytes(8, "big") * 512


@pytest.mark.parametrize("page", [0, 1, AREA_PAGES - 1, 2 * AREA_PAGES + 3])
@pytest.mark.parametrize("count", [1, AREA_PAGES, PAGES])
def test_all_pages_once_and_within_areas(pig: GuineaPig, page: int, count: int) -> None:
    memory, sink = ProcessMemory(pig.pid, CGROUP), Sink()
    memory.read(pig.address, pig.address + count * PAGE, page, sink)
    memory.close()
    assert sink.pages == {page + i: content(i) for i in range(count)}
    # But for the ends these are whole areas: only those are compared at once.
    assert all(n == AREA_PAGES or i in (0, len(sink.pieces) - 1)
               for i, (_, n) in enumerate(sink.pieces))  # fmt: skip


def test_a_hole_is_left_out(pig: GuineaPig) -> None:
    """Mapped no more when it comes to be read: pages and whole chunks of it."""
    holes = [3, 4, 40, *range(270, 550)]
    pig.do("import ctypes; libc = ctypes.CDLL(None); libc.munmap.argtypes = [ctypes.c_void_p] * 2")
    for hole in holes:
        assert pig.do(f"said = libc.munmap(at(m) + {hole} * PAGE, PAGE)") == "0"
    memory, sink = ProcessMemory(pig.pid, CGROUP), Sink()
    memory.read(pig.address, pig.address + PAGES * PAGE, 7, sink)
    memory.close()
    assert sink.pages == {7 + i: content(i) for i in range(PAGES) if i not in holes}


@pytest.mark.parametrize("most", [PAGE, 3 * PAGE, 5 * PAGE + 17])
def test_a_short_read_is_gone_on_with(
    pig: GuineaPig, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.preadv

    def short(fd: int, buffers: list[memoryview], offset: int) -> int:
        return real(fd, [buffers[0][:most]], offset)

    monkeypatch.setattr("migrate.process_memory.os.preadv", short)
    memory, sink = ProcessMemory(pig.pid, CGROUP), Sink()
    memory.read(pig.address, pig.address + 50 * PAGE, 3, sink)
    memory.close()
    assert sink.pages == {3 + i: content(i) for i in range(50)}


def test_a_process_that_ends_meanwhile(pig: GuineaPig) -> None:
    memory, sink = ProcessMemory(pig.pid, CGROUP), Sink()
    pig.kill()
    # Not looked for page by page: a process may have had billions of them.
    with pytest.raises(ProcessLookupError):
        memory.read(pig.address, pig.address + (1 << 46), 0, sink)
    memory.close()
    assert sink.pages == {}


def test_the_address_space_is_the_one_that_was_opened(pig: GuineaPig) -> None:
    memory, sink = ProcessMemory(pig.pid, CGROUP), Sink()
    pig.do("os.execvp('sh', ['sh', '-c', 'echo; exec sleep 600'])")
    with pytest.raises(ProcessLookupError):
        memory.read(pig.address, pig.address + PAGE, 0, sink)
    memory.close()


def test_processes_that_are_not_of_the_container(pig: GuineaPig) -> None:
    with pytest.raises(Gone):
        ProcessMemory(pig.pid, "0123456789abcdef" * 4)
    pig.kill()
    before = len(os.listdir("/proc/self/fd"))
    for cgroup in (CGROUP, "0123456789abcdef" * 4):
        with pytest.raises(Gone):
            ProcessMemory(pig.pid, cgroup)
    with pytest.raises(Gone):
        ProcessMemory(os.getpid(), "0123456789abcdef" * 4)
    assert len(os.listdir("/proc/self/fd")) == before


def test_memory_that_the_process_itself_may_not_read(pig: GuineaPig) -> None:
    pig.do("import ctypes; libc = ctypes.CDLL(None)")
    pig.do("libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]")
    assert pig.do("said = libc.mprotect(at(m) + 2 * PAGE, 3 * PAGE, 0)") == "0"
    memory, sink = ProcessMemory(pig.pid, CGROUP), Sink()
    memory.read(pig.address, pig.address + 8 * PAGE, 0, sink)
    memory.close()
    assert sink.pages == {i: content(i) for i in range(8)}


def test_what_was_read_of_a_pid_whose_process_has_ended_is_not_given(
    pig: GuineaPig, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been another process's by then."""
    memory, sink = ProcessMemory(pig.pid, CGROUP), Sink()
    if way == "process_vm_readv":
        with GuineaPig(PAGE) as other:
            other.put(0, b"x")
            monkeypatch.setattr(memory, "_pid", other.pid)  # as if it had been given anew
            pig.kill()
            with pytest.raises(ProcessLookupError):
                memory.read(other.address, other.address + PAGE, 0, sink)
    else:
        pig.kill()
        with pytest.raises(ProcessLookupError):
            memory.read(pig.address, pig.address + PAGE, 0, sink)
    memory.close()
    assert sink.pages == {}
