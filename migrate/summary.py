"""What a migration was like: the figures, for a person and for a machine."""

from __future__ import annotations

from typing import Any

import msgspec

from migrate.freeze import FrozenPart
from migrate.page_batch import PAGE
from migrate.progress import human
from migrate.switchover import SENTENCES, Reason, compared


class Switchover(msgspec.Struct):
    """Why pre-copy ended; the downtime that was predicted then, and what it came to; seconds."""

    reason: Reason
    predicted: float
    measured: float = 0.0


class Lazy(msgspec.Struct):
    """Pages that were filled in after the restore, and how long that took from the commit on."""

    pages: int
    seconds: float


class Summary(msgspec.Struct):
    """All times in seconds, all amounts in bytes. The `--json` output has these fields.

    `downtime`: from the last instruction here to the first one there, as seen from here.
    `parts`: where the downtime went; they follow each other and add up to it.
    `raw`: what was to be moved, `sent`: what went over the wire for it. `memory`: of the processes.
    `rounds`: of pre-copy (migrate/switchover.py: Round, `shown`); `final`: the last round, while
    frozen: pages by what became of them, and bytes sent (migrate/page_compare.py: Tally).
    `network`: the mode by which clients find it, `way`: that in a sentence.
    """

    container: str
    source: str
    destination: str
    new_id: str = ""
    session: str = ""
    downtime: float = 0.0
    total: float = 0.0
    raw: int = 0
    sent: int = 0
    image_sent: bool = False
    rootfs_passes: int = 0
    memory: int = 0
    page_size: int = PAGE
    memory_source: str = ""
    rounds: list[dict[str, Any]] = []
    final: dict[str, int] = {}
    switchover: Switchover | None = None
    lazy: Lazy | None = None
    parts: dict[str, float] = {}
    phases: dict[str, float] = {}
    details: dict[str, float] = {}
    source_copy: str = "removed"
    network: str = "none"
    way: str = ""
    warnings: list[str] = []

    def add_frozen(self, frozen: FrozenPart, checkpoint: int) -> None:
        """The figures of the frozen part. `checkpoint`: bytes of CRIU's images."""
        self.parts = frozen.parts()
        self.downtime = sum(self.parts.values())
        self.final = vars(frozen.memory)
        pages = [int(one["scanned"]) for one in self.rounds] + [frozen.memory.scanned]
        self.memory = max(pages) * PAGE
        self.raw += self.memory + checkpoint
        if frozen.ready:
            self.details.update(frozen.ready.timing)
        if self.switchover:
            self.switchover.measured = self.downtime

    def to_json(self) -> str:
        return msgspec.json.encode(self).decode()

    def text(self) -> str:
        """The lines that end a migration on a terminal."""
        parts = ", ".join(f"{name} {_ms(value)}" for name, value in self.parts.items())
        lines = [
            f"{self.container} now runs on {self.destination} (was on {self.source}, "
            f"where its copy is {self.source_copy})",
            f"  downtime  {_ms(self.downtime)}: {parts}",
            *self._memory_lines(),
            f"  total     {self.total:.1f} s: "
            + ", ".join(f"{name} {value:.1f} s" for name, value in self.phases.items()),
            f"  moved     {human(self.raw)}, sent {human(self.sent)}"
            + (f" ({self.sent / self.raw:.0%})" if self.raw else "")
            + (", with the image" if self.image_sent else ""),
        ]
        return "\n".join(lines)

    def _memory_lines(self) -> list[str]:
        if not self.switchover:
            return []
        last = self.final.get("dirty", 0) * self.page_size
        count = len(self.rounds)
        lines = [
            f"  memory    {human(self.memory)} ({self.memory_source}), {count} "
            f"round{'' if count == 1 else 's'} before the freeze, then {human(last)} in it; "
            f"{SENTENCES[self.switchover.reason]}"
        ]
        if count:
            lines.append(f"            {compared(self.switchover.predicted, self.downtime)}")
        if self.lazy:
            filled = human(self.lazy.pages * self.page_size)
            lines.append(
                f"            {filled} filled in after it ran, in {self.lazy.seconds:.1f} s"
            )
        return lines


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
