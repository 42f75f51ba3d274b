"""What a migration was like: the figures, for a person and for a machine."""

from __future__ import annotations

import msgspec

from migrate.progress import human


class Summary(msgspec.Struct):
    """All times in seconds, all amounts in bytes. The `--json` output has these fields.

    `downtime`: from the last instruction here to the first one there, as seen from here.
    `parts`: where the downtime went; they follow each other and add up to it.
    `raw`: what was to be moved, `sent`: what went over the wire for it. `network`: the mode by
    which clients find it, `way`: that in a sentence.
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
    parts: dict[str, float] = {}
    phases: dict[str, float] = {}
    details: dict[str, float] = {}
    source_copy: str = "removed"
    network: str = "none"
    way: str = ""
    warnings: list[str] = []

    def to_json(self) -> str:
        return msgspec.json.encode(self).decode()

    def text(self) -> str:
        """The lines that end a migration on a terminal."""
        parts = ", ".join(f"{name} {_ms(value)}" for name, value in self.parts.items())
        lines = [
            f"{self.container} now runs on {self.destination} (was on {self.source}, "
            f"where its copy is {self.source_copy})",
            f"  downtime  {_ms(self.downtime)}: {parts}",
            f"  total     {self.total:.1f} s: "
            + ", ".join(f"{name} {value:.1f} s" for name, value in self.phases.items()),
            f"  moved     {human(self.raw)}, sent {human(self.sent)}"
            + (f" ({self.sent / self.raw:.0%})" if self.raw else "")
            + (", with the image" if self.image_sent else ""),
        ]
        return "\n".join(lines)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
