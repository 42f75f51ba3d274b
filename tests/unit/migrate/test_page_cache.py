"""migrate.page_cache: pages of containers that left, within bounds, harmless when damaged."""

from __future__ import annotations

import errno
import os
import random
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate import page_cache
from migrate.page_batch import DIGEST, PAGE, digest
from migrate.page_cache import DIGESTS, MAX_AGE, CachedPages, PageCache, cache_key

SEED = 77
A, B, C = (cache_key(name, ["sha256:1"]) for name in ("a", "b", "c"))


def page(number: int) -> bytes:
    return random.Random(number).randbytes(PAGE)


def pages(*numbers: int) -> list[bytes]:
    return [page(number) for number in numbers]


def cache_of(root: Path, limit: int = 1 << 30) -> PageCache:
    return PageCache(root / "cache", limit)


def opened(cache: PageCache, key: str) -> CachedPages:
    found = cache.open(key)
    assert found
    return found


def content(cached: CachedPages, each: bytes) -> bytes:
    found = cached.page(each)
    assert found
    return bytes(found)


def known(cached: CachedPages, seed: int = SEED) -> list[bytes]:
    joined = b"".join(cached.digests(seed))
    return [joined[i : i + DIGEST] for i in range(0, len(joined), DIGEST)]


def aged(root: Path, key: str, *, saved: float = 0, used: float = 0) -> None:
    """Make an entry look as if saved and used so many seconds ago."""
    os.utime(root / "cache" / f"{key}.pages", (time.time() - used, time.time() - saved))


def names(root: Path) -> list[str]:
    return sorted(os.listdir(root / "cache"))


# -- keys -----------------------------------------------------------------------------------------


@given(name=st.text(max_size=300), layers=st.lists(st.text(max_size=20), max_size=3))
def test_any_name_makes_a_key(name: str, layers: list[str]) -> None:
    key = cache_key(name, layers)
    assert key == cache_key(name, tuple(layers))
    assert page_cache._KEY.fullmatch(key)
    assert len(key) < 200


def test_keys_differ_by_name_and_image() -> None:
    keys = {
        cache_key("app", ["x"]), cache_key("app", ["y"]), cache_key("app", ["x", "y"]),
        cache_key("app", []), cache_key("App", ["x"]), cache_key("x" * 181, []),
        cache_key("x" * 182, []),
    }  # fmt: skip
    assert len(keys) == 7


@pytest.mark.parametrize("key", ["", "../x", "a", "a/b~0123456789abcdef", ".new-~0123456789abcdef"])
def test_what_is_no_key(key: str, tmp_path: Path) -> None:
    cache = cache_of(tmp_path)
    with pytest.raises(ValueError, match="no key"):
        cache.open(key)
    with pytest.raises(ValueError, match="no key"):
        cache.save(key, [])


# -- there and back -------------------------------------------------------------------------------


def test_pages_come_back_under_their_digests(tmp_path: Path) -> None:
    cache = cache_of(tmp_path)
    assert cache.save(A, pages(1, 2, 3)) == 3
    cached = opened(cache, A)
    assert known(cached) == [digest(each, SEED) for each in pages(1, 2, 3)]
    assert [content(cached, each) for each in known(cached)] == pages(1, 2, 3)
    assert cached.page(digest(page(4), SEED)) is None
    assert known(cached, 5) == [digest(each, 5) for each in pages(1, 2, 3)]  # a new session
    assert cached.page(digest(page(1), SEED)) is None
    cached.close()


def test_zero_pages_and_those_that_came_before_are_left_out(tmp_path: Path) -> None:
    cache = cache_of(tmp_path)
    several = memoryview(page(1) + bytes(PAGE) + page(2) + page(1))
    assert cache.save(A, [several, page(2), bytearray(page(3)), bytes(PAGE)]) == 3
    assert known(opened(cache, A)) == [digest(each, SEED) for each in pages(1, 2, 3)]


def test_more_digests_than_a_message_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_cache, "DIGESTS", 600)
    cache = cache_of(tmp_path)
    saved = pages(*range(1500))
    assert cache.save(A, saved) == 1500
    chunks = list(opened(cache, A).digests(SEED))
    assert len(chunks) == 3
    assert all(0 < len(chunk) <= 600 * DIGEST for chunk in chunks)
    assert b"".join(chunks) == b"".join(digest(each, SEED) for each in saved)
    assert DIGESTS == 65536


def test_for_root_only(tmp_path: Path) -> None:
    cache = cache_of(tmp_path)
    (tmp_path / "cache").mkdir(mode=0o755)
    before = os.umask(0)
    try:
        cache.save(A, pages(1))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "cache" / f"{A}.pages").stat().st_mode) == 0o600


def test_an_entry_is_replaced(tmp_path: Path) -> None:
    cache = cache_of(tmp_path)
    cache.save(A, pages(1, 2))
    before = opened(cache, A)
    cache.save(A, pages(3))
    assert known(opened(cache, A)) == [digest(page(3), SEED)]
    assert len(known(before)) == 2  # who has it open reads what was there
    assert len(names(tmp_path)) == 1


def test_nothing_new_leaves_what_there_was(tmp_path: Path) -> None:
    cache = cache_of(tmp_path)
    cache.save(A, pages(1, 2))
    assert cache.save(A, [bytes(PAGE)]) == 0
    assert len(known(opened(cache, A))) == 2


def test_nothing_there(tmp_path: Path) -> None:
    cache = cache_of(tmp_path)
    assert cache.open(A) is None
    assert cache.entries() == []
    assert cache.clear() == 0
    assert not (tmp_path / "cache").exists()


def test_entries_and_clear(tmp_path: Path) -> None:
    cache = cache_of(tmp_path)
    for key in (A, B, C):
        cache.save(key, pages(1, 2))
    aged(tmp_path, A, saved=10)
    aged(tmp_path, B, saved=20)
    (tmp_path / "cache" / "README").touch()
    found = cache.entries()
    assert [(e.key, e.name, e.bytes) for e in found] == [
        (C, "c", 2 * PAGE), (A, "a", 2 * PAGE), (B, "b", 2 * PAGE),
    ]  # fmt: skip
    assert found[1].saved == pytest.approx(time.time() - 10, abs=5)
    assert cache.clear(A) == 1
    assert cache.clear(A) == 0
    assert cache.clear() == 2
    assert names(tmp_path) == ["README"]


# -- bounds ---------------------------------------------------------------------------------------


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, 5 * PAGE)
    cache.save(A, pages(1, 2))
    cache.save(B, pages(3, 4))
    aged(tmp_path, A, saved=100, used=100)
    aged(tmp_path, B, saved=50, used=50)
    opened(cache, A).close()  # used last now
    assert cache.save(C, pages(5, 6)) == 2
    assert {entry.name for entry in cache.entries()} == {"a", "c"}
    assert cache.entries()[1].saved == pytest.approx(time.time() - 100, abs=5)


def test_what_does_not_fit_is_left_out(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, 3 * PAGE + 100)
    cache.save(A, pages(1))
    assert cache.save(B, pages(2, 3, 4, 5)) == 3
    assert [entry.name for entry in cache.entries()] == ["b"]
    assert known(opened(cache, B)) == [digest(each, SEED) for each in pages(2, 3, 4)]
    assert cache_of(tmp_path, 0).save(C, pages(6)) == 0
    assert names(tmp_path) == []  # the limit is for all


def test_its_own_old_pages_do_not_count(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, 4 * PAGE)
    cache.save(A, pages(1, 2, 3))
    cache.save(B, pages(4))
    assert cache.save(A, pages(5, 6, 7)) == 3
    assert {entry.name for entry in cache.entries()} == {"a", "b"}


def test_old_ones_go_at_the_next_save(tmp_path: Path) -> None:
    cache = cache_of(tmp_path)
    cache.save(A, pages(1))
    cache.save(B, pages(2))
    aged(tmp_path, A, saved=MAX_AGE + 100)
    aged(tmp_path, B, saved=MAX_AGE - 100)
    cache.save(C, pages(3))
    assert {entry.name for entry in cache.entries()} == {"b", "c"}


def test_the_limit_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 1000 * PAGE

    def statvfs(path: Path) -> os.statvfs_result:
        assert path.exists()
        return os.statvfs_result((PAGE, PAGE, 0, 0, free // PAGE, 0, 0, 0, 0, 255))

    cache = PageCache(tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", lambda path: statvfs(path if path.exists() else path.parent))
        assert cache.limit() == 100 * PAGE
        cache.save(A, pages(*range(10)))
        assert cache.limit() == 101 * PAGE  # what it takes itself could be free
        free = 1 << 50
        assert cache.limit() == 4 << 30


# -- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_full_disk(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = cache_of(tmp_path)
    cache.save(A, pages(1, 2))

    def full(fd: int, content: memoryview) -> int:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        assert cache.save(A, pages(3, 4)) == 0
        assert cache.save(B, pages(3, 4)) == 0
    assert names(tmp_path) == [f"{A}.pages"]
    assert len(known(opened(cache, A))) == 2


def test_a_save_that_fails_leaves_nothing_half(tmp_path: Path) -> None:
    def failing() -> Iterator[bytes]:
        yield page(1)
        raise RuntimeError("the process has ended")

    cache = cache_of(tmp_path)
    with pytest.raises(RuntimeError, match="ended"):
        cache.save(A, failing())
    assert names(tmp_path) == []
    assert cache.save(A, pages(1)) == 1  # and no lock either


def test_what_a_killed_save_left_is_removed(tmp_path: Path) -> None:
    cache = cache_of(tmp_path)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / ".new-12345678").write_bytes(page(1))
    assert cache.entries() == []
    cache.save(A, pages(1))
    assert names(tmp_path) == [f"{A}.pages"]


def test_one_save_at_a_time(tmp_path: Path) -> None:
    cache = cache_of(tmp_path)
    begun, go = threading.Event(), threading.Event()

    def slow() -> Iterator[bytes]:
        yield page(1)
        begun.set()
        assert go.wait(10)

    threads = [threading.Thread(target=cache.save, args=(A, slow()))]
    threads[0].start()
    assert begun.wait(10)
    threads.append(threading.Thread(target=cache.save, args=(B, pages(2))))
    threads[1].start()
    threads[1].join(0.2)
    assert threads[1].is_alive()  # else it would remove the first one's file
    go.set()
    for thread in threads:
        thread.join(10)
    assert {entry.name for entry in cache.entries()} == {"a", "b"}


def test_a_damaged_file_gives_what_is_there(tmp_path: Path) -> None:
    cache = cache_of(tmp_path)
    cache.save(A, pages(1, 2, 3))
    path = tmp_path / "cache" / f"{A}.pages"
    damaged = bytearray(path.read_bytes())
    damaged[PAGE + 5] ^= 1
    path.write_bytes(damaged[: 3 * PAGE - 1])
    cached = opened(cache, A)
    now = bytes(damaged[PAGE : 2 * PAGE])
    assert known(cached) == [digest(page(1), SEED), digest(now, SEED)]
    assert cached.page(digest(page(2), SEED)) is None


def test_a_file_that_is_cut_while_it_is_used(tmp_path: Path) -> None:
    cache = cache_of(tmp_path)
    cache.save(A, pages(*range(600)))
    path = tmp_path / "cache" / f"{A}.pages"
    cached = opened(cache, A)
    found = known(cached)
    os.truncate(path, 300 * PAGE + 7)
    assert content(cached, found[299]) == page(299)
    assert cached.page(found[300]) is None  # a mapping would have killed us
    assert len(known(cached)) == 300


@pytest.mark.parametrize("size", [0, PAGE - 1])
def test_a_file_without_a_page(size: int, tmp_path: Path) -> None:
    cache = cache_of(tmp_path)
    cache.save(A, pages(1))
    os.truncate(tmp_path / "cache" / f"{A}.pages", size)
    assert cache.open(A) is None


def test_only_plain_files_are_entries(tmp_path: Path) -> None:
    cache = cache_of(tmp_path)
    (tmp_path / "cache").mkdir()
    (tmp_path / "secret").write_bytes(page(1))
    (tmp_path / "cache" / f"{A}.pages").symlink_to(tmp_path / "secret")
    (tmp_path / "cache" / f"{B}.pages").mkdir()
    assert cache.entries() == []
    assert cache.open(A) is None
    assert cache.open(B) is None
