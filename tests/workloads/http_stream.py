"""A download that takes a while, from both ends: who serves it, and who fetches and checks it.

    python3 http_stream.py serve PORT [MIB]     every GET gets MIB MiB of made-up, fixed content
    python3 http_stream.py fetch HOST PORT [FILE]
                                                fetches it, prints {"bytes", "right", "gap_ms"}

The content is the same for everyone, so the hash is known without a second copy. "connected" on
stderr says that the first bytes are there. FILE: when three quarters have come it waits until there
is such a file, so that the download is in progress until then, however slow the rest of the world
is. Exit code 0 when all of it came, and was right.
"""

from __future__ import annotations

import hashlib
import http.client
import http.server
import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

MIB = 1 << 20
SEED = 4


def content(mib: int) -> Iterator[bytes]:
    numbers = random.Random(SEED)
    for _ in range(mib):
        yield numbers.randbytes(MIB)


class Handler(http.server.BaseHTTPRequestHandler):
    mib = 0

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(self.mib * MIB))
        self.end_headers()
        for piece in content(self.mib):
            self.wfile.write(piece)


def fetch(host: str, port: int, go_on: Path | None) -> int:
    connection = http.client.HTTPConnection(host, port, timeout=60)
    connection.request("GET", "/")
    answer = connection.getresponse()
    wanted = int(answer.headers["Content-Length"])
    digest, got, gap, last = hashlib.sha256(), 0, 0.0, time.monotonic()
    error = ""
    try:
        while piece := answer.read(65536):
            if not got:
                print("connected", file=sys.stderr, flush=True)
            digest.update(piece)
            got += len(piece)
            while go_on and got > wanted * 3 // 4 and not go_on.exists():
                time.sleep(0.05)
            now = time.monotonic()
            gap, last = max(gap, now - last), now
    except (OSError, http.client.HTTPException) as problem:
        error = repr(problem)
    right = hashlib.sha256()
    for piece in content(wanted // MIB):
        right.update(piece)
    same = digest.digest() == right.digest()
    print(json.dumps({"bytes": got, "right": same, "gap_ms": gap * 1000, "error": error}))
    return 0 if same else 1


def main() -> int:
    if sys.argv[1] == "fetch":
        return fetch(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]) if sys.argv[4:] else None)
    Handler.mib = int(sys.argv[3])
    http.server.ThreadingHTTPServer(("", int(sys.argv[2])), Handler).serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
