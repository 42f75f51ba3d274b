"""Threads, a lock, timers and the kernel objects that wake them: all in one process.

    python3 threads.py [THREADS]

stdout: one JSON line per 100 ms,
    {"nonce", "tick", "counters": [...], "sum", "timer", "eventfd", "pipe", "held", "broken": []}
`counters` are one per thread (default 8), each counting in memory; `sum` is shared by them under a
lock, and is the total of the counters whenever the lock is free; `timer`, `eventfd` and `pipe`
count what came through a timerfd, an eventfd and a pipe, all waited for with one epoll; `held` is
what was given to the eventfd and has not come through yet: a few at most. No other number may ever
go down, `nonce` (made at the start) may not change, and `broken` must stay empty.
Ends on SIGTERM.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import struct
import sys
import threading
import time

TICK = 0.1  # seconds


class Shared:
    """What the threads count, and the promises about it."""

    def __init__(self, threads: int) -> None:
        self.lock = threading.Lock()
        self.counters = [0] * threads
        self.sum = 0
        self.broken: list[str] = []
        self.timer = 0
        self.events = 0
        self.events_sent = 0
        self.piped = 0

    def work(self, index: int) -> None:
        mine = 0  # on this thread's own stack as well as in the list
        while True:
            with self.lock:
                mine += 1
                if self.counters[index] != mine - 1:
                    self.broken.append(f"thread {index}: {self.counters[index]} after {mine - 1}")
                self.counters[index] = mine
                self.sum += 1
            time.sleep(0.001 * (1 + index % 3))

    def wait_for_events(self, timer: int, event: int, pipe: int) -> None:
        epoll = select.epoll()
        for fd in (timer, event, pipe):
            epoll.register(fd, select.EPOLLIN)
        expected = 0
        while True:
            for fd, _ in epoll.poll():
                if fd == pipe:
                    (number,) = struct.unpack("<Q", os.read(pipe, 8))
                    if number != expected:
                        self.broken.append(f"pipe: {number} instead of {expected}")
                    expected = number + 1
                    self.piped += 1
                elif fd == timer:
                    self.timer += int.from_bytes(os.read(timer, 8), sys.byteorder)
                else:
                    self.events += int.from_bytes(os.read(event, 8), sys.byteorder)

    def line(self, nonce: str, tick: int) -> str:
        with self.lock:
            counters, total = list(self.counters), self.sum
        events = self.events  # once: the other thread goes on counting
        if sum(counters) != total:
            self.broken.append(f"sum {total} of {counters}")
        if events > self.events_sent:
            self.broken.append(f"{events} events of {self.events_sent}")
        return json.dumps(
            {
                "nonce": nonce,
                "tick": tick,
                "counters": counters,
                "sum": total,
                "timer": self.timer,
                "eventfd": events,
                "pipe": self.piped,
                "held": self.events_sent - events,
                "broken": self.broken,
            }
        )


def make_timer(seconds: float) -> int:
    """A periodic timerfd (timerfd_create(2)); Python has no call for it before 3.13."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = int(libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_CLOEXEC))
    nanoseconds = int(seconds * 1e9)
    period = struct.pack("@llll", 0, nanoseconds, 0, nanoseconds)
    if fd < 0 or libc.timerfd_settime(fd, 0, period, None) != 0:
        raise OSError(ctypes.get_errno(), "timerfd")
    return fd


def main() -> None:
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    nonce = os.urandom(8).hex()
    shared = Shared(threads)
    event = os.eventfd(0)
    pipe_out, pipe_in = os.pipe()
    timer = make_timer(0.02)
    for index in range(threads):
        threading.Thread(target=shared.work, args=(index,), daemon=True).start()
    waiter = threading.Thread(
        target=shared.wait_for_events, args=(timer, event, pipe_out), daemon=True
    )
    waiter.start()
    tick = 0
    while True:
        shared.events_sent += 3
        os.eventfd_write(event, 3)
        os.write(pipe_in, struct.pack("<Q", tick))
        print(shared.line(nonce, tick), flush=True)
        tick += 1
        time.sleep(TICK)


if __name__ == "__main__":
    main()
