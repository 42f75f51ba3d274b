"""migrate.page_store: what is given is what CRIU reads, eager and lazy (criu_reader.py)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate.page_batch import CACHED, COPY, LITERAL, PAGE, ZERO, PageRun, digest, encode
from migrate.pagemap import PE_LAZY, PE_PARENT, PE_PRESENT, Entry, read
from tests.unit.migrate.criu_reader import eager, filled_in
from tests.unit.migrate.store_lab import NOTHING, SEED, STACK, Lab, page, store_lab
from transport.errors import StreamCorrupt


@pytest.fixture
def lab() -> Iterator[Lab]:
    with store_lab() as made:
        yield made


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
    with store_lab() as lab:
        _against_model(lab, steps, sizes, data.draw)


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
