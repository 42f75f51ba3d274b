"""Which container goes to which host, and why. Pure: what there is was looked at before.

Containers of one compose project go to one host, unless the plan may `split` them, and in the
order of their dependencies. The largest are placed first, where most is left over; the smallest
move first, since they stand still for the shortest time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from migrate.candidates import Immovable
from migrate.host_facts import HostFacts
from migrate.pairing import Candidate, Fit, Host, fit, take_in
from migrate.placement import DestinationView, plan_image
from migrate.progress import human
from transport.errors import Failure

IMAGE_IS_THERE = 0.03  # of a host's capacity: what an image that need not be sent counts for
IDLE = 0.1  # what CPUs count for that are all idle
GUEST = 0.02  # what each guest counts against a host: spread, one host's loss takes less along


@dataclass(frozen=True)
class Move:
    """`after`: those that must have come before it. `refused`: why other hosts cannot take it.

    `image`: the one that the host did not have when it was asked, "" when it had; `ident`: the id
    of the container where it is now, "" when its name has to do.
    """

    name: str
    host: str
    why: str
    after: tuple[str, ...] = ()
    project: str = ""
    size: int = 0
    image: str = ""
    ident: str = ""
    warnings: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stay:
    """A container that stays; `code`: the class of the failure.

    `gone`: it has ended, or was removed, before it could move.
    """

    name: str
    why: str
    code: str
    remedy: str = ""
    refused: Mapping[str, str] = field(default_factory=dict)
    gone: bool = False


@dataclass(frozen=True)
class LeftOut:
    """A host that takes no part."""

    host: str
    why: str
    remedy: str = ""


@dataclass(frozen=True)
class Plan:
    """`moves` in the order in which to begin them; `notes`: sentences about the run as a whole."""

    moves: tuple[Move, ...]
    stays: tuple[Stay, ...]
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()


class Planner:
    """Places containers on hosts, and again when one of them could not go where it was to go."""

    def __init__(
        self, source: HostFacts, hosts: Sequence[Host], candidates: Sequence[Candidate],
        immovable: Sequence[Immovable] = (), *, split: bool = False,
        before: Mapping[str, Collection[str]] | None = None,
    ) -> None:  # fmt: skip
        """`before`: for each project, the hosts that others of it went to in earlier runs."""
        self._source = source
        self._hosts = {host.name: host for host in hosts}
        self._empty: dict[str, DestinationView] = {host.name: host.view for host in hosts}
        self._candidates = {one.name: one for one in candidates}
        self._immovable = sorted(immovable, key=lambda one: one.name)
        self._split = split
        self._before = {} if split else dict(before or {})

    def plan(self) -> Plan:
        """Place everything."""
        moves: dict[str, Move] = {}
        stays = [
            Stay(one.name, one.failure.message, one.failure.code, one.failure.remedy, gone=one.gone)
            for one in self._immovable
        ]
        bound = [one for one in self._immovable if one.project and not one.gone]
        held = {} if self._split else {one.project: one.name for one in bound}
        for group in self._groups():
            project = group[0].project
            if project in held:
                why = f"its project {project} stays together, and {held[project]} cannot move"
                stays += [Stay(one.name, why, "Unsupported", "--split") for one in group]
                continue
            placed, refused = self._with_the_others([one.name for one in group], project)
            if placed:
                moves.update((move.name, move) for move in placed)
            else:
                why = _nowhere(refused)
                stays += [Stay(one.name, why, "PlacementFailed", refused=refused) for one in group]
        return Plan(
            tuple(in_order(moves.values())), tuple(sorted(stays, key=lambda stay: stay.name))
        )

    def _with_the_others(
        self, names: Sequence[str], project: str
    ) -> tuple[list[Move], dict[str, str]]:
        """Place them where others of their project went before, else wherever they can go."""
        there = sorted(set(self._before.get(project, ())) & set(self._hosts))
        if not there:
            return self.place(names)
        placed, refused = self.place(names, among=there)
        why = "others of its project are there"
        if not placed:
            placed, refused = self.place(names)
            why = f"others of its project are on {', '.join(there)}, where it does not fit"
        return [replace(move, why=f"{why}, {move.why}") for move in placed], refused

    def place(
        self, names: Sequence[str], *, among: Collection[str] | None = None,
        without: Collection[str] = (),
    ) -> tuple[list[Move], dict[str, str]]:  # fmt: skip
        """Find the best host for all of these together and count them there.

        `among`: the only hosts that count, `without`: hosts that do not. Gives no move when there
        is none, and for each host why it is not the one.
        """
        group = [self._candidates[name] for name in names]
        refused: dict[str, str] = {}
        tried: list[tuple[float, str, Host, list[Fit]]] = []
        for name in sorted(self._hosts):
            if name in without or (among is not None and name not in among):
                continue
            host, fits = self._hosts[name], []
            try:
                for one in group:
                    fits.append(fit(self._source, one, host))
                    host = take_in(one, host, fits[-1].placement)
            except Failure as failure:
                which = "" if len(group) == 1 else f"`{group[len(fits)].name}`: "
                refused[name] = which + failure.message
                continue
            tried.append((_rating(host, fits), name, host, fits))
        if not tried:
            return [], refused
        _, name, host, fits = min(tried, key=lambda one: (-one[0], one[1]))
        self._hosts[name] = host
        reasons = {other: f"less is left over than on {name}" for _, other, *_ in tried}
        reasons |= refused
        reasons.pop(name)
        return [
            self._move(one, group, name, _why(host, placed, len(reasons) == 0), placed, reasons)
            for one, placed in zip(group, fits, strict=True)
        ], refused

    def take_back(self, name: str, host: str) -> None:
        """That container has not come to that host: what it needs there is free again."""
        old = self._hosts[host]
        rest = [guest.candidate for guest in old.guests if guest.candidate.name != name]
        new = old.without_guests(self._empty[host])
        for one in rest:
            try:
                new = take_in(one, new, fit(self._source, one, new).placement)
            except Failure:  # it fitted with less room than this; if not, nothing is given back
                return
        self._hosts[host] = new

    def _groups(self) -> list[list[Candidate]]:
        """What goes together, each in the order of dependencies; the largest first."""
        groups: dict[tuple[str, str], list[Candidate]] = {}
        for name in sorted(self._candidates):
            one = self._candidates[name]
            alone = self._split or not one.project
            groups.setdefault(("", name) if alone else (one.project, ""), []).append(one)
        ordered = [_by_dependency(group) for group in groups.values()]
        return sorted(
            ordered, key=lambda g: (-sum(one.pages + one.usage.files for one in g), g[0].name)
        )

    def _move(
        self, one: Candidate, group: Sequence[Candidate], host: str, why: str, placed: Fit,
        refused: Mapping[str, str],
    ) -> Move:  # fmt: skip
        project = [o for o in self._candidates.values() if one.project and o.project == one.project]
        missing, _ = plan_image(one.spec.image, self._empty[host].images)
        return Move(
            name=one.name, host=host, why=why, after=_after(one, _by_dependency(project)),
            project=one.project, size=one.usage.images + one.usage.files,
            image=one.spec.image.id if missing.send else "", warnings=placed.warnings,
            refused=refused,
        )  # fmt: skip


def _by_dependency(group: Sequence[Candidate]) -> list[Candidate]:
    """Those that others depend on first. In a circle, which compose does not make, by name."""
    left = sorted(group, key=lambda one: one.name)
    done: list[Candidate] = []
    while left:
        waiting = {one.service for one in left}
        free = next((one for one in left if not waiting & (set(one.depends_on) - {one.service})),
                    left[0])  # fmt: skip
        left.remove(free)
        done.append(free)
    return done


def _after(one: Candidate, project: Sequence[Candidate]) -> tuple[str, ...]:
    """The names of those that `one` depends on; of a circle only those that come before it."""
    names = []
    for other in project:
        if other.name == one.name:
            break
        if other.service and other.service in one.depends_on:
            names.append(other.name)
    return tuple(names)


def in_order(moves: Iterable[Move]) -> list[Move]:
    """The smallest first, but none before what it depends on; in a circle, the smallest of it."""
    left = sorted(moves, key=lambda move: (move.size, move.name))
    done: list[Move] = []
    while left:
        waiting = {move.name for move in left}
        free = (move for move in left if not (waiting - {move.name}) & set(move.after))
        ready = next(free, left[0])
        left.remove(ready)
        done.append(ready)
    return done


def _rating(host: Host, fits: Sequence[Fit]) -> float:
    """How much of the host is left when they have come; below zero when its CPUs do not suffice.

    CPUs that are left count for little: a load is different a moment later, memory is not.
    """
    free, cpus = host.facts.free_memory, host.view.cpus
    memory = 1.0
    if free:
        memory = 1 - sum(guest.candidate.pages for guest in host.guests) / free
    idle = host.free_cpus() / cpus if cpus else 0.0
    cpu = IDLE * idle if idle >= 0 else -1.0
    there = sum(not one.placement.image.send for one in fits)
    return memory + cpu + IMAGE_IS_THERE * there - GUEST * len(host.guests)


def _why(host: Host, placed: Fit, only: bool) -> str:
    parts = []
    if host.facts.free_memory is not None:
        left = host.facts.free_memory - sum(guest.candidate.pages for guest in host.guests)
        parts.append(f"{human(left)} of memory left")
    if host.view.cpus:
        parts.append(f"{max(0.0, host.free_cpus()):.1f} of {host.view.cpus} CPUs left")
    if not placed.placement.image.send:
        parts.append("has the image")
    if only:
        parts.append("the only host")
    return ", ".join(parts)


def _nowhere(refused: Mapping[str, str]) -> str:
    reasons = sorted(set(refused.values()))
    if not reasons:
        return "there is no host for it"
    if len(reasons) == 1:
        return reasons[0]
    return "; ".join(f"{host}: {why}" for host, why in sorted(refused.items()))


def without_circles(moves: Sequence[Move]) -> tuple[list[Move], list[str]]:
    """The same moves in the same order, none of which waits for itself or for a later one, as in a
    circle; and the names of those that did."""
    straight: list[Move] = []
    names = {move.name for move in moves}
    for move in moves:
        names.discard(move.name)
        after = tuple(name for name in move.after if name != move.name and name not in names)
        straight.append(replace(move, after=after))
    return straight, [
        old.name for old, new in zip(moves, straight, strict=True) if old.after != new.after
    ]


def with_notes(plan: Plan, notes: Sequence[str]) -> Plan:
    return replace(plan, notes=(*notes, *plan.notes))


def with_left_out(plan: Plan, left_out: Sequence[LeftOut]) -> Plan:
    return replace(plan, left_out=tuple(left_out))
