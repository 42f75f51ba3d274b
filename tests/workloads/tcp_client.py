"""The other end of tcp_server.py: one connection that must survive; runs outside the container.

    python3 tcp_client.py HOST PORT [--interval MS] [--seconds S] [--gap-ms MS] [--patience S]

Connects once and never again. Sends "1\\n", "2\\n"... every `--interval` ms (0: as soon as the
answer is there), one request at a time, and checks that each answer has the same number, a count
that goes on by one, and the nonce of the first answer. On SIGTERM it asks once more, and that is
to be answered within `--patience` s (10): that it speaks now is what counts, and TCP sends again
the later, the longer the silence was. Then, or after `--seconds`, or when the connection ends, it
prints one JSON line:
    {"replies", "sent", "nonce", "max_gap_ms", "gaps": [[s after start, ms]...], "errors": [...]}
A gap is the time between two answers, less the interval; those over `--gap-ms` (50) are listed.
Exit code 0 if there was an answer and no error. "connected" on stderr says that it has begun.
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import sys
import time
from dataclasses import asdict, dataclass, field

LOOK = 0.05  # seconds between two looks for SIGTERM
HIDDEN = ("start", "last")  # fields that mean nothing to another process


@dataclass
class Stats:
    replies: int = 0
    sent: int = 0
    nonce: str = ""
    max_gap_ms: float = 0.0
    gaps: list[tuple[float, float]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    start: float = 0.0
    last: float = 0.0

    def note_gap(self, interval: float, listed_over_ms: float) -> None:
        """An answer has come: how long has it been silent, beyond the `interval` between asking?"""
        now = time.monotonic()
        gap = round((now - self.last - (interval if self.replies else 0.0)) * 1000, 1)
        self.max_gap_ms = max(self.max_gap_ms, gap)
        if gap > listed_over_ms:
            self.gaps.append((round(self.last - self.start, 3), gap))
        self.last = now

    def check(self, line: str) -> None:
        """Take one answer: it must be the one to the last request, from the same process."""
        self.replies += 1
        number, count, nonce = (*line.split(), "", "", "")[:3]
        self.nonce = self.nonce or nonce
        expected = (str(self.sent), str(self.replies), self.nonce)
        if (number, count, nonce) != expected:
            self.errors.append(f"answer {line!r} instead of {' '.join(expected)!r}")


class Overdue(Exception):
    """The answer that was to be the last one does not come."""


@dataclass
class Talk:
    """One connection, `seconds` long unless it is ended before."""

    sock: socket.socket
    stats: Stats
    seconds: float
    patience: float
    ended: float = float("inf")  # when SIGTERM came
    unread: bytes = b""

    def over(self) -> float:
        """Since when nothing new is to be asked: seconds, less than 0 as long as it goes on."""
        return time.monotonic() - min(self.ended, self.stats.start + self.seconds)

    def line(self) -> bytes:
        """The next line of the server. Raises Overdue, and OSError when the connection ends."""
        while b"\n" not in self.unread:
            try:
                data = self.sock.recv(65536)
            except TimeoutError:
                if self.over() > self.patience:
                    raise Overdue from None
                continue
            if not data:
                raise ConnectionError("the server closed the connection")
            self.unread += data
        line, _, self.unread = self.unread.partition(b"\n")
        return line

    def run(self, interval: float, gap_ms: float) -> None:
        """Ask and check until it is over."""
        self.sock.settimeout(LOOK)
        last = False
        while not last and self.stats.start + self.seconds > time.monotonic():
            last = self.over() >= 0  # asked after SIGTERM
            self.stats.sent += 1
            self.sock.sendall(b"%d\n" % self.stats.sent)
            line = self.line()
            self.stats.note_gap(interval, gap_ms)
            self.stats.check(line.decode("ascii", "replace").strip())
            time.sleep(interval)


def main() -> int:
    parser = argparse.ArgumentParser(description="One TCP connection that must survive.")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--interval", type=float, default=10.0, metavar="MS")
    parser.add_argument("--seconds", type=float, default=1e6)
    parser.add_argument("--gap-ms", type=float, default=50.0)
    parser.add_argument("--patience", type=float, default=10.0, metavar="S")
    args = parser.parse_args()
    stats = Stats()
    try:
        with socket.create_connection((args.host, args.port), timeout=10) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stats.start = stats.last = time.monotonic()
            talk = Talk(sock, stats, args.seconds, args.patience)

            def stop(*_: object) -> None:
                talk.ended = min(talk.ended, time.monotonic())

            signal.signal(signal.SIGTERM, stop)
            print("connected", file=sys.stderr, flush=True)
            talk.run(args.interval / 1000, args.gap_ms)
    except Overdue:
        silent = time.monotonic() - stats.last
        stats.errors.append(f"no answer to {stats.sent} for {silent:.1f} s")
    except OSError as error:
        stats.errors.append(f"{type(error).__name__} after {stats.replies} replies: {error}")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    figures = {name: value for name, value in asdict(stats).items() if name not in HIDDEN}
    print(json.dumps(figures), flush=True)
    return 0 if stats.replies and not stats.errors else 1


if __name__ == "__main__":
    sys.exit(main())
