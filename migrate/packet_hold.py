"""Packets for a frozen container, held by the kernel until it runs again: `--buffer PACKETS`.

Without it they are dropped (migrate/netlock.py): a datagram is lost, and TCP sends again only when
its timer has run out, the later the longer the silence was. Here they wait in a queue of the
kernel's (nfnetlink_queue), at the host that receives them, after conntrack has told whose they are
and before any address is translated or a route looked up: so they go the way that holds when they
are let go. The rule that queues them lets them pass as long as nobody has opened the queue; should
we die, the kernel closes it, and what was in it is lost as it was without. So it is in a rollback:
the kernel empties all queues when a base chain goes (nf_queue_nf_hook_drop), as the forward's do.

Netlink by hand: 40 lines, where pyroute2 has no such messages and the bindings of
libnetfilter_queue want a compiler. The messages are those of linux/netfilter/nfnetlink_queue.h.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

from migrate.forward_record import PRIORITIES, Forward
from migrate.run import run

NETLINK_NETFILTER, SUBSYSTEM = 12, 3
VERDICT_HEADER, BATCH = 2, 3
CONFIG, COMMAND, PARAMETERS, LENGTH = 2, 1, 2, 3
BIND, COPY_META, ACCEPT = 1, 1, 1
REQUEST, ACK, ERROR = 1, 4, 2
ALL = 0x7FFFFFFF  # ids are compared by their difference: this is after all that can have been given
SO_RCVBUFFORCE = 33
NOTICE = 2048  # bytes that the kernel counts for the notice of one packet, and more


def message(kind: int, queue: int, *attributes: tuple[int, bytes], flags: int = REQUEST) -> bytes:
    """One netlink message to a queue."""
    body = struct.pack("!BBH", socket.AF_UNSPEC, 0, queue)
    for name, value in attributes:
        body += struct.pack("=HH", 4 + len(value), name) + value + bytes(-len(value) % 4)
    return struct.pack("=IHHII", 16 + len(body), SUBSYSTEM << 8 | kind, flags, 0, 0) + body


def rules(forward: Forward) -> list[str]:
    """What is to be held, for mangle/PREROUTING: what comes by the container's connections, whoever
    began them, and new ones to its published ports."""
    end = f"-m comment --comment {forward.tag} -j NFQUEUE --queue-num {queue_of(forward)}"
    address = forward.address
    which = [
        f"-m conntrack --ctdir ORIGINAL --ctreplsrc {address}",
        f"-m conntrack --ctdir REPLY --ctorigsrc {address}",
    ]
    for port in forward.ports:
        where = f"-d {port.host_ip}" if port.host_ip else "-m addrtype --dst-type LOCAL"
        which.append(
            f"-p {port.protocol} --dport {port.host_port} {where} -m conntrack --ctstate NEW"
        )
    return [f"PREROUTING {one} {end} --queue-bypass" for one in which]


def queue_of(forward: Forward) -> int:
    """Its number: each forward of a host has a slot of its own."""
    return PRIORITIES + forward.slot


class Hold:
    """The queue of one forward, in the order of the methods."""

    def __init__(self, forward: Forward, packets: int) -> None:
        """Everything that takes time; nothing is held yet. Raises CommandFailed, OSError."""
        self._forward = forward
        self._queue = queue_of(forward)
        self._packets = packets
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, packets * NOTICE)
        self._socket.settimeout(0.05)
        self._rules("-I")

    def _rules(self, verb: str) -> None:
        text = "".join(f"{verb} {rule}\n" for rule in rules(self._forward))
        run(["iptables-restore", "-w", "10", "--noflush"], stdin=f"*mangle\n{text}COMMIT\n")

    def begin(self) -> None:
        """From now on packets wait, `packets` at most; more are dropped. Raises OSError."""
        settings = (
            (COMMAND, struct.pack("!BBH", BIND, 0, 0)),
            (PARAMETERS, struct.pack("!IB", 0, COPY_META)),
            (LENGTH, struct.pack("!I", self._packets)),
        )
        self._socket.send(message(CONFIG, self._queue, *settings, flags=REQUEST | ACK))
        answer = self._socket.recv(4096)
        kind, code = struct.unpack("=H", answer[4:6])[0], struct.unpack("=i", answer[16:20])[0]
        if kind == ERROR and code:
            raise OSError(-code, "the queue cannot be opened")

    def release(self) -> None:
        """Let them go, in their order, and those that come until `close`."""
        self._accept()
        self._thread = threading.Thread(target=self._pass_on, name="packets", daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        header = struct.pack("!II", ACCEPT, ALL)
        # Nothing in the queue: that is an error, too.
        with contextlib.suppress(OSError):
            self._socket.send(message(BATCH, self._queue, (VERDICT_HEADER, header)))

    def _pass_on(self) -> None:
        while not self._done.is_set():
            with contextlib.suppress(OSError):  # a timeout; too many notices
                self._socket.recv(65536)
                self._accept()

    def close(self) -> None:
        """No packet is queued any more, and none stays. Raises CommandFailed."""
        try:
            self._rules("-D")
        finally:
            self._done.set()
            if self._thread:
                self._thread.join()
            self._accept()
            self._socket.close()
