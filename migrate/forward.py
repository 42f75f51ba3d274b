"""Forwards of this host: laid, switched, held over Docker's flush, removed. The I/O of it.

Everything can be done twice. The rules are the kernel's, so that neither a restart of dockerd nor
the end of any process of ours ends them; a boot does, and `apply_all` lays them again.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import msgspec

from migrate import conntrack, forward_probe, forward_rules, forward_store
from migrate.conntrack import Entry
from migrate.errors import CommandFailed, PlacementFailed
from migrate.forward_record import ANCHOR, MARK, PRIORITIES, Forward, checked
from migrate.network_facts import SYSCTL
from migrate.run import Waiting, run, tail

LOOSE, STRICT = "2", "1"
WATCHED = Path("/run/migrate/watched")
"""A file for each container whose end is to end its forward, by its id (bin/migrate-runc)."""


def lay(forward: Forward, *, adopting: bool = False) -> None:
    """Make everything of a forward but the switch: tunnel, route, rules. Raises CommandFailed."""
    if forward.path.kind == "vxlan":
        _nothing_wrong(["ip", *forward_rules.tunnel_link(forward)], unless="File exists")
    _ip_batch(forward_rules.way(forward))
    _loosen(forward.path.device)
    run(["nft", "-f", "-"], stdin=forward_rules.ruleset(forward, adopting=adopting), timeout=20)
    for table, chain, rule in forward_rules.filters(forward):
        _insert(table, chain, rule)
    if forward.away or forward.role != ANCHOR:
        lead_away(forward)
    if forward.container:
        WATCHED.mkdir(parents=True, exist_ok=True, mode=0o700)
        (WATCHED / forward.container).touch(mode=0o600)


def lead_away(forward: Forward) -> None:
    """Packets of the forward go its way from now on."""
    words = ["ip", "rule", "add", *forward_rules.rule(forward).split()]
    _nothing_wrong(words, unless="File exists")


class Switch:
    """A change of the way that is to take a millisecond: its program waits for the word."""

    def __init__(self, forward: Forward, *, away: bool) -> None:
        """Get ready to lead the forward's packets `away` to the target, or home again."""
        verb = "add" if away else "del"
        self._word = f"rule {verb} {forward_rules.rule(forward)}\n"
        self._program: Waiting | None = Waiting(["ip", "-batch", "-"])

    def do(self) -> None:
        if self._program:
            program, self._program = self._program, None
            program.finish(self._word)

    def close(self) -> None:
        """Give up a switch that was not done."""
        if self._program:
            self._program.abandon()
            self._program = None


def forget_neighbour(forward: Forward) -> None:
    """The container comes to this host, maybe with another hardware address than last time."""
    run(["ip", *forward_rules.forget_neighbour(forward).split()], check=False, timeout=10)


def hold(forward: Forward) -> list[Entry]:
    """Before Docker flushes what conntrack knows of the container: note its connections in the
    anchor's table, so that whichever end speaks first finds its way. Gives them for `settle`."""
    if not conntrack.present():  # what begins anew finds its way by the ports alone
        return []
    entries = conntrack.entries_of(forward.address)
    flows = [found for e in entries if (found := conntrack.flow(e, forward.address))]
    if text := forward_rules.more_flows(forward, flows):
        run(["nft", "-f", "-"], stdin=text, timeout=60)
    return entries


def adopt(forward: Forward) -> list[Entry]:
    """Before the container gets its address at the anchor again; as `hold`."""
    run(["nft", "-f", "-"], stdin=forward_rules.start_adopting(forward), timeout=20)
    return hold(forward)


def stay_away(forward: Forward) -> None:
    """The container did not come home after all: who gets its address here is somebody else. (After
    a boot there may be no table to say it to.)"""
    lead_away(forward)
    run(["nft", "-f", "-"], stdin=forward_rules.end_adopting(forward), check=False, timeout=20)


def settle(forward: Forward, entries: Sequence[Entry]) -> Forward:
    """Docker's copy at the anchor is gone: make the connections anew that it has flushed, and no
    longer take every packet to that address for the container's. The record says `away`."""
    conntrack.load(entries, forward.address, MARK)
    run(["nft", "-f", "-"], stdin=forward_rules.end_adopting(forward), timeout=20)
    settled = msgspec.structs.replace(forward, away=True)
    forward_store.write(settled)
    return settled


def follow(old: str, new: Forward) -> None:
    """At the anchor: lay a forward to another target beside the one that is in force."""
    forward = forward_store.find(old)
    if forward is None or forward.role != ANCHOR:
        raise PlacementFailed(f"no forward {old} is received here", "see `migrate forward list`")
    # Where it goes is the other host's word; what goes there is our own record's.
    beside = msgspec.structs.replace(
        forward, id=new.id, path=new.path, peer=new.peer, peer_id=new.peer_id, away=False
    )
    lay(forward_store.claim(checked(beside)))
    forward_probe.insist(beside.path, beside.peer)


def switch_over(old: str, new: str) -> None:
    """Packets go by the new forward instead of the old one. Twice is as good as once."""
    forward, before = forward_store.find(new), forward_store.find(old)
    if forward is None:
        raise PlacementFailed(f"no forward {new} was laid here", "see `migrate forward list`")
    commands = [f"rule add {forward_rules.rule(forward)}"]
    if before:
        commands.insert(0, f"rule del {forward_rules.rule(before)}")
    run(["ip", "-force", "-batch", "-"], stdin="\n".join(commands) + "\n", check=False, timeout=20)
    lead_away(forward)
    forward_store.write(msgspec.structs.replace(forward, away=True))


def end(forward: Forward) -> None:
    """The container is home: its packets are not led away any more, not by a boot either."""
    words = ["ip", "rule", "del", *forward_rules.rule(forward).split()]
    run(words, check=False, timeout=20)
    forward_store.write(msgspec.structs.replace(forward, away=False))


def remove(ident: str) -> None:
    """Take a forward away from this host, whatever there is of it."""
    forward = forward_store.find(ident)
    if forward:
        _take_away(forward)
        forward_store.delete(ident)


def leave_note(forward: Forward) -> None:
    """At the target, which the container is about to leave, while the anchor cannot be told: only
    the record stays, for `migrate recover`."""
    _take_away(forward)
    forward_store.write(msgspec.structs.replace(forward, container=""))


def _take_away(forward: Forward) -> None:
    run(["ip", "-force", "-batch", "-"], stdin="\n".join(forward_rules.way_removal(forward)) + "\n",
        check=False, timeout=20)  # fmt: skip
    run(["nft", "-f", "-"], stdin=forward_rules.removal(forward), timeout=20)
    for table in ("filter", "raw", "mangle"):
        _delete_tagged(table, forward.tag)
    if forward.container:
        (WATCHED / forward.container).unlink(missing_ok=True)


def laid(forward: Forward) -> bool:
    """Whether the kernel has the forward's table, and the rule that leads away: not after a boot;
    and systemd-networkd takes rules away that are not its own."""
    if not run(["nft", "list", "table", "ip", forward.nft_table], check=False, timeout=20).ok:
        return False
    if forward.role == ANCHOR and (not forward.away or _coming_home(forward)):
        return True
    rule = run(["ip", "rule", "show", "priority", str(PRIORITIES + forward.slot)], check=False)
    return bool(rule.stdout.strip())


def _coming_home(forward: Forward) -> bool:
    """Whether a move is under way that takes the rule away before the record says so."""
    chain = ["nft", "list", "chain", "ip", forward.nft_table, "adopt"]
    return forward.address in run(chain, check=False, timeout=20).stdout


def _ip_batch(commands: Sequence[str]) -> None:
    run(["ip", "-batch", "-"], stdin="\n".join(commands) + "\n", timeout=20)


def _nothing_wrong(argv: Sequence[str], *, unless: str) -> None:
    result = run(argv, check=False, timeout=20)
    if not result.ok and unless not in result.stderr:
        raise CommandFailed(f"`{' '.join(argv)}` failed: {tail(result)}")


def _loosen(device: str) -> None:
    """What comes by a forward has sources that the main routing table expects elsewhere. A strict
    check (rp_filter 1) of that device would drop it; the loose one stays."""
    values = []
    for name in ("all", device):
        try:
            values.append((SYSCTL / f"ipv4/conf/{name}/rp_filter").read_text().strip())
        except OSError:
            return
    if STRICT in values and LOOSE not in values:  # the larger one of the two counts
        Path(SYSCTL / f"ipv4/conf/{device}/rp_filter").write_text(LOOSE)


# -- the chains that Docker looks at --------------------------------------------------------------


def _iptables(table: str, *words: str) -> list[str]:
    return ["iptables", "-w", "10", "-t", table, *words]


def _insert(table: str, chain: str, rule: Sequence[str]) -> None:
    """Insert a rule at the top of its chain unless it is in it. Where Docker keeps its hands off
    iptables there is no DOCKER-USER, and FORWARD is the place."""
    if chain == "DOCKER-USER" and not run(_iptables(table, "-n", "-L", chain), check=False).ok:
        chain = "FORWARD"
    if not run(_iptables(table, "-C", chain, *rule), check=False, timeout=20).ok:
        run(_iptables(table, "-I", chain, *rule), timeout=20)


def _delete_tagged(table: str, tag: str) -> None:
    listed = run(_iptables(table, "-S"), check=False, timeout=20)
    for line in listed.stdout.splitlines():
        words = shlex.split(line)
        if tag in words and words[0] == "-A":
            run(_iptables(table, "-D", *words[1:]), check=False, timeout=20)
