"""migrate.forward_probe: the other end of a real vxlan answers, and nobody else does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.forward_probe import is_reply, request
from migrate.forward_record import tunnel
from tests.unit.migrate.forwards import TUNNELLED

REPO = Path(__file__).resolve().parents[3]
PATH = TUNNELLED.path

# Two hosts, joined by a wire, each with its end of the tunnel.
SCRIPT = """
import ctypes, os, subprocess, sys
from msgspec.structs import replace
from migrate import forward_probe, forward_rules
from migrate.forward_record import tunnel
from tests.unit.migrate.forwards import forward
def sh(text): subprocess.run(["sh", "-ec", text], check=True)
ends = tunnel("a" * 16, "10.0.0.1", "10.0.0.2")
def lay(path):
    record = forward(path=path)
    sh("ip " + " ".join(forward_rules.tunnel_link(record)))
    for command in forward_rules.way(record)[:-1]:
        sh("ip " + command)
sh("ip link add e0 type veth peer name e1; ip addr add 10.0.0.1/24 dev e0; ip link set e0 up")
holder = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; exec cat"], stdin=-1, stdout=-1)
holder.stdout.readline()
sh(f"ip link set e1 netns {holder.pid}")
lay(ends[0])
assert not forward_probe.answers(ends[0], 0.3)  # the other end is not there
mine = os.open("/proc/self/ns/net", os.O_RDONLY)
there = os.open(f"/proc/{holder.pid}/ns/net", os.O_RDONLY)
libc = ctypes.CDLL(None)
assert libc.setns(there, 0) == 0
sh("ip addr add 10.0.0.2/24 dev e1; ip link set e1 up")
lay(ends[1])
assert libc.setns(mine, 0) == 0
assert forward_probe.answers(ends[0])
assert libc.setns(there, 0) == 0
sh("iptables -A INPUT -p udp --dport 14789 -j DROP")
assert libc.setns(mine, 0) == 0
assert not forward_probe.answers(ends[0], 0.3)
holder.stdin.close()
"""


@pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("ip", "iptables", "unshare"))),
    reason="needs root, ip and iptables",
)
def test_an_open_tunnel_answers_and_a_closed_one_does_not() -> None:
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", SCRIPT], capture_output=True, text=True,
        timeout=60, check=False, cwd=REPO,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_our_own_question_is_no_answer() -> None:
    asked = request(PATH)
    assert len(asked) == 42
    assert not is_reply(asked, PATH)


@given(st.binary(max_size=60))
def test_no_frame_breaks_it(frame: bytes) -> None:
    assert not is_reply(frame, PATH)


@given(st.text("0123456789abcdef", min_size=16, max_size=16))
def test_both_ends_have_link_local_addresses_of_their_own(session: str) -> None:
    here, there = tunnel(session, "10.0.0.1", "10.0.0.2")
    assert (here.own, there.own) == (there.gateway, here.gateway)
    assert here.own != there.own
    # 169.254.0.x and 169.254.255.x are reserved (RFC 3927).
    assert all(e.own.startswith("169.254.") and 0 < int(e.own.split(".")[2]) < 255
               for e in (here, there))  # fmt: skip
