"""migrate.forward: laid, switched and removed for real, in a network namespace of its own."""

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
import pathlib, subprocess, sys
from migrate import forward, forward_store
from migrate.errors import CommandFailed
from tests.unit.migrate import forwards
top = pathlib.Path(sys.argv[1])
forward_store.DIRECTORY = top / "forwards"
forward.WATCHED = top / "watched"
def sh(text):
    return subprocess.run(["sh", "-c", text], capture_output=True, text=True).stdout
sh("ip link set lo up; ip link add eth0 type veth peer name far; ip link set far up;"
   "ip addr add 10.77.0.11/24 dev eth0; ip link set eth0 up;"
   "iptables -N DOCKER-USER; iptables -A FORWARD -j DOCKER-USER")
def state():
    return sh("nft list tables | grep migrate_; iptables -S | grep migrate:; ip rule | grep 77;"
              "iptables -t raw -S | grep migrate:; ip route show table 77000; ip link | grep mgf")
"""


def inside(tmp_path: Path, script: str) -> None:
    """Run Python in a network namespace with a host's usual things in it."""
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", HEAD + script, str(tmp_path)],
        capture_output=True, text=True, timeout=60, check=False, cwd=REPO,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@needs_root
@pytest.mark.parametrize("record", ["forward()", "TUNNELLED", "TARGETED"])
def test_laid_twice_is_laid_once_and_removed_is_gone(tmp_path: Path, record: str) -> None:
    inside(
        tmp_path,
        f"record = forward_store.claim(forwards.{record})"
        """
forward.lay(record)
once = state()
assert forward.laid(record) and "migrate_" in once and "DOCKER-USER" in once, once
assert "10.77.0.12" in once or "169.254" in once
forward.lay(record)
assert state() == once, (state(), once)
forward.remove(record.id)
assert state() == "", state()
assert forward_store.read_all() == [] and not forward.laid(record)
forward.remove(record.id)
""",
    )


@needs_root
def test_where_an_anchor_is_still_to_be_told_only_the_record_stays(tmp_path: Path) -> None:
    inside(
        tmp_path,
        """
record = forward_store.claim(forwards.TARGETED)
forward.lay(record)
forward.leave_note(record)
assert state() == "", state()
assert list(forward.WATCHED.iterdir()) == []
(left,) = forward_store.read_all()
assert left.left and not record.left
forward.leave_note(left)
forward.remove(record.id)
assert forward_store.read_all() == []
""",
    )


@needs_root
def test_the_switch_is_one_rule_there_and_back(tmp_path: Path) -> None:
    inside(
        tmp_path,
        """
record = forward_store.claim(forwards.forward())
forward.lay(record, adopting=True)
where = lambda: sh("ip route get 10.99.0.10 mark 0x10000000")
sh("ip route add default via 10.77.0.1")
assert "10.77.0.1 " in where()
switch = forward.Switch(record, away=True)
assert "10.77.0.1 " in where()
switch.do()
assert "10.77.0.12" in where(), where()
assert "10.77.0.12" not in sh("ip route get 10.99.0.10")  # only what is marked
forward.lead_away(record)
assert sh("ip rule").count("7700:") == 1
given_up = forward.Switch(record, away=False)
given_up.close()
home = forward.Switch(record, away=False)
home.do()
home.do()
assert "10.77.0.1 " in where()
""",
    )


@needs_root
def test_after_a_boot_all_that_were_in_force_are_laid_again(tmp_path: Path) -> None:
    inside(
        tmp_path,
        """
import msgspec
away = forward_store.claim(msgspec.structs.replace(forwards.forward(), away=True))
target = forward_store.claim(msgspec.structs.replace(forwards.TARGETED, id="b" * 16))
from migrate import forward_upkeep
forward_upkeep._there = lambda container: True
again = lambda **more: tuple(map(len, forward_upkeep.lay_again(**more)))
assert again(all_of_them=False) == (2, 0)
assert again(all_of_them=False) == (0, 0)
assert again() == (2, 0)
rules = sh("ip rule")
assert "7700:" in rules and "7701:" in rules, rules
assert [path.name for path in forward.WATCHED.iterdir()] == ["d" * 64]
forward.end(away)
assert "7700:" not in sh("ip rule")
assert not forward_store.find(away.id).away
sh("ip link del eth0")
assert again() == (0, 2)  # no device to go out by
""",
    )


@needs_root
def test_one_that_did_not_come_home_is_led_away_and_its_address_is_nobodys(tmp_path: Path) -> None:
    inside(
        tmp_path,
        """
import msgspec
from migrate import conntrack
from migrate.undo import LeadAway, undo
conntrack.present = lambda: False
away = forward_store.claim(msgspec.structs.replace(forwards.forward(), away=True))
forward.lay(away)
before = sh(f"nft list table ip {away.nft_table}")
forward.adopt(away)
home = forward.Switch(away, away=False)
home.do()
assert sh(f"nft list table ip {away.nft_table}") != before
for _ in range(2):
    undo(LeadAway(away.id))
    assert sh(f"nft list table ip {away.nft_table}") == before
    assert sh("ip rule").count("7700:") == 1
sh(f"nft delete table ip {away.nft_table}; ip rule del priority 7700")  # a boot
undo(LeadAway(away.id))
assert sh("ip rule").count("7700:") == 1
""",
    )


@needs_root
def test_a_rule_that_somebody_took_away_is_missed(tmp_path: Path) -> None:
    """As systemd-networkd does when it is started again."""
    inside(
        tmp_path,
        """
import msgspec
from migrate import forward_rules
away = forward_store.claim(msgspec.structs.replace(forwards.forward(), away=True))
target = forward_store.claim(msgspec.structs.replace(forwards.TARGETED, id="b" * 16))
for record in (away, target):
    forward.lay(record)
    assert forward.laid(record)
    sh(f"ip rule del {forward_rules.rule(record)}")
    assert not forward.laid(record)
    forward.lay(record)
    assert forward.laid(record)
# Not while a move home is under way: it takes the rule away, and the record says so later.
sh(f"echo '{forward_rules.start_adopting(away)}' | nft -f -")
sh(f"ip rule del {forward_rules.rule(away)}")
assert forward.laid(away)
# Nor of a move that has not led away yet.
sh(f"echo '{forward_rules.end_adopting(away)}' | nft -f -")
assert not forward.laid(away) and forward.laid(msgspec.structs.replace(away, away=False))
""",
    )


@needs_root
def test_without_dockers_chain_the_rules_are_in_forward(tmp_path: Path) -> None:
    inside(
        tmp_path,
        """
sh("iptables -F; iptables -X DOCKER-USER")
record = forward_store.claim(forwards.forward())
forward.lay(record)
assert sh("iptables -S FORWARD").count("migrate:") == 2
forward.remove(record.id)
assert "migrate:" not in sh("iptables -S")
""",
    )


@needs_root
def test_a_strict_reverse_path_check_is_loosened_only_where_it_must(tmp_path: Path) -> None:
    inside(
        tmp_path,
        """
conf = "/proc/sys/net/ipv4/conf/"
record = forward_store.claim(forwards.forward())
for all_, own, expected in (("0", "0", "0"), ("1", "0", "2"), ("0", "1", "2"), ("2", "1", "1")):
    for name, value in (("all", all_), ("eth0", own)):
        open(f"{conf}{name}/rp_filter", "w").write(value)
    forward.lay(record)
    assert open(conf + "eth0/rp_filter").read().strip() == expected, (all_, own)
""",
    )
