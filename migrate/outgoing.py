"""The checkpoint as it goes out: a tmpfs for what CRIU writes, the waiting dump, the memory.

The directory of a session:
  images/   what the final dump writes: everything but private anonymous memory
  pre-N/    pre-dumps (migrate/memory_source.py), of which only the lists of pages stay
  work/     logs
"""

from __future__ import annotations

from pathlib import Path

from migrate.address_spaces import tracks_writes
from migrate.criu import LOG, Dumper, DumpTarget
from migrate.errors import Unsupported
from migrate.memory_source import CriuPreDump, MemoryScan, MemorySource
from migrate.run import run
from migrate.std_streams import Streams
from transport.channel import Channel

IMAGES_SLACK = 256 << 20
SOURCES = ("auto", "scan", "predump")


def choose_source(wanted: str, max_rounds: int) -> str:
    """The memory source to use, for one of SOURCES. Raises Unsupported."""
    tracked = tracks_writes()
    if wanted == "predump" and not tracked:
        raise Unsupported(
            "this kernel does not track which pages are written to (CONFIG_MEM_SOFT_DIRTY)",
            "leave --memory-source away: `scan` works with every kernel",
        )
    if wanted == "auto":
        # Without rounds before it, there is nothing to track for.
        return "predump" if tracked and max_rounds else "scan"
    return wanted


class Outgoing:
    """One checkpoint. `close` always."""

    def __init__(
        self, base: Path, target: DumpTarget, channel: Channel, *, tcp: str, streams: Streams,
        memory: int, source: str, seed: int, cached: bytes,
    ) -> None:  # fmt: skip
        """`base` is made here; its removal is for the caller to see to, before this is made.
        `memory`: bytes to expect; `source`: `scan` or `predump`; `seed` and `cached`: as for
        MemorySource."""
        base.mkdir(parents=True, mode=0o700)
        # A cap, no reservation; what the container has grown by meanwhile must fit as well.
        size = 3 * memory + IMAGES_SLACK
        options = f"mode=0700,size={size}"
        run(["mount", "-t", "tmpfs", "-o", options, "migrate", str(base)])
        self.images, self.work = base / "images", base / "work"
        for directory in (self.images, self.work):
            directory.mkdir()
        self.log = self.work / LOG
        self.dumper = Dumper(target, self.images, self.work, tcp=tcp, streams=streams)
        self.memory: MemorySource = (
            CriuPreDump(target, channel, seed, base, cached)
            if source == "predump"
            else MemoryScan(target, channel, seed, cached)
        )
        try:
            self.dumper.start()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.dumper.close()
        self.memory.close()
