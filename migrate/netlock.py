"""Silence on a container's network while its state is on the way.

While a container is frozen, its kernel would go on to acknowledge what clients send; the copy at
the other host would never see these bytes, and the connection would be broken for good. So nothing
may come in or go out from before the dump until the container runs again, here or there. CRIU's own
lock ends with the dump when the container is left running (criu/cr-dump.c, cr_dump_finish): too
early.
Dropped, not rejected: TCP and game clients send again.
"""

from __future__ import annotations

from migrate.run import Result, run

TABLE = "migrate_lock"

# Before conntrack (-200) and everything else; loopback traffic inside the container may go on.
RULES = f"""table inet {TABLE} {{
    chain incoming {{ type filter hook prerouting priority -400; iifname != "lo" drop; }}
    chain outgoing {{ type filter hook output priority -400; oifname != "lo" drop; }}
}}
"""


def _nft(pid: int, rules: str, check: bool) -> Result:
    argv = ["nsenter", f"--net=/proc/{pid}/ns/net", "--", "nft", "-f", "-"]
    return run(argv, stdin=rules, check=check, timeout=20)


def lock(pid: int) -> None:
    """Drop all packets from and to the network namespace of process `pid`, but those on lo."""
    _nft(pid, f"add table inet {TABLE}\ndelete table inet {TABLE}\n{RULES}", check=True)


def unlock(pid: int) -> None:
    """Undo `lock`; a namespace that is not locked, or gone, is no failure."""
    _nft(pid, f"delete table inet {TABLE}\n", check=False)
