"""Runs the migrations of a schedule: several `migrate` at once, each a process of its own.

Each is in a session of its own: a Ctrl-C on the terminal reaches this process alone, which passes
it on, so that each undoes what has not reached commit. When this process is killed they go on to
their ends, and hold its lock until then.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from migrate.interrupts import heeded
from migrate.progress_many import Quiet
from migrate.schedule import Job, Result, Schedule
from transport.errors import Failure

PROGRAM = (sys.executable, "-I", "-m", "migrate.cli")
_LINE = 1 << 20


class Runner:
    """`run` does all of a schedule. `command`: the words after `migrate` for a job.

    `begins` and `ended` are called for each try; `lock`: a descriptor that the processes hold.
    """

    def __init__(
        self, schedule: Schedule, command: Callable[[Job], Sequence[str]], shown: Quiet,
        begins: Callable[[Job], None], ended: Callable[[Job], None], lock: int,
        program: Sequence[str] = PROGRAM,
    ) -> None:  # fmt: skip
        self.interrupted = ""
        self._schedule = schedule
        self._command = command
        self._shown = shown
        self._begins = begins
        self._ended = ended
        self._lock = lock
        self._program = program
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._tasks: dict[asyncio.Task[Result], Job] = {}
        self._signalled = asyncio.Event()

    def run(self) -> None:
        """Returns when every migration has ended, also after a signal. From then on signals are
        ignored: there is nothing to do any more but to say so."""
        numbers = heeded()
        try:
            asyncio.run(self._run(numbers))
        finally:
            # asyncio leaves the default handlers behind: to be killed. `_run` has blocked them.
            for number in numbers:
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
        self._shown.close()

    async def _run(self, numbers: Sequence[signal.Signals]) -> None:
        loop = asyncio.get_running_loop()
        for number in numbers:
            loop.add_signal_handler(number, self._signal, number)
        try:
            await self._until_over(loop)
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, numbers)

    async def _until_over(self, loop: asyncio.AbstractEventLoop) -> None:
        signalled = loop.create_task(self._signalled.wait())
        while not self._schedule.over:
            for job in self._schedule.ready(time.monotonic()):
                self._shown.begin(job)
                self._tasks[loop.create_task(self._migrate(job))] = job
            waiting = [*self._tasks] if self.interrupted else [*self._tasks, signalled]
            done, _ = await asyncio.wait(
                waiting, timeout=self._pause(), return_when=asyncio.FIRST_COMPLETED
            )
            for task in [task for task in self._tasks if task in done]:
                job = self._tasks.pop(task)
                self._schedule.ended(job.name, task.result(), time.monotonic())
                if self.interrupted:
                    self._schedule.stop(f"interrupted by {self.interrupted}")
                self._ended(job)
                self._shown.end(job)
        signalled.cancel()

    def _pause(self) -> float | None:
        now = time.monotonic()
        when = self._schedule.next_time(now)
        return None if when is None else when - now

    def _signal(self, number: int) -> None:
        self.interrupted = signal.Signals(number).name
        self._schedule.stop(f"interrupted by {self.interrupted}")
        self._signalled.set()
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)

    async def _migrate(self, job: Job) -> Result:
        words = [*self._command(job), "--json", "--progress-json"]
        try:
            self._begins(job)
            process = await asyncio.create_subprocess_exec(
                *self._program, *words, stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
                start_new_session=True, pass_fds=(self._lock,), limit=_LINE,
            )  # fmt: skip
        except Failure as failure:
            return Result(failure.exit_code, failure.message, failure.remedy, failure.code)
        except OSError as error:  # no memory, too many processes
            return Result(1, f"`migrate` cannot be started: {error}", code="CommandFailed")
        self._processes[job.name] = process
        if self.interrupted:  # the signal came while it was started
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        try:
            out, (said, phase) = await asyncio.gather(_read(process), self._listen(process, job))
            code = await process.wait()
        finally:
            self._processes.pop(job.name, None)
        return replace(result_of(code, out.decode(errors="replace"), said), phase=phase)

    async def _listen(self, process: asyncio.subprocess.Process, job: Job) -> tuple[str, str]:
        """Show what it says; gives the last line that was no progress, and the last phase."""
        assert process.stderr
        said = phase = ""
        while line := await process.stderr.readline():
            text = line.decode(errors="replace").strip()
            try:
                event = json.loads(text)
            except ValueError:
                said = text or said
                continue
            if isinstance(event, dict):
                phase = str(event.get("phase") or phase)
                self._shown.event(job, event)
        return said, phase


async def _read(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout
    return await process.stdout.read()


def result_of(code: int, out: str, said: str) -> Result:
    """What a `migrate --json` that ended with `code` has left: its output, its last words."""
    lines = out.strip().splitlines()
    shown: dict[str, Any] = {}
    with suppress(ValueError, IndexError):
        parsed = json.loads(lines[-1])
        shown = parsed if isinstance(parsed, dict) else {}
    if code == 0:
        return Result(0, summary=shown)
    if code < 0:
        return Result(code, f"`migrate` was ended by {signal.Signals(-code).name}", code="Killed")
    return Result(
        code, str(shown.get("message") or said or f"`migrate` ended with {code}"),
        str(shown.get("remedy") or ""), str(shown.get("error") or ""),
    )  # fmt: skip
