"""The results as Markdown."""

from __future__ import annotations

from tests.bench.figures import Sample
from tests.bench.table import HEAD, aims, document, gap_cell, line, number


def sample(peer: str, gap: float, workload: str = "16-10-random", **more: object) -> Sample:
    return Sample(workload, "unshaped", peer, 1, gap=gap, **more)  # type: ignore[arg-type]


def test_numbers_that_were_not_measured_are_empty() -> None:
    assert number(None) == ""
    assert number(0.0) == "0"
    assert number(1.26, 10, 1) == "12.6"


def test_a_gap_has_its_spread() -> None:
    samples = [sample("docker", gap) for gap in (0.3, 0.1, 0.25)]
    assert gap_cell(samples) == "250 (100-300)"
    assert gap_cell(samples[:1]) == "300"
    assert gap_cell([]) == ""


def test_a_line_has_a_cell_for_every_heading() -> None:
    full = sample(
        "podman", 1.0, noise=0.004, total=2.5, wire=17_000_000, memory=(2**20, 2**21),
        cpu=(0.5, 0.25), dirty_rate=(10e6, 2e6),
    )  # fmt: skip
    cells = line(full.row, [full])
    assert cells == [
        "16-10-random", "podman", "1/1", "1000", "4", "2.50", "17.0", "1", "2", "0.50", "0.25",
        "10, 2",
    ]  # fmt: skip
    assert len(cells) == len(HEAD)


def test_failed_samples_are_counted_and_named_but_not_averaged() -> None:
    bad = sample("runc", 99.0)
    bad.error = "no | luck"
    text = document({"date": "today", "ssh_cat": {"unshaped": 2e8}}, [sample("runc", 0.5), bad])
    assert "| 16-10-random | runc | 1/2 | 500 |" in text
    assert "- 16-10-random, unshaped, runc: 1 times: no | luck" in text
    assert "## Link: unshaped (`ssh cat`: 200 MB/s)" in text
    assert "- date: today" in text


def test_what_was_left_out_is_said() -> None:
    assert "- migrate-lazy: no such option" in document(
        {"skipped": ["migrate-lazy: no such option"]}, []
    )


def test_aims_are_ratios_of_medians() -> None:
    first = {"rounds": [{"sent": 100_000_000, "seconds": 0.5}, {"sent": 1, "seconds": 9.0}]}
    samples = [
        sample("migrate", 0.3, tool={"rounds": [{"sent": 1000, "seconds": 9.0}]}),
        sample("bare", 0.2),
        sample("migrate", 0.45, "1024-10-random", tool=first),
        sample("docker", 18.0, "1024-10-random"),
        sample("migrate", 1.0, "1024-0-random", wire=1000, total=2.0),
        sample("migrate-back", 1.0, "1024-0-random", wire=50, total=2.0),
    ]
    text = aims(samples, {"unshaped": 400e6})
    assert "gap / bare CRIU: 1.50" in text
    assert "gap / that of 16 MiB: 1.50 (aim: 2)" in text
    assert "docker's gap / ours: 40.00" in text
    assert "bytes of the way back / of the way there: 0.05" in text
    assert "4 GiB" not in text  # not measured
    assert "200 MB/s (median of 1), 0.50 of `ssh cat`" in text


def test_no_aims_without_their_rows() -> None:
    assert aims([sample("runc", 1.0)], {}) == ""
