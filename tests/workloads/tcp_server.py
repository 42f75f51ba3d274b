"""A line server whose answers tell whether a connection, and the process, are still the same.

    python3 tcp_server.py [PORT]        (default 7000, all addresses)

Per connection: "N\\n" is answered by "N COUNT NONCE\\n", COUNT = 1, 2, 3... for this connection,
NONCE made when the process started. stdout: "listening PORT NONCE", then one line for each
connection that comes or goes. One thread, one selector, any number of clients. Ends on SIGTERM.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
from dataclasses import dataclass


@dataclass
class Client:
    """One connection: what has come of an unfinished line, what has not gone out yet."""

    sock: socket.socket
    name: str
    count: int = 0
    unread: bytes = b""
    unsent: bytes = b""

    def answer(self, data: bytes, nonce: str) -> None:
        *lines, self.unread = (self.unread + data).split(b"\n")
        for line in lines:
            self.count += 1
            self.unsent += b"%s %d %s\n" % (line, self.count, nonce.encode())


def serve(port: int) -> None:
    nonce = os.urandom(8).hex()
    selector = selectors.DefaultSelector()
    listener = socket.create_server(("", port), backlog=64)
    listener.setblocking(False)
    selector.register(listener, selectors.EVENT_READ, None)
    print(f"listening {listener.getsockname()[1]} {nonce}", flush=True)
    while True:
        for key, events in selector.select():
            client: Client | None = key.data
            if client is None:
                sock, (host, remote_port) = listener.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                client = Client(sock, f"{host}:{remote_port}")
                selector.register(sock, selectors.EVENT_READ, client)
                print(f"come {client.name}", flush=True)
            elif not _exchange(client, events, nonce):
                selector.unregister(client.sock)
                client.sock.close()
                print(f"gone {client.name} after {client.count}", flush=True)
            else:
                more = selectors.EVENT_WRITE if client.unsent else 0
                selector.modify(client.sock, selectors.EVENT_READ | more, client)


def _exchange(client: Client, events: int, nonce: str) -> bool:
    """Read and write what can be; False when the connection is over."""
    try:
        if events & selectors.EVENT_READ:
            data = client.sock.recv(65536)
            if not data:
                return False
            client.answer(data, nonce)
        sent = client.sock.send(client.unsent) if client.unsent else 0
    except BlockingIOError:
        return True
    except OSError as error:
        print(f"error {client.name}: {error}", flush=True)
        return False
    client.unsent = client.unsent[sent:]
    return True


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    serve(int(sys.argv[1]) if len(sys.argv) > 1 else 7000)
