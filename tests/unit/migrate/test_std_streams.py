"""migrate.std_streams: the pipes to the shim, also while a shell has redirected them."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from migrate import std_streams
from migrate.std_streams import Streams, find_streams, links_of, parent_of, pipes_of


@contextmanager
def child(command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A shell whose stdin and stdout are pipes to us, as a container's are to its shim."""
    process = subprocess.Popen(
        ["sh", "-c", command],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def end_of(stream: object) -> str:
    return os.readlink(f"/proc/self/fd/{stream.fileno()}")  # type: ignore[attr-defined]


def test_links_and_what_is_closed() -> None:
    with child("exec <&-; echo; exec sleep 600") as process:
        assert process.stdout
        process.stdout.read(1)
        assert links_of(process.pid) == ["/dev/null", end_of(process.stdout), "/dev/null"]
    assert links_of(process.pid) == ["/dev/null"] * 3


def test_pipes_and_parents() -> None:
    with child("exec sleep 600") as process:
        assert {end_of(process.stdin), end_of(process.stdout)} <= pipes_of(os.getpid())
        assert parent_of(process.pid) == os.getpid()
    assert parent_of(process.pid) == 0
    assert pipes_of(process.pid) == frozenset()


def test_a_name_that_looks_like_the_end_of_the_name() -> None:
    link = os.path.join(os.environ.get("TMPDIR", "/tmp"), f"migrate) S 1 ({os.getpid()}")
    os.symlink("/bin/sleep", link)
    try:
        with subprocess.Popen([link, "600"]) as process:
            assert parent_of(process.pid) == os.getpid()
            process.kill()
    finally:
        os.unlink(link)


def test_what_the_shim_does_not_hold_is_looked_at_for_a_while(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`read x < file` for a moment: the pipe is elsewhere, and comes back."""
    monkeypatch.setattr(std_streams, "LOOKS", 5000)
    now = tmp_path / "now"
    wait = f"while [ ! -e {now} ]; do sleep 0.01; done"
    with child(f"exec 9<&0 </etc/passwd; echo; {wait}; exec <&9; exec sleep 600") as process:
        assert process.stdout
        process.stdout.read(1)
        assert links_of(process.pid)[0] == "/etc/passwd"
        threading.Timer(0.05, now.touch).start()
        streams = find_streams(process.pid, os.getpid())
        assert streams.links[0] == end_of(process.stdin)
        assert streams.lost(process.pid) == ""


def test_a_file_that_stays_is_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(std_streams, "LOOKS", 3)
    with child("exec </etc/passwd; echo; exec sleep 600") as process:
        assert process.stdout
        process.stdout.read(1)
        streams = find_streams(process.pid, os.getpid())
        assert streams.links == ["/etc/passwd", end_of(process.stdout), "/dev/null"]


def test_a_new_pipe_of_the_shim_is_lost() -> None:
    with child("exec sleep 600") as process:
        pipes = pipes_of(os.getpid())
        streams = Streams(["/dev/null", end_of(process.stdout), "/dev/null"], pipes)
        assert streams.lost(process.pid) == end_of(process.stdin)
        assert Streams(streams.links, frozenset()).lost(process.pid) == ""
