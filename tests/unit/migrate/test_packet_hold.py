"""migrate.packet_hold: real packets in a real queue, in a network namespace of its own."""

from __future__ import annotations

import struct

import msgspec

from migrate.packet_hold import message, rules
from tests.unit.migrate.forwards import forward
from tests.unit.migrate.own_network import needs_root_and, run_in_own_network

HEAD = """
import socket, subprocess
from migrate import announce, packet_hold
from migrate.errors import CommandFailed
from migrate.forward_record import Published
from tests.unit.migrate import forwards
def sh(text):
    return subprocess.run(["sh", "-ec", text], check=True, stdout=-1, text=True).stdout
sh("ip link set lo up; ip link add wire type veth peer name far; ip link set wire up;"
   "ip addr add 10.77.0.11/24 dev wire")
there = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; exec cat"], stdin=-1, stdout=-1)
there.stdout.readline()
n = f"nsenter --net=/proc/{there.pid}/ns/net "
sh(f"ip link set far netns {there.pid}; {n} ip addr add 10.77.0.12/24 dev far;"
   f"{n} ip link set far up")
record = forwards.forward(ports=(Published("udp", "", 7000, 7000),))
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("", 7000))
server.settimeout(0.3)
client = announce.within(there.pid, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
client.connect(("10.77.0.11", 7000))
def send(*numbers):
    for number in numbers:
        client.send(b"%d" % number)
def got():
    found = []
    try:
        while True:
            found.append(int(server.recv(99)))
    except TimeoutError:
        return found
def left(): return sh("iptables -t mangle -S PREROUTING").count("NFQUEUE")
"""


def inside(script: str) -> None:
    run_in_own_network(HEAD + script)


needs_root = needs_root_and("ip", "iptables")


@needs_root
def test_packets_wait_up_to_the_bound_and_come_in_order() -> None:
    inside(
        """
hold = packet_hold.Hold(record, 8)
assert left() == 3
send(1)
assert got() == [1]  # ready, and nothing is held
hold.begin()
send(*range(2, 16))
assert got() == []
hold.release()
assert got() == list(range(2, 10))
send(20, 21)
assert got() == [20, 21]
hold.close()
assert left() == 0
send(22)
assert got() == [22]
"""
    )


@needs_root
def test_when_the_holder_dies_packets_pass() -> None:
    inside(
        """
hold = packet_hold.Hold(record, 8)
hold.begin()
send(1)
hold._socket.close()  # as the kernel does
send(2)
assert got() == [2]
assert left() == 3
from migrate import forward
forward._delete_tagged("mangle", record.tag)  # as the end of the forward does
assert left() == 0
"""
    )


@needs_root
def test_a_queue_that_somebody_has_is_not_taken() -> None:
    inside(
        """
first, second = (packet_hold.Hold(record, 8) for _ in range(2))
first.begin()
try: second.begin()
except OSError as problem: assert "cannot be opened" in str(problem)
else: raise AssertionError
second.close()
first.close()
"""
    )


@needs_root
def test_without_the_target_it_says_so() -> None:
    inside(
        """
packet_hold.rules = lambda record: ["PREROUTING -j NOSUCHTARGET"]
try: packet_hold.Hold(record, 8)
except CommandFailed as failure: assert "iptables-restore" in failure.message
else: raise AssertionError
"""
    )


def test_only_the_containers_packets_are_held() -> None:
    found = rules(forward())
    assert [rule.split(" -m comment")[0] for rule in found] == [
        "PREROUTING -m conntrack --ctdir ORIGINAL --ctreplsrc 10.99.0.10",
        "PREROUTING -m conntrack --ctdir REPLY --ctorigsrc 10.99.0.10",
        "PREROUTING -p udp --dport 27960 -m addrtype --dst-type LOCAL -m conntrack --ctstate NEW",
        "PREROUTING -p tcp --dport 8080 -d 10.77.0.11 -m conntrack --ctstate NEW",
    ]
    assert all(rule.endswith("--queue-num 7700 --queue-bypass") for rule in found)
    other = msgspec.structs.replace(forward(), slot=3)
    assert all("--queue-num 7703" in rule for rule in rules(other))


def test_a_message_is_aligned_and_says_its_length() -> None:
    made = message(2, 7700, (2, b"12345"), (3, b"1234"))
    assert struct.unpack("=I", made[:4])[0] == len(made) == 16 + 4 + 12 + 8
    assert made[4:6] == struct.pack("=H", 3 << 8 | 2)
    assert made[18:20] == struct.pack("!H", 7700)
    assert made[20:24] == struct.pack("=HH", 9, 2)  # its length does not count the padding
