"""The picture that the demo leaves, and which of the screenshots it shows."""

from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from examples.quake.gaps import Gap, Move
from examples.quake.real_client import Frame
from examples.quake.story import LEFT, RIGHT, Axis, Shot, Story, phases_begin, tell, when
from examples.quake.told import leave
from examples.quake.witness import choose
from migrate.summary import Summary
from tests.e2e.quake_world import Figures
from tests.unit.examples.test_screen import dump

SVG = "{http://www.w3.org/2000/svg}"
SUMMARY = Summary(
    "quake", "a", "b", downtime=0.3, total=2.0,
    parts={"freeze": 0.01, "dump": 0.1, "transfer": 0.01, "restore": 0.16, "resume": 0.02},
    phases={"preflight": 0.8, "prepare": 0.4, "freeze": 0.3, "confirm": 0.5},
)  # fmt: skip
GAP = Gap(101.2, 101.55)
ARRIVALS = [99 + n * 0.05 for n in range(45)] + [101.55 + n * 0.05 for n in range(40)]
STORY = Story(
    SUMMARY,
    GAP,
    ARRIVALS,
    [Shot(99.7, b"one"), Shot(101.4, b"two"), Shot(102.5, b"three")],
    "It is the same game.",
)


def texts(svg: str) -> str:
    return "\n".join("".join(one.itertext()) for one in ET.fromstring(svg).iter(SVG + "text"))


def test_it_tells_the_gap_and_holds_the_screenshots() -> None:
    svg = tell(STORY)
    said = texts(svg)
    assert "nothing for 350 ms" in said
    assert "from host a to host b" in said
    assert "It is the same game." in said
    assert "restore 160 ms" in said
    images = list(ET.fromstring(svg).iter(SVG + "image"))
    inside = [base64.b64decode(one.get("href", "").split(",")[1]) for one in images]
    assert inside == [b"one", b"two", b"three"]


def test_it_refers_to_nothing_outside() -> None:
    assert not re.findall(r'href="(?!data:)', tell(STORY))
    assert "url(" not in tell(STORY)


def test_each_snapshot_is_a_dot_and_none_is_in_the_gap() -> None:
    dots = list(ET.fromstring(tell(STORY)).iter(SVG + "circle"))
    rows: dict[str, list[float]] = {}
    for dot in dots:
        rows.setdefault(dot.get("cy", ""), []).append(float(dot.get("cx", "")))
    assert len(rows) == 2
    _, close = rows.values()
    axis = Axis(GAP.begin - 0.2, GAP.end + 0.2)
    begin, end = axis.x(GAP.begin), axis.x(GAP.end)
    assert not [x for x in close if begin + 0.1 < x < end - 0.1]
    assert min(abs(x - begin) for x in close) < 0.1
    assert min(abs(x - end) for x in close) < 0.1


def test_without_the_real_client_there_are_no_pictures_in_it() -> None:
    svg = tell(replace(STORY, shots=[]))
    assert "<image" not in svg
    assert "nothing for 350 ms" in texts(svg)


def test_nothing_sticks_out() -> None:
    root = ET.fromstring(tell(STORY))
    height = float(root.get("height", "0"))
    for mark in root.iter():
        if mark.get("x") and mark.get("width", "").replace(".", "").isdigit():
            assert float(mark.get("x", "")) >= LEFT - 0.01
            assert float(mark.get("x", "")) + float(mark.get("width", "")) <= RIGHT + 1
        if mark.get("y"):
            assert float(mark.get("y", "")) < height


def test_the_freeze_ends_when_the_silence_does() -> None:
    assert phases_begin(SUMMARY, GAP) == pytest.approx(101.55 - 1.5)


def test_moments_in_words() -> None:
    assert when(100.2, GAP) == "1.00 s before the gap"
    assert when(101.3, GAP) == "100 ms without a snapshot"
    assert when(102.55, GAP).startswith("1.00 s after the gap")


def test_the_frames_that_are_shown() -> None:
    frames = [Frame(98 + n * 0.1, b"%d" % n) for n in range(60)]
    chosen = choose(frames, GAP)
    assert chosen.before.at == pytest.approx(99.7)
    assert GAP.begin < chosen.during.at < GAP.end
    assert chosen.after.at == pytest.approx(102.5, abs=0.06)


def test_when_nothing_was_drawn_in_the_gap_the_nearest_is_taken() -> None:
    chosen = choose([Frame(99, b"1"), Frame(101.1, b"2"), Frame(102.5, b"3")], GAP)
    assert [chosen.before.dump, chosen.during.dump, chosen.after.dump] == [b"1", b"2", b"3"]


def test_no_frames_no_choice() -> None:
    with pytest.raises(ValueError, match="no pictures"):
        choose([], GAP)


def test_all_that_is_left_behind(tmp_path: Path) -> None:
    screen = dump([[(1, 2, 3)] * 4] * 3)
    frames = [Frame(at, screen) for at in (99.7, 101.4, 102.5)]
    seen = Figures(timeline=[(at, 0, 0) for at in ARRIVALS])
    picture = leave(tmp_path / "out", Move(100.0, 102.1, SUMMARY), seen, frames, "Same.")
    assert picture.read_text().startswith("<svg")
    left = sorted(path.name for path in picture.parent.iterdir())
    assert left == ["1-before.png", "2-during.png", "3-after.png", "move.json", "story.svg"]


def test_without_frames_only_the_picture_and_the_figures_are_left(tmp_path: Path) -> None:
    seen = Figures(timeline=[(at, 0, 0) for at in ARRIVALS])
    picture = leave(tmp_path, Move(100.0, 102.1, SUMMARY), seen, [], "Same.")
    assert sorted(path.name for path in picture.parent.iterdir()) == ["move.json", "story.svg"]
