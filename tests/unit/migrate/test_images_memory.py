"""migrate.images_memory: the pages of a CRIU image directory, in their order."""

from __future__ import annotations

import random
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.images_memory import image_pages, object_of
from migrate.page_batch import PAGE
from migrate.page_compare import AREA_PAGES, BLOCK_PAGES, stripes
from migrate.pagemap import PE_LAZY, PE_PARENT, PE_PRESENT, Entry
from transport.errors import StreamCorrupt

lists = st.lists(
    st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2, 3, 4, 6])), max_size=8
)


def entries_of(gaps: list[tuple[int, int, int]]) -> list[Entry]:
    at, found = 0, []
    for gap, count, flags in gaps:
        found.append(Entry(at + gap, count, flags))
        at += gap + count
    return found


def write_pages(path: Path, entries: list[Entry], seed: int) -> dict[int, bytes]:
    """A pages image as CRIU writes it; gives the content by page number."""
    rng = random.Random(seed)
    content = {
        page: rng.randbytes(PAGE)
        for entry in entries
        if entry.flags & PE_PRESENT
        for page in range(entry.page, entry.page + entry.count)
    }
    path.write_bytes(b"".join(content.values()))
    return content


@pytest.mark.parametrize(
    ("name", "expected"), [("pagemap-27.img", "27"), ("pagemap-shmem-9.img", "shmem-9")]
)
def test_names(name: str, expected: str) -> None:
    assert object_of(Path("/x") / name) == expected


@given(gaps=lists, seed=st.integers(0, 9))
def test_every_present_page_once_within_blocks(gaps: list[tuple[int, int, int]], seed: int) -> None:
    entries = entries_of(gaps)
    with TemporaryDirectory() as directory:
        path = Path(directory) / "pages-1.img"
        expected = write_pages(path, entries, seed)
        found: dict[int, bytes] = {}
        for page, content in image_pages(path, entries):
            count = len(content) // PAGE
            assert len(content) == count * PAGE
            assert page // AREA_PAGES == (page + count - 1) // AREA_PAGES
            for i in range(count):
                assert page + i not in found
                found[page + i] = bytes(content[i * PAGE : (i + 1) * PAGE])
    assert found == expected


def test_workers_share_it(tmp_path: Path) -> None:
    path = tmp_path / "pages-1.img"
    stripe = BLOCK_PAGES << 9
    entries = [Entry(stripe - 3, 5, PE_PRESENT), Entry(2 * stripe - 1, 2, PE_PRESENT | PE_LAZY)]
    expected = write_pages(path, entries, 1)
    found: list[list[int]] = []
    for worker in (0, 1):
        seen = []

        def share(page: int, count: int, worker: int = worker) -> list[tuple[int, int]]:
            return list(stripes(page, count, worker, 2))

        for page, content in image_pages(path, entries, share):
            for i in range(len(content) // PAGE):
                assert content[i * PAGE : (i + 1) * PAGE] == expected[page + i]
                seen.append(page + i)
        found.append(seen)
    assert found == [
        [stripe - 3, stripe - 2, stripe - 1, 2 * stripe],
        [stripe, stripe + 1, 2 * stripe - 1],
    ]


def test_nothing_present_needs_no_file(tmp_path: Path) -> None:
    entries = [Entry(1, 2, PE_PARENT), Entry(3, 2, PE_LAZY)]
    assert list(image_pages(tmp_path / "none", entries)) == []


@pytest.mark.parametrize("size", [0, PAGE, 2 * PAGE - 1])
def test_a_pages_image_that_is_too_short(size: int, tmp_path: Path) -> None:
    path = tmp_path / "pages-1.img"
    path.write_bytes(bytes(size))
    with pytest.raises(StreamCorrupt, match="shorter"):
        list(image_pages(path, [Entry(1, 2, PE_PRESENT)]))
