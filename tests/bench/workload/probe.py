"""Runs on the lab's client: asks a container again and again, and notes when each answer came.

    python3 probe.py udp ADDRESS PORT MARK...     heart.c; one socket for each firewall mark
    python3 probe.py redis ADDRESS PORT           a redis server, over TCP
        [--interval MS] [--load MB_PER_SECOND] [--keys N] [--out FILE]
    python3 probe.py verify ADDRESS PORT [--timeout SECONDS]
                                                  heart.c reads all of its memory: one JSON line

With marks each request goes out once per mark, which the client's routing sends to different hosts:
whichever has the container answers, so nothing needs to be switched over while it moves, and no
time for that is in the figures. `redis` is one connection that asks PING; with `--load` it
is first filled with `--keys` random values of 16 KiB, and a second process sets such values anew at
that rate.

Ends on SIGTERM; writes (time.monotonic(), number of the answer at the server, bytes written there)
as three doubles per answer to FILE, and prints one JSON line: {"asked", "answers", "reconnects",
"errors"}. "asking" on stderr: the first answer has come. For python3 alone.
"""

from __future__ import annotations

import argparse
import array
import contextlib
import json
import os
import random
import select
import signal
import socket
import struct
import sys
import time

ANSWER = struct.Struct("<cQQQQ")
REQUEST = struct.Struct("<cQ")
VALUE = 16384  # bytes of each value that the load sets


class Notes:
    """What was heard, and whether to go on."""

    def __init__(self) -> None:
        self.rows = array.array("d")
        self.asked = 0
        self.reconnects = 0
        self.errors: list[str] = []
        self.ended = False
        signal.signal(signal.SIGTERM, self._end)

    def _end(self, *_: object) -> None:
        self.ended = True

    def heard(self, number: float = 0.0, written: float = 0.0) -> None:
        if not self.rows:
            print("asking", file=sys.stderr, flush=True)
        self.rows.extend((time.monotonic(), number, written))


def udp_socket(mark: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    if mark:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    made.setblocking(False)
    return made


def ask_udp(notes: Notes, server: tuple[str, int], marks: list[int], interval: float) -> None:
    sockets = [udp_socket(mark) for mark in marks or [0]]
    upcoming = time.monotonic()
    while not notes.ended:
        now = time.monotonic()
        if now >= upcoming:
            upcoming = max(upcoming + interval, now)
            notes.asked += 1
            for sock in sockets:
                # No such neighbour just now, and the like: the silence is what is measured.
                with contextlib.suppress(OSError):
                    sock.sendto(REQUEST.pack(b"P", notes.asked), server)
        for sock in select.select(sockets, [], [], max(0.0, upcoming - now))[0]:
            try:
                got = sock.recv(100)
            except OSError:
                continue
            if len(got) == ANSWER.size and got[:1] == b"P":
                _, _, number, written, _ = ANSWER.unpack(got)
                notes.heard(number, written)


def connect(server: tuple[str, int], timeout: float) -> socket.socket:
    made = socket.create_connection(server, timeout)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def ask_redis(notes: Notes, server: tuple[str, int], interval: float) -> None:
    """PING over one connection; a new one only when the old one has broken."""
    sock: socket.socket | None = None
    while not notes.ended:
        try:
            if sock is None:
                sock = connect(server, 0.2)
            notes.asked += 1
            sock.sendall(b"PING\r\n")
            if not answer(sock, notes).startswith(b"+PONG"):
                raise ConnectionError("it has closed the connection")
            notes.heard(float(notes.asked))
            time.sleep(interval)
        except OSError as error:
            if notes.ended:
                return
            if sock is not None:
                notes.errors.append(f"{type(error).__name__}: {error}")
                notes.reconnects += 1
                sock.close()
                sock = None
            time.sleep(0.005)


def answer(sock: socket.socket, notes: Notes) -> bytes:
    """Wait for an answer for as long as it takes, unless this is to end."""
    while True:
        try:
            return sock.recv(100)
        except TimeoutError:
            if notes.ended:
                raise


def set_value(sock: socket.socket, number: int) -> None:
    key = b"key:%d" % number
    head = b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n" % (len(key), key, VALUE)
    sock.sendall(head + os.urandom(VALUE) + b"\r\n")
    if not sock.recv(100):
        raise SystemExit("redis has closed the connection of the load")


def fill_redis(server: tuple[str, int], keys: int) -> None:
    """So that there is memory to move."""
    sock = connect(server, 10.0)
    for number in range(keys):
        set_value(sock, number)
    sock.close()


def load_redis(server: tuple[str, int], rate: float, keys: int) -> None:
    """SET random keys to random values, `rate` bytes per second, until killed."""
    sock = connect(server, 10.0)
    sock.settimeout(None)
    begun, sent = time.monotonic(), 0
    while True:
        set_value(sock, random.randrange(keys))
        sent += VALUE
        ahead = begun + sent / rate - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)
        elif ahead < -0.05:  # what was missed while it was away is not caught up
            begun -= ahead


def verify(server: tuple[str, int], timeout: float) -> dict[str, int | str]:
    """Let the heart read its memory. It answers nothing else meanwhile."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(server)
    deadline = time.monotonic() + timeout
    sock.settimeout(timeout)
    sock.send(REQUEST.pack(b"V", 0))
    while time.monotonic() < deadline:
        got = sock.recv(100)
        if got[:1] == b"V":
            _, wrong, pages, digest = struct.unpack("<cQQQ", got)
            return {"wrong": wrong, "pages": pages, "digest": f"{digest:016x}"}
    raise SystemExit("no answer")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Ask a container and note the answers.")
    parser.add_argument("what", choices=["udp", "redis", "verify"])
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("marks", type=int, nargs="*")
    parser.add_argument("--interval", type=float, default=1.0, metavar="MS")
    parser.add_argument("--load", type=float, default=0.0, metavar="MB_PER_SECOND")
    parser.add_argument("--keys", type=int, default=16384)
    parser.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--out", default="/run/probe.bin")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    server = (given.address, given.port)
    if given.what == "verify":
        print(json.dumps(verify(server, given.timeout)))
        return
    loader = 0
    if given.load:
        fill_redis(server, given.keys)
        loader = os.fork()
        if not loader:
            load_redis(server, given.load * 1e6, given.keys)
    # The measure must not wait for a turn on a busy machine: a real client has one of its own.
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError:
        os.nice(-10)
    notes = Notes()
    if given.what == "udp":
        ask_udp(notes, server, given.marks, given.interval / 1000)
    else:
        ask_redis(notes, server, given.interval / 1000)
    if loader:
        os.kill(loader, signal.SIGKILL)
        os.waitpid(loader, 0)
    with open(given.out, "wb") as file:
        notes.rows.tofile(file)
    counts = {"asked": notes.asked, "answers": len(notes.rows) // 3, "reconnects": notes.reconnects}
    print(json.dumps({**counts, "errors": notes.errors[:5]}), flush=True)


if __name__ == "__main__":
    main()
