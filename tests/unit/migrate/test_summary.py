"""migrate.summary: the figures, for a person and for a machine."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from migrate.page_compare import Tally
from migrate.summary import Lazy, Summary, Switchover
from migrate.switchover import SENTENCES, Reason


def summary() -> Summary:
    return Summary(
        "app", "hosta", "hostb", downtime=0.3004, total=12.34, raw=4 << 20, sent=1 << 20,
        parts={"freeze": 0.1, "restore": 0.2004}, phases={"prepare": 2.0, "pre-copy": 10.0},
    )  # fmt: skip


def test_for_a_person() -> None:
    first, downtime, total, moved = summary().text().splitlines()
    assert first == "app now runs on hostb (was on hosta, where its copy is removed)"
    assert downtime == "  downtime  300 ms: freeze 100 ms, restore 200 ms"
    assert total == "  total     12.3 s: prepare 2.0 s, pre-copy 10.0 s"
    assert moved == "  moved     4.0 MiB, sent 1.0 MiB (25%)"


def test_what_is_special_is_said() -> None:
    special = summary()
    special.image_sent, special.source_copy, special.raw = True, "kept, stopped", 0
    special.downtime = 2.5
    text = special.text()
    assert "its copy is kept, stopped" in text
    assert text.endswith("sent 1.0 MiB, with the image")
    assert "downtime  2.50 s" in text


def with_memory() -> Summary:
    found = summary()
    found.memory_source, found.memory = "scan", 1 << 30
    found.rounds = [{"scanned": 262_144, "dirty": 262_144}]
    found.final = {"dirty": 256}
    found.switchover = Switchover(Reason.LITTLE_LEFT, predicted=0.25, measured=0.3004)
    return found


def test_the_memory_for_a_person() -> None:
    lines = with_memory().text().splitlines()
    assert lines[2] == (
        "  memory    1.0 GiB (scan), 1 round before the freeze, then 1.0 MiB in it; "
        + SENTENCES[Reason.LITTLE_LEFT]
    )
    assert "250 ms" in lines[3]
    assert lines[4].startswith("  total ")
    lazy = with_memory()
    lazy.lazy, lazy.rounds = Lazy(pages=512, seconds=1.26), []
    lines = lazy.text().splitlines()
    assert "0 rounds before the freeze" in lines[2]
    assert lines[3] == "            2.0 MiB filled in after it ran, in 1.3 s"


def test_the_frozen_part_is_counted() -> None:
    found = with_memory()
    found.raw = 5
    tally = Tally(scanned=300_000, dirty=7, literal=7, sent=9000)
    frozen: Any = SimpleNamespace(
        parts=lambda: {"freeze": 0.1, "dump": 0.2}, memory=tally,
        ready=SimpleNamespace(timing={"ready": 0.1}),
    )  # fmt: skip
    found.add_frozen(frozen, checkpoint=1000)
    assert found.downtime == pytest.approx(0.3)
    assert found.switchover
    assert found.switchover.measured == found.downtime
    assert found.memory == 300_000 * 4096  # it has grown since the rounds
    assert found.raw == 5 + found.memory + 1000
    assert found.final == vars(tally)
    assert found.details == {"ready": 0.1}


def test_for_a_machine() -> None:
    shown = summary().to_json()
    assert "\n" not in shown
    assert msgspec.json.decode(shown, type=Summary) == summary()
    assert set(json.loads(shown)) == set(Summary.__struct_fields__)
    assert json.loads(shown)["downtime"] == 0.3004


def test_two_migrations_share_nothing() -> None:
    one, other = Summary("a", "b", "c"), Summary("a", "b", "c")
    one.warnings.append("x")
    one.parts["freeze"] = 1.0
    assert (other.warnings, other.parts) == ([], {})
