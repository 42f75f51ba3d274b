"""The results as Markdown. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from tests.bench.figures import Sample, by_row, row_median

STREAM_FROM = 64e6  # bytes of a round, to tell a rate from
NOTES = """\
Medians of the good samples; `n` says how many there were of how many.

- **gap**: the longest time in which a client on a third host heard nothing, with the least and the
  greatest of the samples. It asks every {interval} ms over UDP, through both hosts at once, so no
  route has to be switched. `redis` is asked over TCP, `quake` by a player; there the route to the
  container is switched when it runs at the other host. `noise`: the longest silence in the second
  before the move.
- `bare` is not seen by a client: `criu dump` + `criu restore` of the same process, no network, no
  transfer. `limit` is bare CRIU of an empty container + (its images + what the workload changes
  in the time of that dump) / (what `ssh cat` reaches on this link).
- **total**: from the command until it ends, the source's copy removed.
- **wire**: bytes between the two hosts at the IP level, both ways.
- **memory**: by how much anonymous and tmpfs memory rose on hosts a and b, the arriving container
  included, page cache not; **CPU**: seconds there, the container's own included.
- `docker`, `podman` and `runc` get an SSH connection that is open already (ControlMaster), images
  compressed by zstd -1, and, where they let one choose, a tmpfs to dump to. docker:
  `create` at b, `checkpoint create`, `rsync`, `start --checkpoint`. podman: `container checkpoint
  --export --compress zstd`, `scp`, `container restore --import`. runc: `checkpoint`,
  `tar | zstd | ssh`, `restore --detach`, network namespaces made beforehand. For `quake`, which
  writes files, docker and runc also get an `rsync` of these.
- Conntrack is bypassed for the containers' addresses on both hosts (where a peer masquerades, the
  first packet of a restored server would break the flow).
"""

HEAD = (
    "workload | peer | n | gap ms (least-greatest) | noise ms | total s | wire MB | memory a MiB"
    " | memory b MiB | CPU a s | CPU b s | changed MB/s before, during"
).split(" | ")

Row = tuple[str, str, str]


def number(value: float | None, scale: float = 1.0, digits: int = 0) -> str:
    return "" if value is None else f"{value * scale:.{digits}f}"


def gap_cell(good: Sequence[Sample]) -> str:
    gaps = [one.gap for one in good if one.gap is not None]
    middle = row_median(good, lambda one: one.gap)
    if middle is None:
        return ""
    spread = f" ({min(gaps) * 1000:.0f}-{max(gaps) * 1000:.0f})" if len(gaps) > 1 else ""
    return f"{middle * 1000:.0f}{spread}"


def line(row: Row, samples: Sequence[Sample]) -> list[str]:
    _, workload, peer = row
    good = [one for one in samples if not one.error]

    def middle(pick: Callable[[Sample], float | None]) -> float | None:
        return row_median(good, pick)

    rates = [middle(lambda s, i=i: s.dirty_rate and s.dirty_rate[i]) for i in (0, 1)]  # type: ignore[misc]
    return [
        workload,
        peer,
        f"{len(good)}/{len(samples)}",
        gap_cell(good),
        number(middle(lambda s: s.noise), 1e3),
        number(middle(lambda s: s.total), 1, 2),
        number(middle(lambda s: s.wire), 1e-6, 1),
        number(middle(lambda s: s.memory and s.memory[0]), 1 / 2**20),
        number(middle(lambda s: s.memory and s.memory[1]), 1 / 2**20),
        number(middle(lambda s: s.cpu and s.cpu[0]), 1, 2),
        number(middle(lambda s: s.cpu and s.cpu[1]), 1, 2),
        ", ".join(number(rate, 1e-6) for rate in rates if rate is not None),
    ]


def markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def link_table(link: str, rows: dict[Row, list[Sample]], throughput: float | None) -> str:
    title = f"## Link: {link}"
    if throughput:
        title += f" (`ssh cat`: {throughput / 1e6:.0f} MB/s)"
    lines = [title, "", markdown_row(HEAD), "|" + " --- |" * len(HEAD)]
    lines += [markdown_row(line(row, found)) for row, found in rows.items() if row[0] == link]
    return "\n".join(lines)


def failures(rows: dict[Row, list[Sample]]) -> str:
    lines = []
    for (link, workload, peer), samples in rows.items():
        for reason in dict.fromkeys(one.error for one in samples if one.error):
            times = sum(one.error == reason for one in samples)
            lines.append(f"- {workload}, {link}, {peer}: {times} times: {reason}")
    return "\n".join(["## What failed", "", *lines]) if lines else ""


def ratio(rows: dict[Row, list[Sample]], one: Row, other: Row) -> float | None:
    """Of the medians of two rows' gaps; None when one of them was not measured."""
    gaps = [row_median(rows.get(row, []), lambda s: s.gap) for row in (one, other)]
    return gaps[0] / gaps[1] if gaps[0] is not None and gaps[1] else None


def aims(samples: Sequence[Sample], throughput: dict[str, float]) -> str:
    """The issue's aims as ratios of this run, as far as their rows were measured."""
    rows = by_row(samples)
    small = ("unshaped", "16-10-random", "migrate")
    large = ("unshaped", "1024-10-random", "migrate")
    lines = [
        f"- {text}: {found:.2f} (aim: {aim})"
        for text, aim, found in (
            ("16 MiB: gap / bare CRIU", "1.5",
             ratio(rows, small, (*small[:2], "bare"))),
            ("1 GiB at 10 MB/s: gap / that of 16 MiB", "2", ratio(rows, large, small)),
            ("1 GiB at 10 MB/s: docker's gap / ours", "20 or more",
             ratio(rows, (*large[:2], "docker"), large)),
            ("4 GiB at 10 MB/s: gap / that of 16 MiB", "3",
             ratio(rows, ("unshaped", "4096-10-random", "migrate"), small)),
            ("1 GiB without changes: bytes of the way back / of the way there", "0.10",
             wire_ratio(rows)),
        )
        if found is not None
    ]  # fmt: skip
    for link in throughput:
        rates = [rate for one in samples if one.link == link and (rate := stream_rate(one))]
        if rates:
            rate = statistics.median(rates)
            lines.append(
                f"- {link}: the stream of the first round reaches {rate / 1e6:.0f} MB/s (median of "
                f"{len(rates)}), {rate / throughput[link]:.2f} of `ssh cat` (aim: 0.9)"
            )
    return "\n".join(["## Aims", "", *lines]) if lines else ""


def wire_ratio(rows: dict[Row, list[Sample]]) -> float | None:
    there, back = (
        row_median(rows.get(("unshaped", "1024-0-random", peer), []), lambda s: s.wire)
        for peer in ("migrate", "migrate-back")
    )
    return back / there if back is not None and there else None


def stream_rate(sample: Sample) -> float | None:
    """Bytes per second on the wire in the first round, when that is long enough to tell, and of
    what can hardly be compressed."""
    rounds = sample.tool.get("rounds") or []
    if sample.error or not rounds or "random" not in sample.workload:
        return None
    sent, seconds = rounds[0]["sent"], rounds[0]["seconds"]
    return float(sent / seconds) if sent >= STREAM_FROM else None


def document(facts: dict[str, Any], samples: Sequence[Sample]) -> str:
    """The whole of it. `facts`: what the run was, as in the JSON."""
    rows = by_row(samples)
    throughput: dict[str, float] = facts.get("ssh_cat", {})
    parts = ["# Benchmark", NOTES.format(interval=facts.get("interval_ms", 1))]
    parts.append(
        "\n".join(f"- {key}: {value}" for key, value in facts.items() if isinstance(value, str))
    )
    if "versions" in facts:
        parts.append("\n".join(f"- {key}: {value}" for key, value in facts["versions"].items()))
    for link in dict.fromkeys(row[0] for row in rows):
        parts.append(link_table(link, rows, throughput.get(link)))
    parts += [aims(samples, throughput), failures(rows)]
    if skipped := facts.get("skipped"):
        parts.append("## Not measured\n\n" + "\n".join(f"- {text}" for text in skipped))
    return "\n\n".join(part.rstrip() for part in parts if part) + "\n"
