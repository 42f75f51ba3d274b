"""The scanner processes, seen from the process that leads the migration."""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import IO

import msgspec

from migrate.errors import DumpFailed
from migrate.page_compare import Tally
from migrate.scanner import BATCH, FRAME, REPORT, Command, Report, Setup, as_tally

MAX_WORKERS = 2
END_TIMEOUT = 5.0  # seconds until a scanner that does not end by itself is killed
PIPE = 1 << 20
F_SETPIPE_SZ = 1031  # fcntl(2)


class Scanners:
    """Starts the scanners, passes commands on to all of them and their batches to `send`."""

    def __init__(
        self, seed: int, cgroup: str, send: Callable[[bytes], None], workers: int = 0
    ) -> None:
        """`send` is called from several threads. `workers`: how many, 0 for one per core (<= 2)."""
        self._send = send
        count = workers or min(MAX_WORKERS, os.cpu_count() or 1)
        self._answers: list[queue.SimpleQueue[Tally | Exception]] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._threads: list[threading.Thread] = []
        for worker in range(count):
            # In a session of its own: Ctrl-C is for the one who leads. Isolated: the working
            # directory may hold a file that is called like a module.
            process = subprocess.Popen(
                [sys.executable, "-I", "-m", "migrate.scanner"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=True,
            )  # fmt: skip
            answers: queue.SimpleQueue[Tally | Exception] = queue.SimpleQueue()
            assert process.stdout
            _widen(process.stdout.fileno())
            thread = threading.Thread(
                target=self._pump, args=(process, answers), name=f"scanner-{worker}", daemon=True
            )
            self._processes.append(process)
            self._answers.append(answers)
            self._threads.append(thread)
            thread.start()
        try:
            for worker in range(count):
                self._tell(worker, Setup(seed, worker, count, cgroup))
        except BaseException:
            self.close()
            raise

    def command(self, command: Command) -> None:
        """Tell all of them; they carry their commands out in order. Raises what a scanner has
        failed with (DumpFailed), or `send`."""
        for worker in range(len(self._processes)):
            self._tell(worker, command)

    def _tell(self, worker: int, command: Command) -> None:
        payload = msgspec.msgpack.encode(command)
        stdin = self._processes[worker].stdin
        assert stdin
        try:
            data = memoryview(struct.pack("<I", len(payload)) + payload)
            while data:
                data = data[stdin.write(data) :]
        except OSError:
            while True:  # it has ended, and its thread knows why
                self._answer(worker)

    def _answer(self, worker: int) -> Tally:
        """The next answer of a scanner. Raises its failure, every time it is asked."""
        answers = self._answers[worker]
        answer = answers.get()
        if isinstance(answer, Exception):
            answers.put(answer)
            raise answer
        return answer

    def report(self) -> Tally:
        """End the round; waits until all of it has been given to `send`. Raises as `command`."""
        self.command(Report())
        total = Tally()
        for worker in range(len(self._processes)):
            answer = self._answer(worker)
            for field in vars(answer):
                setattr(total, field, getattr(total, field) + getattr(answer, field))
        return total

    def _pump(
        self, process: subprocess.Popen[bytes], answers: queue.SimpleQueue[Tally | Exception]
    ) -> None:
        assert process.stdout
        try:
            while True:
                length, kind = FRAME.unpack(_exactly(process.stdout, FRAME.size))
                payload = _exactly(process.stdout, length)
                if kind == BATCH:
                    self._send(payload)
                elif kind == REPORT:
                    answers.put(as_tally(payload))
                else:
                    text = payload.decode(errors="replace")
                    answers.put(DumpFailed(f"the memory cannot be read: {text}"))
                    return
        except EOFError:
            answers.put(DumpFailed("a scanner of the memory has ended"))
        except Exception as problem:  # noqa: BLE001 - raised where the report is waited for
            answers.put(problem)
            process.kill()

    def close(self) -> None:
        """End them; also in the middle of a round."""
        for process in self._processes:
            process.kill()
        for process, thread in zip(self._processes, self._threads, strict=True):
            process.wait()
            thread.join(END_TIMEOUT)
            for stream in (process.stdin, process.stdout):
                if stream:
                    stream.close()


def _exactly(stream: IO[bytes], count: int) -> bytes:
    data = bytearray(count)
    view = memoryview(data)
    while view:
        got = os.readv(stream.fileno(), [view])
        if not got:
            raise EOFError
        view = view[got:]
    return bytes(data)


def _widen(fd: int) -> None:
    with contextlib.suppress(OSError):  # only slower
        fcntl.fcntl(fd, F_SETPIPE_SZ, PIPE)
