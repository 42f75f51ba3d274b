"""The front ends of this host: made, switched, laid again, removed. The I/O of it.

The rules are the kernel's, so that no process of ours has to run; a boot ends them, and `restore`
lays them again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import msgspec

from migrate import conntrack, frontend_rules, frontend_store
from migrate.conntrack import Entry
from migrate.errors import CommandFailed, FrontendUnfit, HostUnfit
from migrate.frontend_record import Backend, Frontend, Lead, checked, checked_leads, show
from migrate.network_facts import SYSCTL
from migrate.run import Waiting, run

TRIES = 5
"""How often connections are looked for that still lead to the old backend."""


def insist() -> None:
    """Raise HostUnfit when this host cannot be a front end."""
    if not conntrack.present():
        raise HostUnfit(
            "a front end needs the program `conntrack`, which is not installed here",
            "apt install conntrack",
        )


def add(new: Frontend, taken: Callable[[str, int], bool] = lambda protocol, port: False) -> bool:
    """Make a front end; False when it is there already, exactly so.

    `taken`: whether a program of this host has that port. Raises FrontendUnfit when the name or
    the port is another one's.
    """
    insist()
    checked(new)
    with frontend_store.locked():
        there = frontend_store.read()
        for one in there:
            if (one.name, one.protocol, one.port, one.backend) == (
                new.name, new.protocol, new.port, new.backend
            ):  # fmt: skip
                if not laid():
                    _lay(there)
                return False
            if one.name == new.name:
                raise FrontendUnfit(
                    f"a front end `{one.name}` is there: {one.port}/{one.protocol} to "
                    f"{show(one.backend)}",
                    "`migrate frontend switch` changes its backend",
                )
            if (one.protocol, one.port) == (new.protocol, new.port):
                raise FrontendUnfit(f"{one.port}/{one.protocol} is front end `{one.name}`'s")
        if taken(new.protocol, new.port):
            raise FrontendUnfit(
                f"a program of this host has port {new.port}/{new.protocol}: nobody could reach "
                "it any more",
                "take another port",
            )
        _lay([*there, new])
        frontend_store.write([*there, new])
    return True


def remove(name: str) -> None:
    """End a front end, and the connections that have come by it."""
    with frontend_store.locked():
        there = frontend_store.read()
        gone = named(there, name)
        rest = [one for one in there if one.name != name]
        _lay(rest)
        frontend_store.write(rest)
        line = conntrack.delete_line(gone.protocol, gone.port, gone.backend, frontend_rules.MARK)
        run(["conntrack", "-R", "-"], stdin=line + "\n", check=False, timeout=60)


def switch(name: str, backend: Backend) -> int:
    """Lead a front end to another backend; gives how many connections came along."""
    insist()
    old = named(frontend_store.read(), name).backend
    with Switch([Lead(name, old, backend)]) as program:
        moved = program.do()
        program.note()
    return moved


def restore() -> int:
    """Lay all front ends on record, as after a boot; gives how many there are."""
    with frontend_store.locked():
        there = frontend_store.read()
        if there:
            insist()
        _lay(there)
    return len(there)


def restore_missing() -> int:
    """As `restore`, where none of them is in force; gives how many were laid."""
    return restore() if frontend_store.read() and not laid() else 0


def laid() -> bool:
    """Whether the kernel has the table: it has not after a boot."""
    command = ["nft", "list", "table", *frontend_rules.TABLE.split()]
    return run(command, check=False, timeout=20).ok


def named(frontends: Sequence[Frontend], name: str) -> Frontend:
    for one in frontends:
        if one.name == name:
            return one
    raise FrontendUnfit(
        f"there is no front end `{name}` on this host", "see `migrate frontend list`"
    )


class Switch:
    """A change of backends that is to take some milliseconds: its programs wait for the word.

    `look` lists the connections beforehand, since that takes as long as all the rest. `do` changes
    the kernel, `note` the record: a container that stands still need not wait for the disk. Between
    the two nobody else changes front ends of this host.
    """

    def __init__(self, leads: Sequence[Lead]) -> None:
        self.leads = checked_leads(leads)
        self._stack = ExitStack()
        self._after: list[Frontend] = []
        self._entries: list[Entry] | None = None
        self._rules: Waiting | None = Waiting(["nft", "-f", "-"])
        self._connections: Waiting | None = Waiting(["conntrack", "-R", "-"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def look(self) -> None:
        """Who comes after this is new, and no connection of the backend's yet."""
        self._entries = stale(self._changes(frontend_store.read()))

    def do(self) -> int:
        """Lead there, with all connections; gives how many these are. Twice is as good as once.

        Raises FrontendUnfit for one that leads neither where it should nor there already.
        """
        self._stack.enter_context(frontend_store.locked())
        there = frontend_store.read()
        changes = self._changes(there)
        self._after = [next((c for c in changes if c.name == one.name), one) for one in there]
        old = stale(changes) if self._entries is None else self._entries
        ports = {(one.protocol, one.port): one for one in changes}
        new = [
            msgspec.structs.replace(e, reply_source=ports[e.protocol, e.target[1]].backend)
            for e in old
        ]
        self._transact(frontend_rules.lead(changes, new))
        if old and not self._take_along(changes, old, new):
            self._take_rest_along(changes, new)
        return len(new)

    def note(self) -> None:
        """Write it down; and who was let in by the old rules just then is led there, too."""
        if self._after:
            frontend_store.write(self._after)
            names = {lead.name for lead in self.leads}
            self._take_rest_along([one for one in self._after if one.name in names], ())
        self.close()

    def close(self) -> None:
        """End what still waits."""
        for program in (self._rules, self._connections):
            if program:
                program.abandon()
        self._rules = self._connections = None
        self._stack.close()

    def _changes(self, there: Sequence[Frontend]) -> list[Frontend]:
        return [_changed(named(there, lead.name), lead) for lead in self.leads]

    def _transact(self, text: str) -> None:
        program, self._rules = self._rules, None
        try:
            if program:
                program.finish(text)
            else:
                run(["nft", "-f", "-"], stdin=text, timeout=20)
        except CommandFailed:  # no table: a boot, and nobody has laid it again
            if laid():
                raise
            _lay(self._after)
            run(["nft", "-f", "-"], stdin=text, timeout=20)

    def _take_along(
        self, changes: Sequence[Frontend], old: Sequence[Entry], new: Sequence[Entry]
    ) -> bool:
        """Replace these connections; False when something came between, and some may be missing."""
        lines = _replacement(changes, old, new)
        program, self._connections = self._connections, None
        if program is None:
            return run(["conntrack", "-R", "-"], stdin=lines, check=False, timeout=60).ok
        try:
            program.finish(lines, timeout=60.0)
        except CommandFailed:
            return False
        return True

    def _take_rest_along(self, changes: Sequence[Frontend], new: Sequence[Entry]) -> None:
        """A packet was faster, and made one of them itself: then all after it are missing."""
        for _ in range(TRIES):
            there = {
                entry.key
                for one in changes
                for entry in conntrack.entries_to(one.protocol, one.port, frontend_rules.MARK)
            }
            old, missing = stale(changes), [one for one in new if one.key not in there]
            if not old and not missing:
                return
            if self._take_along(changes, old, missing):
                return


def _replacement(changes: Sequence[Frontend], old: Sequence[Entry], new: Sequence[Entry]) -> str:
    """What `conntrack --load-file` is to do; `old` tells which backends there are to forget."""
    mark = frontend_rules.MARK
    gone = {
        (one.protocol, one.port, entry.reply_source): None
        for one in changes
        for entry in old
        if (entry.protocol, entry.target[1]) == (one.protocol, one.port)
    }
    lines = [conntrack.delete_line(*which, mark) for which in gone]
    lines += [entry.load_line(mark) for entry in new]
    return "".join(line + "\n" for line in lines)


def _changed(frontend: Frontend, lead: Lead) -> Frontend:
    if frontend.backend not in (lead.old, lead.new):
        raise FrontendUnfit(
            f"front end `{lead.name}` leads to {show(frontend.backend)}, not to {show(lead.old)}"
        )
    return frontend.led_to(lead.new)


def stale(changes: Sequence[Frontend]) -> list[Entry]:
    """The connections of these front ends that lead elsewhere."""
    return [
        entry
        for one in changes
        for entry in conntrack.entries_to(one.protocol, one.port, frontend_rules.MARK)
        if entry.reply_source != one.backend
    ]


def _lay(frontends: Sequence[Frontend]) -> None:
    """Make the kernel have exactly these. Raises CommandFailed."""
    text = frontend_rules.ruleset(frontends) if frontends else frontend_rules.removal()
    run(["nft", "-f", "-"], stdin=text, timeout=20)
    if frontends:
        forwarding = Path(SYSCTL / "ipv4/ip_forward")
        if forwarding.read_text().strip() != "1":
            forwarding.write_text("1\n")
    _docker_lets_pass(wanted=bool(frontends))


def _docker_lets_pass(*, wanted: bool) -> None:
    """Docker, where there is one, drops what it does not know in FORWARD."""
    table = ["iptables", "-w", "10", "-t", "filter"]
    if not run([*table, "-n", "-L", "DOCKER-USER"], check=False, timeout=20).ok:
        return
    rule = frontend_rules.accepted()
    there = run([*table, "-C", "DOCKER-USER", *rule], check=False, timeout=20).ok
    if wanted != there:
        run([*table, "-I" if wanted else "-D", "DOCKER-USER", *rule], timeout=20)
