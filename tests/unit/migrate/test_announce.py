"""migrate.announce: real macvlans on a real wire, in namespaces of their own."""

from __future__ import annotations

from migrate.announce import Station, frames, resumed, silenced
from migrate.neighbour_frames import parse_arp
from migrate.same_l2 import Address
from tests.unit.migrate.own_network import needs_root_and, run_in_own_network

MAC = "02:42:0a:4d:00:82"
BRIDGE = Station("eth0", MAC, Address("lan", "10.77.0.130", "fd77::130", "bridge"))

# Host a with a container, host b with one of the same addresses, a wire between them. The container
# at b has its wire only when the test lets it.
HEAD = """
import os, socket, subprocess, sys, threading, time
from migrate import announce
from migrate.errors import CommandFailed, PlacementFailed
from migrate.neighbour_frames import parse_arp
from migrate.same_l2 import Address
MAC, IP, SIX = "02:42:0a:4d:00:82", "10.77.0.130", "fd77::130"
WHERE = (Address("lan", IP, SIX, "bridge"),)
def sh(text):
    return subprocess.run(["sh", "-ec", text], check=True, stdout=-1, text=True).stdout
def container(parent, home):
    held = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; exec cat"], stdin=-1, stdout=-1)
    held.stdout.readline()
    pid, n = held.pid, f"nsenter --net=/proc/{held.pid}/ns/net "
    sh(f"{home} ip link add link {parent} name mv type macvlan mode bridge;"
       f"{home} ip link set mv netns {pid}; {n} ip link set mv name eth0 address {MAC};"
       f"{n} ip addr add {IP}/24 dev eth0; {n} ip addr add {SIX}/64 dev eth0 nodad;"
       f"{n} ip link set eth0 up; {n} ip link set lo up")
    return held, n
sh("ip link set lo up; ip link add wire type veth peer name far; ip link set wire up;"
   "ip link set far up")
b = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; exec cat"], stdin=-1, stdout=-1)
b.stdout.readline()
B = f"nsenter --net=/proc/{b.pid}/ns/net "
sh(f"ip link set far netns {b.pid}; {B} ip link set far up; {B} ip addr add 10.77.0.12/24 dev far")
held, n = container("wire", "")
def asked(): return announce.within(b.pid, lambda: announce.who_has("far", IP, MAC))
def insist(): return announce.within(b.pid, lambda: announce.insist("far", "lan", IP, MAC))
found = announce.stations(held.pid, WHERE)
"""


def inside(script: str) -> None:
    run_in_own_network(HEAD + script)


needs_root = needs_root_and("ip", "nsenter")


@needs_root
def test_its_place_is_found_and_heard() -> None:
    inside(
        """
assert found == (announce.Station("eth0", MAC, WHERE[0]),), found
assert announce.stations(held.pid, (Address("x", "", SIX),))[0].name == "eth0"
assert announce.stations(held.pid, (Address("x", "10.77.0.131", "fd77::131"),)) == ()
assert asked() == {MAC}
insist()
"""
    )


@needs_root
def test_the_old_place_falls_silent_and_may_answer_again() -> None:
    inside(
        """
announce.PATIENCE = 1.5  # longer than this machine may be without a CPU
silence = announce.Silence(held.pid, found)
assert asked() == {MAC}
silence.do()
silence.do()
assert asked() == set()
assert "mode private" in sh(n + "ip -d link show eth0")
try: insist()
except PlacementFailed as failure: assert "does not answer" in failure.message
else: raise AssertionError
announce.Silence(held.pid, found).close()  # given up
heard, bound = [], threading.Event()
def listen():
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as sock:
        sock.bind(("far", 0)); sock.settimeout(2); bound.set()
        try:
            while True: heard.append(sock.recv(200))
        except TimeoutError: pass
listener = threading.Thread(target=announce.within, args=(b.pid, listen))
listener.start(); bound.wait(30)
announce.stay(held.pid, found)
listener.join()
said = [frame for frame in heard if frame in announce.frames(found[0])]
assert len(said) == 9, len(said)
assert asked() == {MAC}
assert "mode bridge" in sh(n + "ip -d link show eth0")
"""
    )


@needs_root
def test_another_one_with_that_address_is_noticed() -> None:
    inside(
        """
sh(f"ip addr add {IP}/32 dev wire")
other = sh("ip -o link show wire").partition("link/ether ")[2].split()[0]
assert asked() == {MAC, other}
try: insist()
except PlacementFailed as failure: assert other in failure.message
else: raise AssertionError
"""
    )


@needs_root
def test_where_there_is_nothing_to_speak_by() -> None:
    inside(
        """
try: announce.Voice(held.pid, (Address("lan", "10.77.0.131", ""),))
except CommandFailed as failure: assert "no interface" in failure.message
else: raise AssertionError
try: announce.Voice(1 << 22, WHERE)
except CommandFailed: pass
else: raise AssertionError
try: announce.insist("nosuch", "lan", IP, MAC)
except PlacementFailed as failure: assert "nosuch" in failure.message
else: raise AssertionError
voice = announce.Voice(held.pid, WHERE)
sh(n + "ip link del eth0")
voice.speak()  # into the void
voice.close()
"""
    )


def test_what_is_said() -> None:
    assert len(frames(BRIDGE)) == 3
    only_six = Station("eth0", MAC, Address("lan", "", "fd77::130"))
    assert [parse_arp(frame) for frame in frames(only_six)] == [None]


def test_only_a_bridge_mode_is_changed_and_changed_back() -> None:
    assert silenced(BRIDGE) == [
        "link set dev eth0 arp off", "link set dev eth0 type macvlan mode private",
    ]  # fmt: skip
    assert resumed(BRIDGE) == [
        "link set dev eth0 arp on", "link set dev eth0 type macvlan mode bridge",
    ]  # fmt: skip
    for mode in ("", "vepa", "private"):
        station = Station("eth0", MAC, Address("lan", "10.77.0.130", "", mode))
        assert silenced(station) == ["link set dev eth0 arp off"]
        assert resumed(station) == ["link set dev eth0 arp on"]
