"""What the benchmark measures: workloads, links, peers, and which of their combinations. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

SIZES = (16, 256, 1024, 4096)
RATES = (0, 10, 100)
CONTENTS = ("random", "text")
REDIS_KEYS = 16384  # of 16 KiB each
FIXED = 8.0  # seconds of a sample in which nothing moves: start, settle, check, clean up


@dataclass(frozen=True)
class Workload:
    """`kind`: heart (workload/heart.c), redis or quake. `mib`: its memory; `rate`: MB/s changed."""

    name: str
    kind: str
    mib: int
    rate: int = 0
    content: str = "random"
    forks: bool = False

    @property
    def writes_files(self) -> bool:
        """Then the peers that move no files need one step more."""
        return self.kind == "quake"


@dataclass(frozen=True)
class Link:
    """`mbit`: what the link to and from host b is limited to; None: not at all."""

    name: str
    mbit: int | None


@dataclass(frozen=True)
class Peer:
    """A way to move a container. `options`: what is added to `migrate move`; `back`: what is
    measured is the way back after a first move; `needs`: the options that the tool must have."""

    name: str
    kind: str
    options: tuple[str, ...] = ()
    back: bool = False

    @property
    def needs(self) -> tuple[str, ...]:
        return tuple(word for word in self.options if word.startswith("--"))


@dataclass(frozen=True)
class Cell:
    """One row of the table."""

    workload: Workload
    link: Link
    peer: Peer

    @property
    def name(self) -> str:
        return f"{self.workload.name} {self.link.name} {self.peer.name}"


def heart(mib: int, rate: int, content: str = "random", forks: bool = False) -> Workload:
    tail = "forks" if forks else content
    return Workload(f"{mib}-{rate}-{tail}", "heart", mib, rate, content, forks)


OTHERS = (
    heart(256, 10, forks=True),
    Workload("redis", "redis", 320, 10),
    Workload("quake", "quake", 24, 1),
)
WORKLOADS = tuple(heart(m, r, c) for m in SIZES for r in RATES for c in CONTENTS) + OTHERS

LINKS = (Link("unshaped", None), Link("1gbit", 1000), Link("100mbit", 100))

PEERS = (
    Peer("migrate", "migrate"),
    Peer("migrate-no-pre-copy", "migrate", ("--max-rounds", "0")),
    Peer("migrate-eager", "migrate", ("--restore", "eager")),
    Peer("migrate-lazy", "migrate", ("--restore", "lazy")),
    Peer("migrate-back", "migrate", back=True),
    Peer("docker", "docker"),
    Peer("podman", "podman"),
    Peer("runc", "runc"),
    Peer("bare", "bare"),
    Peer("limit", "limit"),
)

# The full product would take days. This is what the aims need, and one look at each of the
# other axes. (workloads, links), by name.
STANDARD = (
    ("16-*-random", "unshaped"),
    ("256-*-random", "unshaped"),
    ("1024-*-random", "unshaped"),
    ("4096-10-random", "unshaped"),
    ("256-10-*", "unshaped"),
    ("16-10-random", "*"),
    ("256-10-random", "*"),
    ("1024-10-random", "1gbit"),
    ("redis", "unshaped"),
    ("quake", "unshaped"),
)
QUICK = (("16-10-random", "unshaped"), ("256-10-random", "unshaped"))


def chosen(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def applies(peer: Peer, workload: Workload, link: Link) -> bool:
    """Bare CRIU and the limit know only the heart; bare CRIU has nothing to do with a link."""
    if peer.kind == "bare" and link.mbit is not None:
        return False
    return workload.kind == "heart" or peer.kind not in ("bare", "limit")


def cells(
    which: Sequence[tuple[str, str]],
    workloads: Sequence[str] = ("*",),
    links: Sequence[str] = ("*",),
    peers: Sequence[str] = ("*",),
) -> list[Cell]:
    """The cells that one of `which` (patterns of a workload and a link) and all filters choose."""
    found = []
    for link in LINKS:
        for workload in WORKLOADS:
            if not any(
                fnmatchcase(workload.name, one) and fnmatchcase(link.name, other)
                for one, other in which
            ):
                continue
            if not (chosen(workload.name, workloads) and chosen(link.name, links)):
                continue
            found += [
                Cell(workload, link, peer)
                for peer in PEERS
                if chosen(peer.name, peers) and applies(peer, workload, link)
            ]
    return found


def order(which: Sequence[Cell], samples: int) -> list[tuple[Cell, int]]:
    """Peers alternate, so that all meet the same noise; a link is set up once."""
    rows: dict[tuple[str, str], list[Cell]] = {}
    for cell in which:
        rows.setdefault((cell.link.name, cell.workload.name), []).append(cell)
    return [(cell, n) for row in rows.values() for n in range(1, samples + 1) for cell in row]


def seconds(cell: Cell) -> float:
    """How long one sample may take: for the estimate and for the time limit, no more than that."""
    mib = cell.workload.mib
    wire = 130.0 if cell.link.mbit is None else min(130.0, cell.link.mbit / 8.4)
    sent = mib * (0.3 if cell.workload.content == "text" else 1.0)
    if cell.peer.kind in ("bare", "limit"):
        wire, sent = 1.0, 0.0
    # MiB/s of the dump and restore together, from docs/criu-notes.md and FACTS.
    speed = {"docker": 20.0, "podman": 60.0}.get(cell.peer.kind, 150.0)
    if cell.peer.kind == "limit":
        mib = 0
    ways = 2 if cell.peer.back else 1
    return FIXED + mib / 400 + ways * (2 + mib / speed + sent / wire)


def estimate(planned: Iterable[tuple[Cell, int]]) -> float:
    return sum(seconds(cell) for cell, _ in planned)
