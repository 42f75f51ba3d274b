"""tests/workloads: each program does what the migration tests rely on, here without a container.

Also that they complain when they should: a workload that is always content proves nothing.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

WORKLOADS = Path(__file__).parents[2] / "workloads"
CLIENT = [sys.executable, str(WORKLOADS / "tcp_client.py"), "127.0.0.1"]


def as_pid1(argv: list[str]) -> list[str]:
    """Called as in a container, where orphans are its own to reap; not possible without root."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        return argv
    return ["unshare", "--pid", "--fork", "--kill-child", *argv]


def run_until(count: int, argv: list[str]) -> list[str]:
    """Its stdout lines, when it is told to end by SIGTERM after `count` of them."""
    program = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert program.stdout is not None
    lines = [program.stdout.readline() for _ in range(count)]
    os.killpg(program.pid, signal.SIGTERM)
    out, _ = program.communicate(timeout=30)
    return "".join([*lines, out]).splitlines()


def test_counter_counts_without_a_skip() -> None:
    *lines, last = run_until(20, ["sh", str(WORKLOADS / "counter.sh")])
    assert len(lines) >= 20
    assert [int(line.split()[0]) for line in lines] == list(range(1, len(lines) + 1))
    # The signal may come between counting and printing.
    assert last in (f"stopped at {len(lines)}", f"stopped at {len(lines) + 1}")


def test_family_passes_numbers_on() -> None:
    lines = run_until(20, as_pid1(["sh", str(WORKLOADS / "family.sh")]))
    assert len(lines) >= 20
    assert lines == [f"line {number}" for number in range(1, len(lines) + 1)]


def descendants(pid: int) -> list[tuple[int, str, str]]:
    """(session, state, command line) of every process below `pid`."""
    lines = subprocess.run(
        ["ps", "-ww", "-eo", "pid=,ppid=,sid=,stat=,args="],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    found, family = [], {pid}
    for line in lines:  # in the order of their birth
        child, parent, session, state, args = line.split(None, 4)
        if int(parent) in family:
            family.add(int(child))
            found.append((int(session), state, args))
    return found


def test_family_has_the_processes_it_promises() -> None:
    program = subprocess.Popen(
        as_pid1(["sh", str(WORKLOADS / "family.sh")]),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    found: tuple[bool, ...] = (False,)
    # They come one after the other, and a busy machine takes its time.
    while not all(found) and time.monotonic() < deadline:
        time.sleep(0.1)
        mine = descendants(program.pid)
        found = (
            len([session for session, _, _ in mine if session == program.pid]) >= 5,
            any(state.startswith("Z") for _, state, _ in mine),
            any("family-daemon" in args and session != program.pid for session, _, args in mine),
        )
    os.killpg(program.pid, signal.SIGTERM)
    program.wait(timeout=10)
    assert found == (True, True, True)


def test_family_notices_a_lost_line(tmp_path: Path) -> None:
    script = (WORKLOADS / "family.sh").read_text()
    broken = script.replace(
        "        n=$((n + 1))\n", "        n=$((n + 1)); [ $n = 5 ] && n=6\n", 1
    )
    assert broken != script
    (tmp_path / "family.sh").write_text(broken)
    lines = run_until(10, as_pid1(["sh", str(tmp_path / "family.sh")]))
    assert [line for line in lines if "BROKEN" in line] == ["BROKEN line: 'line 6' after 4"]


def test_threads_only_go_up() -> None:
    out = run_until(10, [sys.executable, str(WORKLOADS / "threads.py"), "5"])
    lines: list[dict[str, Any]] = [json.loads(line) for line in out]
    assert [line["tick"] for line in lines] == list(range(len(lines)))
    assert len({line["nonce"] for line in lines}) == 1
    assert lines[-1]["broken"] == []
    # From one line to the next, a thread may have had no CPU.
    for before, after in itertools.pairwise(lines):
        assert all(a >= b for a, b in zip(after["counters"], before["counters"], strict=True))
        assert after["sum"] == sum(after["counters"])
        assert after["timer"] >= before["timer"]
        # What was sent just before a line may come through just after it.
        assert before["pipe"] <= after["pipe"] <= after["tick"] + 1
        assert before["eventfd"] <= after["eventfd"]
        assert after["eventfd"] + after["held"] == 3 * (after["tick"] + 1)
    first, last = lines[0], lines[-1]
    assert all(a > b for a, b in zip(last["counters"], first["counters"], strict=True))
    for what in ("timer", "pipe", "eventfd"):
        assert last[what] > first[what]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    folder = tmp_path / "image"
    folder.mkdir()
    for number in range(5):
        (folder / f"file-{number}").write_text(f"from the image {number}\n")
    return folder


def files(work: Path, image: Path) -> list[str]:
    return [sys.executable, str(WORKLOADS / "files.py"), str(work), str(image)]


def test_files_are_as_remembered(tmp_path: Path, image: Path) -> None:
    # A file of the image is changed every fourth time, and there are five.
    lines = [json.loads(line) for line in run_until(25, files(tmp_path / "work", image))]
    assert all(line["believed"] == line["actual"] and line["broken"] == [] for line in lines)
    assert len({line["believed"] for line in lines}) == len(lines)  # there is something to compare
    # Each of the five things that can happen to a file of the image did.
    assert {path.name: path.read_text() for path in image.iterdir()} == {
        "file-1.renamed": "from the image 1\n",
        "file-2": "from the image 2\n",
        "file-3": "rewritten\n",
        "file-4": "from the image 4\nappended\n",
    }
    assert (image / "file-2").stat().st_mode & 0o777 == 0o600
    digest = subprocess.run(
        [*files(tmp_path / "work", image), "--digest"], capture_output=True, text=True, check=True
    )
    assert digest.stdout.strip() == lines[-1]["believed"]


def rollback_image(work: Path, image: Path) -> None:
    (image / "file-4").write_text("something else")


def lose_log(work: Path, image: Path) -> None:
    shutil.copy(work / "log", work / "copy")
    os.rename(work / "copy", work / "log")


def detach_mapping(work: Path, image: Path) -> None:
    (work / "copy").write_bytes((work / "mapped").read_bytes())
    os.rename(work / "copy", work / "mapped")


def resurrect(work: Path, image: Path) -> None:
    (work / "old-0").write_text("a deleted file is back")


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (rollback_image, "image/file-4: "),
        (lose_log, "the open log is not the file"),
        (detach_mapping, "the open mapped is not the file"),
        (resurrect, "work/old-0: "),
    ],
)
def test_files_notices_harm(tmp_path: Path, image: Path, harm: Any, complaint: str) -> None:
    work = tmp_path / "work"
    program = subprocess.Popen(files(work, image), stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    program.stdout.readline()
    harm(work, image)
    broken = (" ".join(json.loads(line)["broken"]) for line in program.stdout)
    assert any(complaint in said for said in itertools.islice(broken, 40))
    program.terminate()
    program.communicate(timeout=30)


@pytest.fixture
def server() -> Iterator[tuple[subprocess.Popen[str], int]]:
    argv = [sys.executable, str(WORKLOADS / "tcp_server.py"), "0"]
    program = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    yield program, int(program.stdout.readline().split()[1])
    program.kill()
    program.wait()


Server = tuple[subprocess.Popen[str], int]


def start_client(port: int, *options: str) -> subprocess.Popen[str]:
    client = subprocess.Popen(
        [*CLIENT, str(port), *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert client.stderr is not None
    assert client.stderr.readline() == "connected\n"
    return client


def result(client: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = client.communicate(timeout=20)
    assert err == ""
    answer: dict[str, Any] = json.loads(out)
    return answer


def test_clients_are_answered_in_order(server: Server) -> None:
    clients = [start_client(server[1], "--seconds", "1", "--interval", "5") for _ in range(3)]
    seen = [result(client) for client in clients]
    assert [client.returncode for client in clients] == [0, 0, 0]
    assert all(one["replies"] > 5 and one["errors"] == [] for one in seen)
    assert len({one["nonce"] for one in seen}) == 1


def test_a_frozen_server_is_a_gap(server: Server) -> None:
    client = start_client(server[1])
    time.sleep(0.3)
    began = time.monotonic()
    server[0].send_signal(signal.SIGSTOP)
    time.sleep(0.4)
    server[0].send_signal(signal.SIGCONT)
    stopped = (time.monotonic() - began) * 1000
    client.terminate()  # which asks once more
    seen = result(client)
    assert client.returncode == 0
    assert 350 < seen["max_gap_ms"] < stopped + 2000
    assert max(length for _, length in seen["gaps"]) == seen["max_gap_ms"]
    assert seen["errors"] == []


def test_what_is_asked_at_the_end_is_waited_for(server: Server) -> None:
    client = start_client(server[1])
    time.sleep(0.2)
    server[0].send_signal(signal.SIGSTOP)
    client.terminate()
    time.sleep(0.5)
    assert client.poll() is None
    server[0].send_signal(signal.SIGCONT)
    seen = result(client)
    assert (client.returncode, seen["errors"], seen["sent"]) == (0, [], seen["replies"])


def test_a_server_that_stays_frozen_is_an_error(server: Server) -> None:
    client = start_client(server[1], "--patience", "0.3")
    time.sleep(0.2)
    server[0].send_signal(signal.SIGSTOP)
    time.sleep(0.1)
    client.terminate()
    seen = result(client)
    assert client.returncode == 1
    assert re.match(r"no answer to \d+ for \d+\.\d s$", seen["errors"][0])


def test_a_server_that_dies_is_an_error(server: Server) -> None:
    client = start_client(server[1])
    server[0].kill()
    seen = result(client)
    assert client.returncode == 1
    assert "Connection" in seen["errors"][0]


@pytest.mark.parametrize("answer", [b"1 1 other\n", b"2 1 nonce\n", b"1 2 nonce\n", b"junk\n"])
def test_a_wrong_answer_is_an_error(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = start_client(listener.getsockname()[1], "--interval", "0")
        peer, _ = listener.accept()
        with peer:
            assert peer.recv(10) == b"1\n"
            peer.sendall(b"1 1 nonce\n")
            assert peer.recv(10) == b"2\n"
            peer.sendall(answer)
        assert result(client)["errors"][0].startswith("answer ")
