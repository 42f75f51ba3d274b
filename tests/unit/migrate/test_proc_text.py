"""Names of processes are bytes: what reads them must not break where a container is frozen."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.address_spaces import Objects, inner_pid, parse_maps, pid_level
from migrate.proc_text import lines, stat_fields, text
from migrate.source_undo import has_ended
from migrate.source_view import memory_of
from migrate.std_streams import parent_of
from migrate.undo import start_time

RENAMED = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(15, os.fsencode(sys.argv[1]))  # PR_SET_NAME: 15 bytes of it
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def called(name: str) -> Iterator[int]:
    """The pid of a process of that name."""
    process = subprocess.Popen(
        [sys.executable, "-c", RENAMED, name],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield process.pid
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("name", ["обработчик", "VmSwap: 7 kB", "\x0c\x0c", "a) Z 1", "x\n9 kB"])
def test_any_name_will_do(name: str) -> None:
    with called("plain") as pid:
        plain = memory_of([pid])[0]
    with called(name) as pid:
        started = start_time(pid)
        assert started
        assert not has_ended(pid, started)
        assert parent_of(pid) == os.getpid()
        assert abs(memory_of([pid])[0] - plain) < plain / 4
        objects = Objects(pid)
        assert objects.regions([pid], frozen=False)


def test_what_is_gone() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert stat_fields(child.pid) is None
    with pytest.raises(FileNotFoundError):
        text(f"/proc/{child.pid}/maps")


def test_odd_bytes_lead_to_the_same_file(tmp_path: Path) -> None:
    odd = os.fsdecode(bytes(tmp_path) + b"/\xd0")
    Path(odd).touch()
    (tmp_path / "list").write_bytes(os.fsencode(odd))
    assert Path(text(tmp_path / "list")).exists()


@given(st.text(st.characters(exclude_characters="\n")))
def test_a_name_cannot_feign_another_line(name: str) -> None:
    status = f"Name:\t{name}\nUmask:\t0022\nNSpid:\t17\t5\n"
    assert len(lines(status)) == 3
    assert pid_level(status) == 1
    assert inner_pid(status, 1) == 5
    mapped = f"7f00-7f01 r--p 00000000 08:01 9 /{name}\n"
    assert len(parse_maps(mapped)) == 1


def test_no_lines() -> None:
    assert lines("") == []
    assert lines("a\n\nb\n") == ["a", "", "b"]
