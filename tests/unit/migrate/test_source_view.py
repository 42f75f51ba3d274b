"""migrate.source_view: figures read from /proc, of ourselves and of made-up processes."""

from __future__ import annotations

import mmap
import os
import platform
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from migrate import source_view
from migrate.errors import Busy, ContainerNotFound, ContainerNotRunning, Unsupported
from migrate.source_view import (
    SourceView,
    _shm_used,
    _size,
    check_here,
    look,
    memory_of,
    open_connections,
    tasks,
    tmpfs_used,
    waits_for_pages,
)


def test_tasks_of_a_cgroup_and_those_below(tmp_path: Path) -> None:
    (tmp_path / "below/deeper").mkdir(parents=True)
    (tmp_path / "cgroup.procs").write_text("1\n2\n")
    (tmp_path / "below/deeper/cgroup.procs").write_text("30\n")
    (tmp_path / "below/cgroup.procs").write_text("")
    assert sorted(tasks(str(tmp_path))) == [1, 2, 30]
    assert tasks(None) == []
    assert tasks(str(tmp_path / "none")) == []


def test_memory_is_that_of_all_and_the_dead_have_none() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    alone, swapped = memory_of([os.getpid()])
    assert alone > 1 << 20
    assert alone % 1024 == swapped % 1024 == 0
    both, _ = memory_of([os.getpid(), child.pid, os.getppid()])
    assert both > alone
    assert memory_of([child.pid]) == (0, 0)


def test_memory_grows_by_what_is_taken() -> None:
    before, _ = memory_of([os.getpid()])
    block = bytearray(os.urandom(32 << 20))
    after, _ = memory_of([os.getpid()])
    assert after - before > 16 << 20
    assert len(block) == 32 << 20


SHARES = """
import mmap, os, sys
memory = mmap.mmap(-1, 32 << 20)
memory.write(b"x" * (32 << 20))
for _ in range(3):
    if not os.fork():
        memory[:] = memory[:]
        break
print(os.getpid(), flush=True)
sys.stdin.read()
"""


def test_a_segment_that_several_map_counts_once() -> None:
    with subprocess.Popen(
        [sys.executable, "-ISc", SHARES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as sharing:
        assert sharing.stdout
        pids = [int(sharing.stdout.readline()) for _ in range(4)]
        all_of_them, _ = memory_of(pids)
        assert 32 << 20 <= all_of_them < 64 << 20
        sharing.communicate()


def test_the_pages_of_files_do_not_move(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(32 << 20))
    before, _ = memory_of([os.getpid()])
    with open(tmp_path / "file", "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    touched = sum(mapped[i] for i in range(0, len(mapped), 4096))
    after, _ = memory_of([os.getpid()])
    mapped.close()
    assert touched
    assert after - before < 16 << 20


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="no tmpfs at /dev/shm")
def test_what_lies_in_a_tmpfs_counts() -> None:
    before = tmpfs_used(os.getpid())
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.write(bytes(16 << 20))
        file.flush()
        assert 12 << 20 < tmpfs_used(os.getpid()) - before < 24 << 20


WAITS = """
import ctypes, mmap, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
fd = libc.syscall(323, 1)  # userfaultfd, UFFD_USER_MODE_ONLY
if fd < 0:
    sys.exit(3)
memory = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
api = ctypes.create_string_buffer(struct.pack("QQQ", 0xAA, 0, 0))
assert libc.ioctl(fd, ctypes.c_ulong(0xC018AA3F), api) == 0  # UFFDIO_API
wanted = ctypes.create_string_buffer(struct.pack("QQQQ", start, 4096, 1, 0))
assert libc.ioctl(fd, ctypes.c_ulong(0xC020AA00), wanted) == 0  # UFFDIO_REGISTER, missing
print("waits", flush=True)
time.sleep(60)
"""


def test_a_process_that_waits_for_pages() -> None:
    """A real userfaultfd: what the kernel says of it is what counts."""
    if platform.machine() != "x86_64":
        pytest.skip("the numbers of the system calls are x86_64's")
    assert not waits_for_pages([os.getpid()])
    with subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE) as waiting:
        try:
            assert waiting.stdout
            if not waiting.stdout.readline():
                pytest.skip("this kernel has no userfaultfd for us")
            assert waits_for_pages([os.getpid(), waiting.pid])
        finally:
            waiting.kill()
    assert not waits_for_pages([waiting.pid])


def test_no_move_while_pages_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_view, "findings", lambda here: [])
    monkeypatch.setattr(source_view, "waits_for_pages", lambda pids: True)
    view: Any = SimpleNamespace(
        target=SimpleNamespace(pid=1, freezer=None), spec=SimpleNamespace(name="app")
    )
    here: Any = None
    with pytest.raises(Busy, match="`app` is still being filled in"):
        check_here(here, view, "close")


def test_the_writable_layer_is_measured_in_blocks(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/data").write_bytes(os.urandom(1 << 20))
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(1 << 40)  # takes no room
    (tmp_path / "link").symlink_to("/")
    assert 1 << 20 <= _size(tmp_path) < 2 << 20
    assert _size(tmp_path / "none") == 0


def test_shared_memory_counts_where_it_is_the_hosts() -> None:
    shareable = {"HostConfig": {"IpcMode": "shareable"}}
    assert _shm_used({"HostConfig": {"IpcMode": "private"}}, os.getpid()) == 0
    assert _shm_used({}, os.getpid()) == 0
    assert _shm_used(shareable, 0) == 0
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.write(bytes(1 << 20))
        file.flush()
        assert _shm_used(shareable, os.getpid()) >= 1 << 20


# -- connections ----------------------------------------------------------------------------------

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"


def line(local: str, state: str) -> str:
    return f"   0: {local}:1F90 0200A8C0:C350 {state} 00000000:00000000 00:00000000 00000000 0\n"


@pytest.mark.parametrize(
    ("tcp", "tcp6", "wanted"),
    [
        ("", "", 0),
        (line("0100A8C0", "01"), "", 1),
        (line("0100A8C0", "0A"), "", 0),  # listens
        (line("0100A8C0", "06"), "", 0),  # TIME_WAIT
        (line("0100007F", "01"), "", 0),  # 127.0.0.1
        (line("0200007F", "01"), "", 0),  # 127.0.0.2
        ("", line("0" * 24 + "01000000", "01"), 0),  # ::1
        ("", line("0000000000000000FFFF00000100A8C0", "01"), 1),  # 192.168.0.1, mapped
        ("", line("0000000000000000FFFF00000100007F", "01"), 0),  # 127.0.0.1, mapped
        ("", line("B80D0120" + "0" * 16 + "0100007F", "01"), 1),  # 2001:db8::7f00:1
        (line("0100A8C0", "01") * 2, line("000080FE" + "0" * 16 + "01000000", "01"), 3),
    ],
)
def test_which_connections_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tcp: str, tcp6: str, wanted: int
) -> None:
    (tmp_path / "tcp").write_text(HEAD + tcp)
    if tcp6:  # without IPv6 there is no such file
        (tmp_path / "tcp6").write_text(HEAD + tcp6)
    monkeypatch.setattr(source_view, "Path", lambda path: tmp_path / os.path.basename(path))
    assert open_connections(1) == wanted


def test_a_connection_of_our_own_on_loopback_does_not_count() -> None:
    before = open_connections(os.getpid())
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()),
    ):
        assert open_connections(os.getpid()) == before


def test_a_volume_that_was_filled_meanwhile_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    volumes = (str(tmp_path / "one"), str(tmp_path / "two"))
    anything: Any = None
    view = SourceView({}, anything, anything, tmp_path, 1, anything, volumes)
    view.check_volumes()
    (tmp_path / "two/.hidden").touch()
    with pytest.raises(Unsupported, match="two"):
        view.check_volumes()


@pytest.mark.parametrize("gone", [FileNotFoundError(), ProcessLookupError(), Unsupported("x")])
@pytest.mark.parametrize("running", [True, False])
def test_a_container_that_ends_while_it_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, gone: Exception, running: bool
) -> None:
    def fails(docker: Any, name: str) -> None:
        raise gone

    monkeypatch.setattr(source_view, "_look", fails)
    docker: Any = SimpleNamespace(
        inspect_container=lambda name: {"State": {"Running": running}}
    )  # fmt: skip
    really = isinstance(gone, Unsupported) and running
    with pytest.raises(Unsupported if really else ContainerNotRunning):
        look(docker, "app")


def test_a_container_that_ends_and_is_gone_while_it_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object) -> None:
        raise FileNotFoundError

    def gone(name: str) -> None:
        raise ContainerNotFound(name)

    monkeypatch.setattr(source_view, "_look", fails)
    docker: Any = SimpleNamespace(inspect_container=gone)
    with pytest.raises(ContainerNotRunning, match="just ended"):
        look(docker, "app")


@pytest.mark.parametrize("name", ["d", "db", "dbdbdbdbdbd"])
def test_a_short_start_of_an_id_is_no_name(name: str) -> None:
    other = {"Name": "/other", "Id": "db" * 32, "Config": {}}
    docker: Any = SimpleNamespace(inspect_container=lambda _: other)
    with pytest.raises(ContainerNotFound, match=f"`{name}`"):
        look(docker, name)
