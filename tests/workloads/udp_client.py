"""The other end of udp_server.py: asks every few milliseconds and looks at what comes back.

    python3 udp_client.py HOST PORT [--interval MS] [--gap-ms MS] [--slack-ms MS] [--before-ms MS]

Sends "1", "2"... whether or not answers come. On SIGTERM it waits for the last ones (until that to
the last question has come, or PATIENCE is over) and prints one JSON line:
    {"sent", "replies", "nonces", "repeated", "lost_outside", "in_order", "gaps": [[s, ms]...]}
A gap is a time over `--gap-ms` (100) in which no answer came; `lost_outside` are the numbers that
were asked outside of all gaps and never answered; `repeated` those answered twice, or of which the
server counted more than it got. To a gap belong `--slack-ms` (50) after it, and `--before-ms` (500)
before: what was on its way when it began, or waited in the server's socket for a busy machine
to run the server, and was not answered before it was frozen. Exit code 0 when there is none of
either and one nonce.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import select
import signal
import socket
import sys
import time
from itertools import pairwise

AFTER, PATIENCE = 0.2, 5.0  # seconds after SIGTERM: at least, for what is repeated; at most


def gaps_of(times: list[float], longer_than: float) -> list[tuple[float, float]]:
    """(begin, end) of the times in which no answer came."""
    return [(one, other) for one, other in pairwise(times) if other - one > longer_than]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--interval", type=float, default=10.0, metavar="MS")
    parser.add_argument("--gap-ms", type=float, default=100.0)
    parser.add_argument("--slack-ms", type=float, default=50.0)
    parser.add_argument("--before-ms", type=float, default=500.0)
    args = parser.parse_args()
    slack, before = args.slack_ms / 1000, args.before_ms / 1000
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((args.host, args.port))
    sock.setblocking(False)
    start = time.monotonic()
    asked: dict[int, float] = {}
    answered: dict[int, int] = {}
    nonces: set[str] = set()
    times: list[float] = []
    counts: list[int] = []
    number, due = 0, start
    print("connected", file=sys.stderr, flush=True)
    over = float("inf")  # since when nothing more is asked
    while (now := time.monotonic()) < over + PATIENCE:
        if ended:
            over = min(over, now)
            if now > over + AFTER and number in answered:
                break
        if now >= due and not ended:
            number += 1
            due = max(due + args.interval / 1000, now)
            asked[number] = now - start
            # No route for a moment, or an ICMP error of the datagram before.
            with contextlib.suppress(OSError):
                sock.send(b"%d" % number)
        wait = 0.01 if ended else min(0.01, max(0.0, due - now))
        readable, _, _ = select.select([sock], [], [], wait)
        if not readable:
            continue
        try:
            words = sock.recv(2048).decode().split()
        except OSError:
            continue
        times.append(time.monotonic() - start)
        answered[int(words[0])] = answered.get(int(words[0]), 0) + 1
        counts.append(int(words[1]))
        nonces.add(words[2])
    gaps = gaps_of(times, args.gap_ms / 1000)
    first, last = (times[0], times[-1]) if times else (0.0, 0.0)
    lost = [
        n for n, at in asked.items()
        if n not in answered and first < at < last - slack
        and not any(begin - before <= at <= end + slack for begin, end in gaps)
    ]  # fmt: skip
    repeated = [n for n, times_answered in answered.items() if times_answered > 1]
    figures = {
        "sent": number, "replies": len(times), "nonces": len(nonces), "repeated": repeated,
        "lost_outside": lost, "in_order": counts == sorted(set(counts)),
        "gaps": [(round(begin, 3), round((end - begin) * 1000, 1)) for begin, end in gaps],
    }  # fmt: skip
    print(json.dumps(figures), flush=True)
    return 0 if times and len(nonces) == 1 and not repeated and not lost else 1


if __name__ == "__main__":
    sys.exit(main())
