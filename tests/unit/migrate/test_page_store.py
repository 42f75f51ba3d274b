"""migrate.page_store: pages go where they belong; what makes no sense or is too much is refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate import page_store
from migrate.errors import NoSpace
from migrate.page_batch import CACHED, COPY, LITERAL, MAX_PAGE, PAGE, ZERO, PageRun, digest, encode
from migrate.page_store import PageStore
from migrate.pagemap import PE_PRESENT, Entry
from tests.unit.migrate.store_lab import NOTHING, SEED, STACK, Lab, page, store_lab
from transport.errors import StreamCorrupt


@pytest.fixture
def lab() -> Iterator[Lab]:
    with store_lab() as made:
        yield made


@pytest.mark.parametrize("seed", [-1, 1 << 64])
def test_a_bad_seed(seed: int, tmp_path: Path) -> None:
    with pytest.raises(StreamCorrupt, match="64 bits"):
        PageStore(tmp_path, seed, 1 << 20)


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
    with store_lab() as lab, pytest.raises(StreamCorrupt):
        lab.store.apply(noise)


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
