"""migrate.store_images: the pagemaps, as pure functions. Reading through them: test_page_store."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.page_batch import MAX_PAGE
from migrate.pagemap import PE_LAZY, PE_PARENT, PE_PRESENT, Entry, write
from migrate.store_images import MAX_ENTRY, MAX_LAZY, in_parent, lazy, listed, pagemaps, present
from transport.errors import StreamCorrupt

lists = st.lists(
    st.tuples(
        st.one_of(st.just(0), st.integers(0, 1 << 36)),
        st.one_of(st.integers(1, 50), st.integers(1, 3 * MAX_LAZY)),
        st.integers(0, 7),
    ),
    max_size=10,
)


def entries_of(gaps: list[tuple[int, int, int]]) -> list[Entry]:
    at, found = 0, []
    for gap, count, flags in gaps:
        found.append(Entry(at + gap, count, flags))
        at += gap + count
    return found


@given(lists)
def test_content_is_in_the_parent_and_lazy_stays(gaps: list[tuple[int, int, int]]) -> None:
    entries = entries_of(gaps)
    found = list(in_parent(entries))
    assert [(e.page, e.count) for e in found] == [(e.page, e.count) for e in entries]
    assert [e.flags for e in found] == [PE_PARENT | (e.flags & PE_LAZY) for e in entries]


@given(st.integers(0, 1 << 36), st.integers(0, 1 << 36))
def test_present_has_no_gap(page: int, count: int) -> None:
    at = page
    for entry in present(page, page + count):
        assert (entry.page, entry.flags) == (at, PE_PRESENT)
        assert 0 < entry.count <= MAX_ENTRY
        at += entry.count
    assert at == page + count


def test_a_whole_address_space_is_a_few_entries() -> None:
    assert len(list(present(0, 1 << 35))) == 32


@given(lists)
def test_the_lazy_ones_and_only_these_without_a_gap(gaps: list[tuple[int, int, int]]) -> None:
    entries = entries_of(gaps)
    found = list(lazy(entries))
    at = 0
    for entry in found:
        assert entry.page == at
        assert 0 < entry.count <= MAX_ENTRY
        assert entry.flags == PE_PRESENT or entry.count <= MAX_LAZY
        at += entry.count
    assert ranges(found) == ranges(entries)
    assert not found or found[-1].flags & PE_LAZY  # nothing behind the last one


def ranges(entries: list[Entry]) -> list[tuple[int, int]]:
    """The lazy pages as ranges that do not touch."""
    joined: list[tuple[int, int]] = []
    for entry in entries:
        if not entry.flags & PE_LAZY:
            continue
        if joined and joined[-1][1] == entry.page:
            joined[-1] = (joined[-1][0], entry.page + entry.count)
        else:
            joined.append((entry.page, entry.page + entry.count))
    return joined


def test_neighbours_become_one() -> None:
    entries = [Entry(4, 1, 6), Entry(5, 2, 2), Entry(7, 1, 4), Entry(8, 1, 6)]
    assert list(lazy(entries)) == [Entry(0, 4, 4), Entry(4, 3, 6), Entry(7, 1, 4), Entry(8, 1, 6)]


@pytest.mark.parametrize(
    "entries",
    [
        [Entry(2, 2, 4), Entry(3, 1, 4)], [Entry(2, 1, 4), Entry(1, 1, 4)],
        [Entry(2, 1, 4), Entry(2, 1, 2)], [Entry(MAX_PAGE - 1, 2, 4)],
    ],
)  # fmt: skip
def test_pagemaps_that_no_criu_writes(entries: list[Entry], tmp_path: Path) -> None:
    path = tmp_path / "pagemap-1.img"
    write(path, 1, entries)
    with pytest.raises(StreamCorrupt):
        listed(path)


def test_only_pagemaps_are_pagemaps(tmp_path: Path) -> None:
    for name in ("pagemap-9.img", "pagemap-shmem-3.img", "pages-1.img", "mm-9.img", "pagemap-.im"):
        (tmp_path / name).touch()
    assert [name for name, _ in pagemaps(tmp_path)] == ["9", "shmem-3"]
