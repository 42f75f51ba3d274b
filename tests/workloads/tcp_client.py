"""The other end of tcp_server.py: one connection that must survive; runs outside the container.

    python3 tcp_client.py HOST PORT [--interval MS] [--seconds S] [--gap-ms MS]

Connects once and never again. Sends "1\\n", "2\\n"... every `--interval` ms (0: as soon as the
answer is there), one request at a time, and checks that each answer has the same number, a count
that goes on by one, and the nonce of the first answer. After `--seconds`, or on SIGTERM, or when
the connection ends, it prints one JSON line:
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

OVERDUE = 1.0  # seconds
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


class Stop(Exception):
    """SIGTERM: leave whatever call is waiting."""


def talk(sock: socket.socket, stats: Stats, args: argparse.Namespace) -> None:
    """Ask and check until the time is up. Raises Stop, and OSError when the connection ends."""
    interval = args.interval / 1000
    answers = sock.makefile("rb")
    while (left := stats.start + args.seconds - time.monotonic()) > 0:
        sock.settimeout(left)
        stats.sent += 1
        sock.sendall(b"%d\n" % stats.sent)
        line = answers.readline()
        if not line.endswith(b"\n"):
            raise ConnectionError("the server closed the connection")
        stats.note_gap(interval, args.gap_ms)
        stats.check(line.decode("ascii", "replace").strip())
        time.sleep(interval)


def main() -> int:
    parser = argparse.ArgumentParser(description="One TCP connection that must survive.")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--interval", type=float, default=10.0, metavar="MS")
    parser.add_argument("--seconds", type=float, default=1e6)
    parser.add_argument("--gap-ms", type=float, default=50.0)
    args = parser.parse_args()

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Stop

    stats = Stats()
    signal.signal(signal.SIGTERM, stop)
    try:
        with socket.create_connection((args.host, args.port), timeout=10) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stats.start = stats.last = time.monotonic()
            print("connected", file=sys.stderr, flush=True)
            talk(sock, stats, args)
    except (TimeoutError, Stop):
        # The time is up while an answer is on its way: an error only if it is long overdue.
        silent = time.monotonic() - stats.last
        if stats.sent > stats.replies and silent > OVERDUE:
            stats.errors.append(f"no answer to {stats.sent} for {silent:.1f} s")
    except OSError as error:
        stats.errors.append(f"{type(error).__name__} after {stats.replies} replies: {error}")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    figures = {name: value for name, value in asdict(stats).items() if name not in HIDDEN}
    print(json.dumps(figures), flush=True)
    return 0 if stats.replies and not stats.errors else 1


if __name__ == "__main__":
    sys.exit(main())
