"""migrate.summary: the figures, for a person and for a machine."""

from __future__ import annotations

import json

import msgspec

from migrate.summary import Summary


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
