"""The workload and its client, on this machine's loopback."""

from __future__ import annotations

import array
import json
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import tests.bench
from tests.bench.figures import answers, steps_back

WORKLOAD = Path(tests.bench.__file__).parent / "workload"
PROBE = [sys.executable, str(WORKLOAD / "probe.py")]


class Server(threading.Thread):
    """Answers as heart.c does; after `quiet_after` answers it is silent."""

    def __init__(self, quiet_after: int = 10**9) -> None:
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = str(self.socket.getsockname()[1])
        self._left = quiet_after

    def run(self) -> None:
        count = 0
        while True:
            try:
                got, sender = self.socket.recvfrom(100)
            except OSError:
                return
            if not got:
                return
            if got[:1] == b"V":
                self.socket.sendto(struct.pack("<cQQQ", b"V", 2, 4096, 255), sender)
            elif count < self._left:
                count += 1
                (sequence,) = struct.unpack("<Q", got[1:])
                self.socket.sendto(b"H", sender)  # to be passed over
                answer = struct.pack("<cQQQQ", b"P", sequence, count, count * 4096, 0)
                self.socket.sendto(answer, sender)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    made.start()
    yield made
    # Closed while the thread waits in it, the socket would live on in the kernel, and the thread.
    made.socket.sendto(b"", made.socket.getsockname())
    made.join(10)
    made.socket.close()
    assert not made.is_alive()


def probe(out: Path, *words: str) -> subprocess.Popen[str]:
    """A probe that has had its first answer."""
    process = subprocess.Popen(
        [*PROBE, *words, "--out", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    assert process.stderr.readline() == "asking\n"
    return process


def stop(process: subprocess.Popen[str]) -> dict[str, object]:
    process.send_signal(signal.SIGTERM)
    figures: dict[str, object] = json.loads(process.communicate(timeout=60)[0])
    return figures


def test_the_probe_notes_every_answer(server: Server, tmp_path: Path) -> None:
    process = probe(tmp_path / "out", "udp", "127.0.0.1", server.port, "--interval", "2")
    threading.Event().wait(1.0)
    figures = stop(process)
    rows = array.array("d")
    rows.frombytes((tmp_path / "out").read_bytes())
    found = answers(rows)
    assert len(found) == figures["answers"]
    assert len(found) > 20
    assert [one.number for one in found] == [n + 1 for n in range(len(found))]
    assert steps_back([one.number for one in found]) == 0
    assert all(one.written == one.number * 4096 for one in found)


def test_the_probe_asks_on_when_nobody_answers(tmp_path: Path) -> None:
    server = Server(quiet_after=1)
    server.start()
    process = probe(tmp_path / "out", "udp", "127.0.0.1", server.port, "--interval", "2")
    threading.Event().wait(1.0)
    figures = stop(process)
    server.socket.close()
    assert figures["answers"] == 1
    assert isinstance(figures["asked"], int)
    assert figures["asked"] > 20


def test_verify_says_what_the_heart_says(server: Server) -> None:
    argv = [*PROBE, "verify", "127.0.0.1", server.port]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == {"wrong": 2, "pages": 4096, "digest": "00000000000000ff"}


# -- heart.c ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def heart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("gcc"):
        pytest.skip("no gcc here; the lab's tree has one")
    target = tmp_path_factory.mktemp("heart") / "heart"
    source = str(WORKLOAD / "heart.c")
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(target), source],
                   check=True)  # fmt: skip
    return target


class Heart:
    """A running heart in a network namespace of its own: its port is fixed."""

    def __init__(self, program: Path, *words: str) -> None:
        script = f'ip link set lo up && exec {program} "$@"'
        self.process = subprocess.Popen(
            ["unshare", "-n", "sh", "-c", script, "sh", *words], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def inside(self, *argv: str) -> list[str]:
        return ["nsenter", f"--net=/proc/{self.process.pid}/ns/net", "--", *argv]

    def verify(self) -> dict[str, object]:
        argv = self.inside(*PROBE, "verify", "127.0.0.1", "7000", "--timeout", "10")
        done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
        found: dict[str, object] = json.loads(done.stdout)
        return found

    def asked_for(self, seconds: float, out: Path) -> list[float]:
        argv = self.inside("timeout", "-s", "TERM", str(seconds), *PROBE, "udp", "127.0.0.1",
                           "7000", "--out", str(out))  # fmt: skip
        subprocess.run(argv, capture_output=True, check=False, timeout=20)
        rows = array.array("d")
        rows.frombytes(out.read_bytes())
        return list(rows)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def running(heart: Path) -> Iterator[Heart]:
    made = Heart(heart, "16", "20", "random", "forks")
    yield made
    made.end()


def test_the_heart_changes_memory_at_its_rate_and_knows_all_of_it(
    running: Heart, tmp_path: Path
) -> None:
    found = answers(running.asked_for(1.5, tmp_path / "out"))
    first, last = found[0], found[-1]
    rate = (last.written - first.written) / (last.at - first.at)
    # It never catches up what it missed, and may miss much on a busy machine.
    assert 1e6 < rate < 21e6
    assert running.verify()["wrong"] == 0


def test_the_heart_notices_a_page_that_is_not_its_own(running: Heart) -> None:
    before = running.verify()
    assert (before["wrong"], before["pages"]) == (0, 4096)
    pid = running.process.pid
    largest = max(
        (line.split()[0].split("-") for line in Path(f"/proc/{pid}/maps").read_text().splitlines()),
        key=lambda ends: int(ends[1], 16) - int(ends[0], 16),
    )
    running.process.send_signal(signal.SIGSTOP)
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        # A whole MiB in the middle: some of it may be filled anew before it is looked at.
        memory.seek((int(largest[0], 16) + int(largest[1], 16)) // 2)
        memory.write(b"\1" * 2**20)
    running.process.send_signal(signal.SIGCONT)
    assert running.verify()["wrong"] != 0
