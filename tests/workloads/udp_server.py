"""Answers datagrams so that a client can tell a lost, repeated or foreign answer.

    python3 udp_server.py [PORT]        (default 7001, all addresses)

"N" is answered by "N COUNT NONCE": COUNT = 1, 2, 3... of all datagrams, NONCE made when the process
started. stdout: "listening PORT NONCE". Ends on SIGTERM.
"""

from __future__ import annotations

import os
import signal
import socket
import sys


def serve(port: int) -> None:
    nonce = os.urandom(8).hex()
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("", port))
    print(f"listening {sock.getsockname()[1]} {nonce}", flush=True)
    count = 0
    while True:
        data, peer = sock.recvfrom(2048)
        count += 1
        sock.sendto(b"%s %d %s" % (data, count, nonce.encode()), peer)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    serve(int(sys.argv[1]) if len(sys.argv) > 1 else 7001)
