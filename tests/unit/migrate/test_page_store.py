"""migrate.page_store: what is given is what CRIU reads; what makes no sense is refused."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate import page_store
from migrate.errors import NoSpace
from migrate.page_batch import CACHED, COPY, LITERAL, MAX_PAGE, PAGE, ZERO, PageRun, digest, encode
from migrate.page_store import PageStore
from migrate.pagemap import PE_LAZY, PE_PARENT, PE_PRESENT, Entry, read, write
from tests.unit.migrate.criu_reader import eager, filled_in
from transport.errors import StreamCorrupt

SEED = 0x1234_5678_9ABC_DEF0
STACK = 0x7FFF_FFFF_E000 // PAGE
NOTHING = bytes(PAGE)


class Lab:
    """A store on a tmpfs (other file systems have no files of 2^47 bytes), and words for it."""

    def __init__(self, root: Path, limit: int = 64 << 20) -> None:
        self.root = root
        self.images = root / "images"
        self.images.mkdir()
        self.cache: dict[bytes, bytes] = {}
        self.store = PageStore(root, SEED, limit, self.cache.get)

    def literal(self, number: int, page: int, *content: bytes) -> None:
        run = PageRun(number, page, len(content), LITERAL)
        self.store.apply(encode([run], b"", b"".join(content)))

    def zero(self, number: int, page: int, count: int = 1) -> None:
        self.store.apply(encode([PageRun(number, page, count, ZERO)], b"", b""))

    def copy(self, run: PageRun, *content: bytes) -> None:
        self.store.apply(encode([run], b"".join(digest(page, SEED) for page in content), b""))

    def cached(self, number: int, page: int, *content: bytes) -> None:
        self.copy(PageRun(number, page, len(content), CACHED), *content)

    def pages(self, number: int) -> Path:
        return self.root / "pages" / f"pages-{number}.img"

    def page(self, number: int, page: int) -> bytes:
        with self.pages(number).open("rb") as file:
            return os.pread(file.fileno(), PAGE, page * PAGE)

    def allocated(self, number: int) -> int:
        return self.pages(number).stat().st_blocks * 512

    def dump(self, name: str, pages_id: int, *entries: Entry) -> None:
        write(self.images / f"pagemap-{name}.img", pages_id, entries)

    def eager(self, name: str) -> dict[int, bytes]:
        return eager(self.images, name)


def tmpfs() -> str:
    return tempfile.mkdtemp(prefix="migrate-test-", dir="/dev/shm")


@pytest.fixture
def lab() -> Iterator[Lab]:
    root = Path(tmpfs())
    made = Lab(root)
    yield made
    made.store.close()
    shutil.rmtree(root)


def page(number: int) -> bytes:
    return random.Random(number).randbytes(PAGE)


# -- objects --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["1", "27", "4194304", "shmem-0", "shmem-18446744073709551615"])
def test_names(name: str, lab: Lab) -> None:
    lab.store.announce(1, name)
    lab.literal(1, 0, page(1))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "0",
        "01",
        "-1",
        "1\n",
        "../1",
        "1/2",
        "shmem-",
        "shmem-01",
        "shmem-x",
        "a",
        "٣",
        "1" * 11,
    ],
)
def test_bad_names(name: str, lab: Lab) -> None:
    with pytest.raises(StreamCorrupt):
        lab.store.announce(1, name)


def test_a_name_in_use(lab: Lab) -> None:
    lab.store.announce(1, "27")
    with pytest.raises(StreamCorrupt):
        lab.store.announce(2, "27")


@pytest.mark.parametrize("number", [0, -1, 5, 4, 1 << 31])
def test_bad_numbers(number: int, lab: Lab) -> None:
    lab.store.announce(5, "27")
    with pytest.raises(StreamCorrupt):
        lab.store.announce(number, "28")


def test_a_number_never_comes_again_but_a_name_does(lab: Lab) -> None:
    lab.store.announce(1, "27")
    lab.literal(1, 5, page(1), page(2))
    lab.store.drop([1])
    assert (lab.store.bytes, lab.store.pages) == (0, 0)
    assert not lab.pages(1).exists()
    with pytest.raises(StreamCorrupt):
        lab.store.announce(1, "27")
    lab.store.announce(2, "27")
    lab.literal(2, 5, page(3))
    lab.dump("27", 1, Entry(5, 2, PE_PRESENT))
    with pytest.raises(StreamCorrupt, match="never came"):  # what the old one had does not count
        lab.store.adopt(lab.images)


def test_what_does_not_exist(lab: Lab) -> None:
    lab.store.announce(1, "27")
    lab.literal(1, 0, page(1))
    calls: tuple[Callable[[], None], ...] = (
        lambda: lab.store.drop([2]),
        lambda: lab.literal(2, 0, page(1)),
        lambda: lab.zero(2, 0),
        lambda: lab.copy(PageRun(1, 1, 1, COPY, 2, 0), page(1)),
        lambda: lab.copy(PageRun(2, 1, 1, COPY, 1, 0), page(1)),
    )
    for call in calls:
        with pytest.raises(StreamCorrupt, match="no memory object 2"):
            call()


def test_too_many_objects(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_store, "MAX_OBJECTS", 3)
    for number in (1, 2, 3):
        lab.store.announce(number, str(number))
    with pytest.raises(StreamCorrupt, match="more than 3"):
        lab.store.announce(4, "4")
    lab.store.drop([2])
    lab.store.announce(4, "4")


def test_more_objects_than_open_files(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_store, "OPEN_FILES", 3)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(1, 21):
        lab.store.announce(number, str(number))
    for number in range(1, 21):
        lab.literal(number, 7, page(number))
    for number in range(1, 20):
        lab.copy(PageRun(number, 9, 1, COPY, number + 1, 7), page(number + 1))
    assert len(os.listdir("/proc/self/fd")) == before + 3
    assert lab.page(3, 9) == page(4)
    lab.store.close()
    assert len(os.listdir("/proc/self/fd")) == before


# -- pages ----------------------------------------------------------------------------------------


def test_content_lies_at_its_address(lab: Lab) -> None:
    lab.store.announce(1, "27")
    lab.literal(1, STACK, page(1), page(2))
    lab.literal(1, 0x400, page(3))
    assert [lab.page(1, STACK + i) for i in (0, 1)] == [page(1), page(2)]
    assert lab.page(1, 0x400) == page(3)
    assert lab.store.bytes == lab.allocated(1) == 3 * PAGE
    lab.literal(1, 0x400, page(4))  # in place: never more than one copy
    assert lab.page(1, 0x400) == page(4)
    assert lab.store.bytes == lab.allocated(1) == 3 * PAGE


def test_runs_of_a_batch_in_order(lab: Lab) -> None:
    lab.store.announce(1, "1")
    lab.store.announce(2, "shmem-5")
    lab.cache[digest(page(9), SEED)] = page(9)
    runs = [
        PageRun(1, 10, 2, LITERAL), PageRun(2, 3, 2, COPY, 1, 10), PageRun(1, 10, 1, CACHED),
        PageRun(2, 5, 1, COPY, 1, 10), PageRun(1, 10, 1, ZERO), PageRun(2, 6, 1, LITERAL),
    ]  # fmt: skip
    known = [page(1), page(2), page(9), page(9)]
    digests = b"".join(digest(each, SEED) for each in known)
    lab.store.apply(encode(runs, digests, page(1) + page(2) + page(3)))
    assert [lab.page(2, 3 + i) for i in range(4)] == [page(1), page(2), page(9), page(3)]
    assert [lab.page(1, 10 + i) for i in range(2)] == [NOTHING, page(2)]


def test_zero_pages_take_nothing(lab: Lab) -> None:
    lab.store.announce(1, "27")
    lab.literal(1, 8, page(1), page(2), page(3))
    lab.zero(1, 9)
    lab.zero(1, 1 << 30, 5000)
    assert [lab.page(1, 8 + i) for i in range(3)] == [page(1), NOTHING, page(3)]
    assert lab.store.bytes == lab.allocated(1) == 2 * PAGE
    assert lab.store.pages == 5003
    lab.literal(1, 9, page(4))
    assert lab.page(1, 9) == page(4)
    assert lab.store.bytes == lab.allocated(1) == 3 * PAGE


def test_a_copy_of_zero_pages_at_the_end(lab: Lab) -> None:
    lab.store.announce(1, "27")
    lab.zero(1, 50, 2)
    lab.copy(PageRun(1, 3, 2, COPY, 1, 50), NOTHING, NOTHING)
    lab.dump("27", 1, Entry(3, 2, PE_PRESENT), Entry(50, 2, PE_PRESENT))
    lab.store.adopt(lab.images)
    assert lab.eager("27") == dict.fromkeys((3, 4, 50, 51), NOTHING)


def test_a_copy_onto_itself(lab: Lab) -> None:
    lab.store.announce(1, "27")
    lab.literal(1, 0, page(0), page(1), page(2), page(3))
    lab.copy(PageRun(1, 1, 3, COPY, 1, 0), page(0), page(1), page(2))
    assert [lab.page(1, i) for i in range(4)] == [page(0), page(0), page(1), page(2)]


def test_a_copy_of_other_content(lab: Lab) -> None:
    lab.store.announce(1, "27")
    lab.literal(1, 0, page(0), page(1))
    with pytest.raises(StreamCorrupt, match="as the source thinks"):
        lab.copy(PageRun(1, 4, 2, COPY, 1, 0), page(0), page(7))
    assert lab.page(1, 4) == b""


def test_a_copy_of_what_never_came(lab: Lab) -> None:
    lab.store.announce(1, "27")
    lab.literal(1, 0, page(0))
    lab.literal(1, 2, page(2))
    with pytest.raises(StreamCorrupt, match="never came"):
        lab.copy(PageRun(1, 4, 3, COPY, 1, 0), page(0), NOTHING, page(2))


@pytest.mark.parametrize(
    "held",
    [None, page(2), page(1)[:-1], page(1) + b"x", b""],
    ids=["none", "other", "short", "long", "empty"],
)
def test_a_damaged_cache(held: bytes | None, lab: Lab) -> None:
    lab.store.announce(1, "27")
    if held is not None:
        lab.cache[digest(page(1), SEED)] = held
    with pytest.raises(StreamCorrupt):
        lab.cached(1, 0, page(1))
    assert lab.store.pages == 0


def test_cached_pages(lab: Lab) -> None:
    lab.store.announce(1, "27")
    content = [page(i) for i in range(5)]
    lab.cache.update({digest(each, SEED): each for each in content})
    lab.cached(1, STACK, *content)
    assert [lab.page(1, STACK + i) for i in range(5)] == content


@given(noise=st.binary(max_size=100))
def test_noise_is_refused(noise: bytes) -> None:
    root = Path(tmpfs())
    try:
        with pytest.raises(StreamCorrupt):
            Lab(root).store.apply(noise)
    finally:
        shutil.rmtree(root)


# -- space ----------------------------------------------------------------------------------------


def small(lab: Lab, limit: int) -> Lab:
    (lab.root / "small").mkdir()
    return Lab(lab.root / "small", limit)


def test_the_limit(lab: Lab) -> None:
    lab = small(lab, 4 * PAGE)
    lab.store.announce(1, "27")
    lab.literal(1, 0, page(0), page(1))
    lab.literal(1, 0, page(2), page(3))
    lab.literal(1, 9, page(4), page(5))
    lab.zero(1, 0)
    lab.literal(1, 20, page(6))
    with pytest.raises(NoSpace, match="room"):
        lab.copy(PageRun(1, 30, 1, COPY, 1, 9), page(4))
    assert lab.allocated(1) == 4 * PAGE  # nothing was written beyond


@pytest.mark.parametrize("count", [MAX_PAGE, 1 << 30, 17 << 10])
def test_zero_pages_without_end(count: int, lab: Lab) -> None:
    lab = small(lab, 16 * PAGE)
    lab.store.announce(1, "27")
    with pytest.raises(NoSpace):
        lab.zero(1, 0, count)


def test_scattered_zero_pages_without_end(lab: Lab) -> None:
    lab = small(lab, 16 * PAGE)
    lab.store.announce(1, "27")
    lab.store.announce(2, "28")
    for i in range(8):
        lab.zero(1, i << 20)
        lab.zero(2, i << 20)
    with pytest.raises(NoSpace):
        lab.zero(2, 9 << 20)
    lab.store.drop([1])


def test_a_full_tmpfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, content: memoryview, offset: int) -> int:
        raise OSError(28, "No space left on device")

    lab = Lab(tmp_path)
    lab.store.announce(1, "27")
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(NoSpace, match="No space left"):
        lab.literal(1, 0, page(0))
    lab.store.close()


def test_writes_that_come_in_parts(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, view, at: pwrite(fd, view[:1000], at))
    lab.store.announce(1, "27")
    lab.literal(1, 3, page(1), page(2))
    assert lab.page(1, 3) + lab.page(1, 4) == page(1) + page(2)


# -- for CRIU -------------------------------------------------------------------------------------


def test_the_store_becomes_the_parent(lab: Lab) -> None:
    lab.store.announce(1, "1")
    lab.store.announce(2, "27")
    lab.store.announce(3, "shmem-9")
    lab.store.announce(4, "28")
    lab.literal(2, 0x400, page(1), page(2))
    lab.zero(2, 0x402)
    lab.literal(2, STACK, page(3))
    lab.literal(3, 0, page(4))
    lab.literal(4, 0, page(5))
    lab.dump("1", 1)
    lab.dump("27", 2, Entry(0x401, 2, PE_PRESENT | PE_LAZY), Entry(STACK, 1, PE_PRESENT))
    lab.dump("shmem-9", 3, Entry(0, 1, PE_LAZY))
    lab.store.adopt(lab.images)
    assert os.readlink(lab.images / "parent") == "../pages"
    assert read(lab.images / "pagemap-27.img") == (
        2, [Entry(0x401, 2, PE_PARENT | PE_LAZY), Entry(STACK, 1, PE_PARENT)],
    )  # fmt: skip
    assert lab.eager("27") == {0x401: page(2), 0x402: NOTHING, STACK: page(3)}
    assert eager(lab.images, "27", lazy_pages=True) == {STACK: page(3)}
    assert lab.eager("shmem-9") == {0: page(4)}
    assert lab.eager("1") == {}
    assert all((lab.images / f"pages-{i}.img").stat().st_size == 0 for i in (1, 2, 3))
    assert not lab.pages(4).exists()  # no process has it any more
    assert lab.store.bytes == sum(lab.allocated(number) for number in (1, 2, 3)) == 4 * PAGE


@pytest.mark.parametrize("flags", [PE_PRESENT, PE_LAZY, PE_PARENT, 0])
def test_a_page_that_never_came(flags: int, lab: Lab) -> None:
    lab.store.announce(1, "27")
    lab.literal(1, 5, page(1))
    lab.literal(1, 7, page(1))
    lab.dump("27", 1, Entry(5, 3, flags))
    with pytest.raises(StreamCorrupt, match="never came"):
        lab.store.adopt(lab.images)


@pytest.mark.parametrize("name", ["28", "shmem-27", "x", "027"])
def test_memory_that_never_came(name: str, lab: Lab) -> None:
    lab.store.announce(1, "27")
    lab.literal(1, 5, page(1))
    lab.dump(name, 1, Entry(5, 1, PE_PRESENT))
    with pytest.raises(StreamCorrupt, match="never came"):
        lab.store.adopt(lab.images)


@pytest.mark.parametrize("name", ["parent", "pages-1.img"])
def test_files_that_would_stand_in_the_way(name: str, lab: Lab) -> None:
    lab.store.announce(1, "27")
    lab.literal(1, 5, page(1))
    lab.dump("27", 1, Entry(5, 1, PE_PRESENT))
    (lab.images / name).write_bytes(page(2))
    with pytest.raises(StreamCorrupt, match="of its own"):
        lab.store.adopt(lab.images)


def test_a_pagemap_that_is_none(lab: Lab) -> None:
    lab.store.announce(1, "27")
    (lab.images / "pagemap-27.img").write_bytes(b"x")
    with pytest.raises(StreamCorrupt, match="no pagemap"):
        lab.store.adopt(lab.images)


def test_images_elsewhere(lab: Lab) -> None:
    with pytest.raises(ValueError, match="beside"):
        lab.store.adopt(lab.root / "below" / "images")


def test_the_lazy_directory(lab: Lab) -> None:
    lab.store.announce(3, "27")
    lab.store.announce(7, "shmem-9")
    lab.literal(3, 0x400, page(0), page(1), page(2), page(3))
    lab.literal(3, STACK - 1, page(4), page(5))
    lab.literal(7, 0, page(6))
    lab.dump(
        "27", 1, Entry(0x400, 1, PE_PRESENT), Entry(0x401, 2, PE_PRESENT | PE_LAZY),
        Entry(0x403, 1, PE_PRESENT), Entry(STACK - 1, 1, PE_LAZY), Entry(STACK, 1, PE_PRESENT),
    )  # fmt: skip
    lab.dump("shmem-9", 2, Entry(0, 1, PE_PRESENT))
    (lab.images / "mm-27.img").write_bytes(b"mm")
    lab.store.adopt(lab.images)
    lazy = lab.root / "lazy"
    lab.store.lazy_directory(lab.images, lazy)
    assert sorted(os.listdir(lazy)) == ["mm-27.img", "pagemap-27.img", "pages-3.img"]
    assert (lazy / "mm-27.img").read_bytes() == b"mm"
    assert filled_in(lazy, "27") == {0x401: page(1), 0x402: page(2), STACK - 1: page(4)}
    # Why there is that directory at all: from a parent, nothing would be filled in.
    assert filled_in(lab.images, "27") == {}


# -- all of it against a model --------------------------------------------------------------------

objects = st.integers(1, 3)
pages = st.one_of(st.integers(0, 12), st.integers(1020, 1028), st.integers(STACK - 6, STACK))
counts = st.integers(1, 5)
content = st.integers(0, 5)  # 0: a page of zeros, as a literal
steps = st.lists(
    st.one_of(
        st.tuples(st.just(LITERAL), objects, pages, st.lists(content, min_size=1, max_size=5)),
        st.tuples(st.just(CACHED), objects, pages, st.lists(content, min_size=1, max_size=5)),
        st.tuples(st.just(ZERO), objects, pages, counts),
        st.tuples(st.just(COPY), objects, pages, counts, objects, pages),
    ),
    max_size=25,
)
CONTENT = [NOTHING, *map(page, range(1, 6))]


@settings(max_examples=60, deadline=None)
@given(steps=steps, sizes=st.lists(st.integers(1, 6), min_size=30, max_size=30), data=st.data())
def test_what_criu_reads_is_what_came(
    steps: list[Any], sizes: list[int], data: st.DataObject
) -> None:
    root = Path(tmpfs())
    try:
        _against_model(Lab(root), steps, sizes, data.draw)
    finally:
        shutil.rmtree(root)


def _against_model(
    lab: Lab, steps: list[Any], sizes: list[int], draw: Callable[[st.SearchStrategy[int]], int]
) -> None:
    model: dict[int, dict[int, bytes]] = {1: {}, 2: {}, 3: {}}
    taking: dict[int, set[int]] = {1: set(), 2: set(), 3: set()}
    for number in model:
        lab.store.announce(number, f"{number}00")
    lab.cache.update({digest(each, SEED): each for each in CONTENT})
    runs: list[PageRun] = []
    digests = literals = b""
    for kind, number, at, what, *source in steps:
        if kind in (LITERAL, CACHED):
            new = [CONTENT[i] for i in what]
        elif kind == ZERO:
            new = [NOTHING] * what
        else:
            known = [model[source[0]].get(source[1] + i) for i in range(what)]
            if None in known:
                continue
            new = [each for each in known if each is not None]
        runs.append(PageRun(number, at, len(new), kind, *source))
        if kind == LITERAL:
            literals += b"".join(new)
        elif kind != ZERO:
            digests += b"".join(digest(each, SEED) for each in new)
        here = range(at, at + len(new))
        model[number].update(zip(here, new, strict=True))
        taking[number] = taking[number] - set(here) if kind == ZERO else taking[number] | set(here)
        if len(runs) >= sizes[len(runs)]:
            lab.store.apply(encode(runs, digests, literals))
            runs, digests, literals = [], b"", b""
    lab.store.apply(encode(runs, digests, literals))
    assert lab.store.pages == sum(map(len, model.values()))
    assert lab.store.bytes == PAGE * sum(map(len, taking.values()))
    assert lab.store.bytes == sum(lab.allocated(number) for number in model)

    lazies: dict[int, set[int]] = {}
    for number, has in model.items():
        entries: list[Entry] = []
        lazies[number] = set()
        for at in sorted(has):
            flags = draw(st.sampled_from([PE_PRESENT, PE_LAZY, PE_PRESENT | PE_LAZY]))
            if flags & PE_LAZY:
                lazies[number].add(at)
            if entries and draw(st.booleans()) and _joins(entries[-1], at, flags):
                entries[-1] = entries[-1]._replace(count=entries[-1].count + 1)
            else:
                entries.append(Entry(at, 1, flags))
        lab.dump(f"{number}00", number + 40, *entries)
    lab.store.adopt(lab.images)
    lab.store.lazy_directory(lab.images, lab.root / "lazy")
    for number, has in model.items():
        lazy = lazies[number]
        assert lab.eager(f"{number}00") == has
        assert filled_in(lab.root / "lazy", f"{number}00") == {at: has[at] for at in lazy}
        rest = eager(lab.images, f"{number}00", lazy_pages=True)
        assert rest == {at: has[at] for at in has if at not in lazy}
    lab.store.close()


def _joins(last: Entry, at: int, flags: int) -> bool:
    return last.page + last.count == at and last.flags == flags
