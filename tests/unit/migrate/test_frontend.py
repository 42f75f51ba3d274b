"""migrate.frontend: made, switched and removed with the kernel's rules, in a namespace of its own.

`conntrack` is a script here that lists what the test wants, and notes what it is told.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[3]
needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("nft", "ip", "iptables", "unshare"))),
    reason="needs root, nft, ip and iptables",
)

HEAD = """
import os, pathlib, re, subprocess, sys
top = pathlib.Path(sys.argv[1])
(top / "bin").mkdir()
fake = top / "bin/conntrack"
fake.write_text(f'''#!/bin/sh
echo "$*" >>{top}/asked
[ "$1" = -R ] && {{ cat >>{top}/told; echo - >>{top}/told; [ -e {top}/moved ] && : >{top}/table; }}
[ "$1" = -L ] && cat {top}/table
[ -e {top}/busy ] && rm {top}/busy && exit 1
exit 0
''')
fake.chmod(0o755)
os.environ["PATH"] = f"{top}/bin:" + os.environ["PATH"]
(top / "table").write_text("")
told = lambda: (top / "told").read_text() if (top / "told").exists() else ""
from migrate import frontend, frontend_store
from migrate.errors import CommandFailed, FrontendUnfit, HostUnfit
from migrate.frontend_record import Frontend, Lead
frontend_store.DIRECTORY = top / "frontends"
frontend.SYSCTL = top / "sys"
(top / "sys/ipv4").mkdir(parents=True)
(top / "sys/ipv4/ip_forward").write_text("0\\n")
def sh(text):
    return subprocess.run(["sh", "-c", text], capture_output=True, text=True).stdout
def table():
    return re.sub(r"\\s+", " ", sh("nft list table ip migrate_frontend"))
def refused(call, kind=FrontendUnfit):
    try:
        call()
    except kind as failure:
        return failure.message
    raise AssertionError("it was not refused")
GAME = Frontend("game", "udp", 27960, ("10.0.0.1", 27999))
WEB = Frontend("web", "tcp", 80, ("10.0.0.1", 8080))
PLAYER = ("udp 17 99 src=192.0.2.1 dst=10.0.0.3 sport=5000 dport=27960 src=10.0.0.1 dst=10.0.0.3 "
          "sport=27999 dport=1024 [ASSURED] mark=536870912 use=1\\n")
"""


def inside(tmp_path: Path, script: str) -> None:
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", HEAD + script, str(tmp_path)],
        capture_output=True, text=True, timeout=60, check=False, cwd=REPO,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@needs_root
def test_added_twice_is_added_once_and_what_is_taken_is_refused(tmp_path: Path) -> None:
    inside(
        tmp_path,
        """
assert frontend.add(GAME) and frontend.add(WEB)
once = table()
assert "udp . 27960 : 10.0.0.1 . 27999" in once and "tcp . 80 : 10.0.0.1 . 8080" in once
assert (top / "sys/ipv4/ip_forward").read_text() == "1\\n"
assert not frontend.add(GAME)
assert table() == once
sh("nft delete table ip migrate_frontend")
assert not frontend.add(GAME) and table() == once  # in force again
from msgspec.structs import replace
assert "is there" in refused(lambda: frontend.add(replace(GAME, backend=("10.0.0.2", 1))))
assert "`game`'s" in refused(lambda: frontend.add(replace(GAME, name="other")))
ssh = Frontend("ssh", "tcp", 22, ("10.0.0.1", 22))
assert "22/tcp" in refused(lambda: frontend.add(ssh, lambda protocol, port: port == 22))
assert table() == once
assert frontend_store.read() == [GAME, WEB]
""",
    )


@needs_root
def test_switched_with_its_connections_and_nobody_elses(tmp_path: Path) -> None:
    inside(
        tmp_path,
        """
frontend.add(GAME)
frontend.add(WEB)
(top / "table").write_text(PLAYER)
(top / "moved").touch()
assert frontend.switch("game", ("10.0.0.2", 27999)) == 1
assert "udp . 27960 : 10.0.0.2 . 27999" in table()
assert "tcp . 80 : 10.0.0.1 . 8080" in table()
old, new, _ = told().splitlines()
assert old == ("-D -p udp --orig-port-dst 27960 --reply-src 10.0.0.1 --reply-port-src 27999 "
               "--mark 0x20000000/0x20000000"), old
assert "-A" in new and "-g 10.0.0.2:27999" in new and "-n 10.0.0.3:1024" in new, new
assert "--orig-port-dst 80" not in (top / "asked").read_text()
game = frontend_store.read()[0]
assert (game.backend, game.before) == (("10.0.0.2", 27999), (("10.0.0.1", 27999),))
assert "no front end `nobody`" in refused(lambda: frontend.switch("nobody", ("10.0.0.2", 1)))
""",
    )


@needs_root
def test_what_a_packet_was_faster_with_is_done_again(tmp_path: Path) -> None:
    """The first load ends at an entry that is there by now; what was to follow is missing."""
    inside(
        tmp_path,
        """
frontend.add(GAME)
other = PLAYER.replace("5000", "5001").replace("1024", "1025")
(top / "table").write_text(PLAYER + other)
there = Lead("game", GAME.backend, ("10.0.0.2", 27999))
with frontend.Switch([there]) as switch:
    switch.look()
    (top / "table").write_text(PLAYER.replace("10.0.0.1", "10.0.0.2"))
    (top / "busy").touch()
    assert switch.do() == 2
    switch.note()
first, again, _ = told().split("-\\n")
assert first.count("-A") == 2 and first.count("-D") == 1, first
assert again.count("-A") == 1 and "-D" not in again and "--sport 5001" in again, again
""",
    )


@needs_root
def test_who_came_in_between_is_led_there_too(tmp_path: Path) -> None:
    inside(
        tmp_path,
        """
frontend.add(GAME)
with frontend.Switch([Lead("game", GAME.backend, ("10.0.0.2", 27999))]) as switch:
    assert switch.do() == 0
    assert told() == ""
    (top / "table").write_text(PLAYER)
    switch.note()
assert told().startswith("-D -p udp --orig-port-dst 27960 --reply-src 10.0.0.1"), told()
assert frontend_store.read()[0].backend == ("10.0.0.2", 27999)
""",
    )


@needs_root
def test_only_from_where_it_leads_and_twice_is_as_good(tmp_path: Path) -> None:
    inside(
        tmp_path,
        """
frontend.add(GAME)
there = Lead("game", ("10.0.0.1", 27999), ("10.0.0.2", 27999))
for _ in range(2):
    with frontend.Switch([there]) as switch:
        switch.do()
        switch.note()
assert "27960 : 10.0.0.2 . 27999" in table()
wrong = Lead("game", ("10.0.0.8", 1), ("10.0.0.9", 1))
with frontend.Switch([wrong]) as switch:
    assert "leads to 10.0.0.2:27999, not to 10.0.0.8:1" in refused(switch.do)
    assert "not to" in refused(switch.look)
with frontend.Switch([there.back()]) as switch:  # killed before it is written down
    switch.do()
with frontend.Switch([there.back()]) as switch:
    switch.do()
    switch.note()
assert "27960 : 10.0.0.1 . 27999" in table()
assert frontend_store.read()[0].backend == ("10.0.0.1", 27999)
""",
    )


@needs_root
def test_after_a_boot(tmp_path: Path) -> None:
    inside(
        tmp_path,
        """
assert frontend.restore_missing() == 0 and frontend.restore() == 0 and table() == ""
frontend.add(GAME)
frontend.add(WEB)
before = table()
sh("nft delete table ip migrate_frontend")
assert not frontend.laid()
assert frontend.restore_missing() == 2
assert table() == before and frontend.restore_missing() == 0
sh("nft delete table ip migrate_frontend")
frontend.switch("game", ("10.0.0.2", 27999))  # lays all of them
assert "27960 : 10.0.0.2 . 27999" in table() and "tcp . 80" in table()
""",
    )


@needs_root
def test_removed_with_its_connections(tmp_path: Path) -> None:
    inside(
        tmp_path,
        """
sh("iptables -N DOCKER-USER")
frontend.add(GAME)
frontend.add(WEB)
rules = lambda: sh("iptables -S DOCKER-USER | grep -c migrate:frontend").strip()
assert rules() == "1", rules()
(top / "table").write_text(PLAYER)
frontend.remove("game")
assert "27960" not in table() and "tcp . 80" in table()
assert told().startswith("-D -p udp") and "-A" not in told(), told()
(top / "table").write_text("")
frontend.remove("web")
assert table() == "" and rules() == "0" and frontend_store.read() == []
refused(lambda: frontend.remove("web"))
""",
    )


@needs_root
def test_without_conntrack_it_is_refused(tmp_path: Path) -> None:
    inside(
        tmp_path,
        """
frontend.conntrack.shutil.which = lambda name: None
assert "conntrack" in refused(lambda: frontend.add(GAME), HostUnfit)
assert table() == "" and frontend_store.read() == []
""",
    )
