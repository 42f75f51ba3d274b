"""migrate.departed: all pages of a real process, for the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from migrate import departed
from migrate.address_spaces import Objects
from migrate.departed import keep_memory, pages_of
from migrate.host_setup import Places
from migrate.page_batch import PAGE
from migrate.page_cache import cache_key
from migrate.process_memory import CHUNK
from tests.unit.migrate.guinea_pig import GuineaPig, container

COUNT = 3 * CHUNK // PAGE + 5


def filled(number: int) -> bytes:
    return (number + 1).to_bytes(8, "big") * 512


def pages(pieces: Any) -> set[bytes]:
    found = set()
    for piece in pieces:
        assert len(piece) % PAGE == 0
        found |= {piece[at : at + PAGE] for at in range(0, len(piece), PAGE)}
    return found


def test_all_pages_of_all_processes(tmp_path: Path) -> None:
    with GuineaPig(COUNT * PAGE) as pig, GuineaPig(4 * PAGE) as other:
        pig.do(f"for i in range({COUNT}): m[i*PAGE:(i+1)*PAGE] = (i + 1).to_bytes(8, 'big') * 512")
        pig.do("s = mmap.mmap(-1, 4 * PAGE); s[:PAGE] = b'shared  ' * 512")
        pig.do("x = private(PAGE, prot=7); x[:PAGE] = b'jit code' * 512")
        other.put(2, b"other")
        found = pages(pages_of(pig.pid, container(tmp_path, pig.pid, other.pid)))
    assert {filled(i) for i in range(COUNT)} <= found
    assert {b"shared  " * 512, b"jit code" * 512, (b"other" * PAGE)[:PAGE]} <= found


def test_what_has_ended_is_left_out(tmp_path: Path) -> None:
    with GuineaPig(4 * PAGE) as pig, GuineaPig(4 * PAGE) as other:
        freezer = container(tmp_path, pig.pid, other.pid)
        pig.put(0, b"a")
        other.put(0, b"b")
        pieces = pages_of(pig.pid, freezer)
        found = [next(pieces)]
        other.kill()
        found += pieces
    assert b"a" * PAGE in pages(found)
    assert b"b" * PAGE not in pages(found)


def test_others_are_not_read(tmp_path: Path) -> None:
    with GuineaPig(4 * PAGE) as pig:
        pig.put(0, b"a")
        freezer = tmp_path / ("0" * 64)  # which is not in its /proc/PID/cgroup
        freezer.mkdir()
        (freezer / "cgroup.procs").write_text(f"{pig.pid}\n")
        assert Objects(pig.pid).regions([pig.pid], frozen=False)
        assert list(pages_of(pig.pid, str(freezer))) == []


def test_what_is_kept_is_said_in_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []

    class Cache:
        def __init__(self, path: Path) -> None:
            asked.append(path)

        def save(self, key: str, content: Any) -> int:
            asked.append((key, list(content)))
            return 3

    spec: Any = type("Spec", (), {"name": "app", "image": type("Image", (), {"layers": ("l",)})})
    monkeypatch.setattr(departed, "PageCache", Cache)
    monkeypatch.setattr(departed, "pages_of", lambda init, freezer: iter([b"x", b"y"]))
    assert keep_memory(spec, 1, "/f") == 3 * PAGE
    assert asked == [Places().cache, (cache_key("app", ("l",)), [b"x", b"y"])]
