"""migrate.report, report_picture, picture, command_report: from figures to a picture."""

from __future__ import annotations

import io
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate.cli import main
from migrate.errors import ReportFailed
from migrate.picture import amount, clean, duration, fit, flow, text_width
from migrate.report import MAX_SIZE, parse
from migrate.report_picture import draw, draw_page, scale
from migrate.summary import Summary
from migrate.switchover import Round, shown

PARTS = {"freeze": 0.008, "dump": 0.171, "transfer": 0.009, "restore": 0.164, "resume": 0.033}
PHASES = {
    "preflight": 1.2, "image": 0.3, "prepare": 0.4, "pre-copy": 4.0, "freeze": 0.4, "confirm": 0.24,
}  # fmt: skip


def summary() -> dict[str, Any]:
    """What `move --json` prints without pre-copy of memory."""
    made = Summary(
        "app", "hosta", "hostb", downtime=0.385, total=6.6, raw=4 << 20, sent=1 << 20,
        parts=PARTS, phases=PHASES, memory=9 << 20,
    )  # fmt: skip
    return dict(json.loads(made.to_json()))


def report(count: int, **changes: Any) -> dict[str, Any]:
    """With `count` rounds."""
    history, at, dirty = [], 1.9, 1 << 18
    for number in range(1, count + 1):
        literal, zero, cached = dirty // 2, dirty // 4, dirty // 8
        rest = dirty - literal - zero - cached
        seconds = 4.0 / count
        history.append(
            Round(number, at, seconds, 1 << 18, dirty, zero, rest, cached, literal, 2048 * literal)
        )
        at, dirty = at + seconds, dirty // 2 + 17
    return summary() | {
        "rounds": shown(history, [0.5] * count), "memory_source": "MemoryScan", "page_size": 4096,
        "switchover": {"reason": "within-limit", "predicted": 0.31, "measured": 0.385},
        "lazy": {"pages": 262153, "seconds": 3.1},
    } | changes  # fmt: skip


def drawn(figures: dict[str, Any]) -> str:
    return draw(parse(json.dumps(figures).encode(), "r.json"))


@dataclass(frozen=True)
class Box:
    """Where a text is."""

    text: str
    left: float
    right: float
    top: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        return (
            self.left < other.right and other.left < self.right
            and self.top < other.bottom and other.top < self.bottom
        )  # fmt: skip


def boxes(svg: str) -> list[Box]:
    found = []
    for text in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text"):
        size, x, y = (float(text.attrib[name]) for name in ("font-size", "x", "y"))
        width = text_width(text.text or "", size)
        left = x - {"start": 0.0, "middle": width / 2, "end": width}[text.attrib["text-anchor"]]
        found.append(Box(text.text or "", left, left + width, y - 0.75 * size, y + 0.2 * size))
    return found


def texts(svg: str) -> str:
    return "\n".join(box.text for box in boxes(svg))


def assert_readable(svg: str) -> None:
    """No text on another one or outside of the picture, and only finite figures in it."""
    root = ElementTree.fromstring(svg)
    height = float(root.attrib["height"])
    found = boxes(svg)
    for at, one in enumerate(found):
        assert one.left >= 0, one
        assert one.right <= 960, one
        assert one.bottom <= height, one
        for other in found[at + 1 :]:
            assert not one.overlaps(other), (one, other)
    for mark in root.iter():
        for name in ("x", "y", "width", "height", "x1", "x2", "y1", "y2", "points"):
            assert not re.search("nan|inf|e", mark.attrib.get(name, "")), mark.attrib


# -- what is drawn --------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 3, 12, 30, 200])
def test_readable_with_any_number_of_rounds(count: int) -> None:
    svg = drawn(report(count) if count else summary())
    assert_readable(svg)
    assert "app: hosta → hostb" in texts(svg)
    assert ("Pre-copy" in svg) == bool(count)
    for name in [*PHASES, *PARTS]:
        assert re.search(rf"^{name} [0-9.]+ m?s$", texts(svg), re.M), name


@pytest.mark.parametrize(
    "field", ["rounds", "memory_source", "page_size", "switchover", "lazy", "parts", "phases"]
)
def test_an_optional_field_may_be_missing(field: str) -> None:
    figures = report(3)
    del figures[field]
    assert_readable(drawn(figures))
    if field not in ("page_size", "parts", "phases", "rounds"):
        assert_readable(drawn(report(3, **{field: None})))


def test_the_figures_are_there() -> None:
    words = texts(drawn(report(3)))
    for wanted in (
        "The frozen window: predicted 310 ms, measured 385 ms (24 % more)", "dump 171 ms",
        "the predicted downtime is within --max-downtime", "1.0 GiB in 3.10 s", "memory source",
        "4.0 MiB, 1.0 MiB sent (25%)", "pre-copy 4.00 s", "1.33 s", "512 MiB",
    ):  # fmt: skip
        assert wanted in words
    assert "with the image" in texts(drawn(report(3, image_sent=True)))
    assert "some-other" in texts(drawn(report(3, switchover={"reason": "some-other"})))


def rects(svg: str, role: str) -> list[tuple[float, float, float, float]]:
    return [
        tuple(float(rect.attrib[name]) for name in ("x", "y", "width", "height"))  # type: ignore[misc]
        for rect in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}rect")
        if rect.attrib["class"] == role and rect.attrib["height"] not in ("100%", "11.00", "12.00")
    ]


def test_the_frozen_window_is_to_scale() -> None:
    svg = drawn(summary() | {"parts": {"dump": 0.3, "restore": 0.1}, "downtime": 0.4})
    # The first part has the colour of the first phase, and comes after it.
    dump, restore = rects(svg, "part0")[-1], rects(svg, "part1")[-1]
    assert dump[2] == pytest.approx(3 * restore[2], abs=0.1)
    assert dump[2] + restore[2] == pytest.approx(896, abs=0.1)
    # With a prediction of twice the time, both have half of the room.
    twice = {"reason": "growing", "predicted": 0.8, "measured": 0.4}
    svg = drawn(summary() | {"parts": {"dump": 0.3, "restore": 0.1}, "downtime": 0.4,
                             "switchover": twice})  # fmt: skip
    assert rects(svg, "part0")[-1][2] == pytest.approx(dump[2] / 2, abs=0.1)
    assert rects(svg, "dim")[-1][2] == pytest.approx(896, abs=0.1)
    assert "cut off" not in svg
    assert "cut off" in drawn(summary() | {"switchover": twice | {"predicted": 60.0}})


def test_bars_shrink_and_are_stacked_by_kind() -> None:
    svg = drawn(report(3, lazy=None))
    literal = sorted(rects(svg, "literal"))
    bars = [box for box in literal if box[2] == 64.0]
    assert len(bars) == 3
    assert bars[0][3] > bars[1][3] > bars[2][3]
    zero = [box for box in sorted(rects(svg, "zero")) if box[2] == 64.0]
    for low, high in zip(bars, zero, strict=True):
        assert low[3] == pytest.approx(2 * high[3], rel=0.01)  # half of the pages, a quarter
        assert high[1] < low[1]


def test_of_many_rounds_the_table_has_the_first_and_the_last() -> None:
    words = texts(drawn(report(30))).splitlines()
    assert "10 more" in words
    assert "more" not in texts(drawn(report(20))).split("within")[-1]


def test_nothing_is_loaded_from_elsewhere_and_dark_is_known() -> None:
    for picture in (drawn(report(3)), draw_page(parse(json.dumps(report(3)).encode(), "r"))):
        assert not re.search(r"href|src=|url\(|@import|<script|<image|<foreign", picture)
        assert re.findall(r"https?://[^\"' ]+", picture) == ["http://www.w3.org/2000/svg"]
        assert "@media (prefers-color-scheme: dark)" in picture


# -- what is not a report -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"hello", "not a report: JSON is malformed"),
        (b"\xff\xfe", "not a report"),
        (b"{}", "missing required field `container`"),
        (b"[]", "Expected `object`"),
        (b"null", "Expected `object`"),
        (b"[" * 100_000, "not a report"),
        (b'{"container":' + b"[" * 100_000, "not a report"),
        (b'{"error": "DumpFailed", "message": "x"}', "failed (DumpFailed)"),
        (b" " * (MAX_SIZE + 1), "larger than any report"),
    ],
)  # fmt: skip
def test_broken_input_is_one_clear_sentence(content: bytes, said: str) -> None:
    with pytest.raises(ReportFailed) as caught:
        parse(content, "r.json")
    assert said in caught.value.message
    assert caught.value.message.startswith("r.json ")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "changes",
    [
        {"downtime": -1}, {"downtime": "long"}, {"downtime": 1e300}, {"total": None},
        {"parts": {"dump": -0.1}}, {"phases": {str(n): 1 for n in range(99)}},
        {"rounds": [{"seconds": 1, "dirty": -5}]}, {"rounds": [{}]}, {"rounds": {"a": 1}},
        {"rounds": [{"seconds": 1}] * 1001}, {"page_size": 0}, {"page_size": 1 << 70},
        {"container": 5}, {"container": "x" * 1001}, {"sent": 1 << 61}, {"lazy": 7},
        {"rounds": [{"seconds": 1, "dirty": 1 << 41}]}, {"switchover": {"predicted": -1}},
    ],
)  # fmt: skip
def test_figures_that_cannot_be_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ReportFailed) as caught:
        parse(json.dumps(summary() | changes).encode(), "r.json")
    assert "$." in caught.value.message  # it says where


def test_text_of_others_stays_text() -> None:
    evil = "</text><script>alert(1)</script>\x00\x1b[2J\u202egnp.exe\n&amp;" + "x" * 200
    figures = report(2, container=evil, source=evil, memory_source=evil)
    figures["parts"] = {evil: 0.3, "a" * 999: 0.1, "漢字" * 40: 0.1}
    figures["phases"] = {evil: 3.0, "freeze": 0.5, "b" * 900: 1.0}
    figures["switchover"]["reason"] = evil
    svg = drawn(figures)
    assert_readable(svg)
    assert "<script" not in svg
    assert not re.search("[\x00\x1b\u202e]", svg)


seconds = st.floats(0, 1e8, allow_subnormal=True)
pages = st.integers(0, 1 << 40)
any_round = st.fixed_dictionaries(
    {"seconds": seconds},
    optional={
        "started": seconds, "number": st.integers(0, 1000), "scanned": pages, "dirty": pages,
        "zero": pages, "duplicate": pages, "cached": pages, "literal": pages,
        "sent": st.integers(0, 1 << 60), "dirty_rate": st.none() | st.floats(0, 1e18),
        "predicted": st.none() | seconds,
    },
)  # fmt: skip
any_times = st.dictionaries(st.text(max_size=30) | st.just("freeze"), seconds, max_size=24)
any_report = st.fixed_dictionaries(
    {
        "container": st.text(max_size=80), "source": st.text(max_size=20),
        "destination": st.text(max_size=20), "downtime": seconds, "total": seconds,
    },
    optional={
        "raw": st.integers(0, 1 << 60), "sent": st.integers(0, 1 << 60),
        "memory": st.integers(0, 1 << 60), "parts": any_times, "phases": any_times,
        "rounds": st.lists(any_round, max_size=40), "memory_source": st.none() | st.text(),
        "page_size": st.integers(1, 1 << 21),
        "switchover": st.none()
        | st.fixed_dictionaries({"reason": st.text(), "predicted": seconds}),
        "lazy": st.none() | st.fixed_dictionaries({"pages": pages, "seconds": seconds}),
    },
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(any_report)
def test_whatever_is_accepted_can_be_read(figures: dict[str, Any]) -> None:
    assert_readable(drawn(figures))


@given(st.binary(max_size=200) | any_report.map(lambda figures: json.dumps(figures).encode()))
def test_parsing_gives_figures_or_says_why_not(content: bytes) -> None:
    try:
        said = parse(content, "x").container
    except ReportFailed as failure:
        said = failure.message
        assert said.startswith("x ")
    assert isinstance(said, str)


# -- figures and texts ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.0 ms"), (0.0004, "0.4 ms"), (0.00996, "10 ms"), (0.384, "384 ms"),
        (0.9996, "1.00 s"),
        (2.5, "2.50 s"), (9.996, "10.0 s"), (73.12, "73.1 s"), (700, "12 min"), (1e8, "27778 h"),
    ],
)  # fmt: skip
def test_durations(value: float, text: str) -> None:
    assert duration(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"), (831, "831 B"), (1000, "1.0 KiB"), (4096, "4.0 KiB"), (100 << 10, "100 KiB"),
        (1 << 30, "1.0 GiB"), (1 << 61, "2048 PiB"), (1023 << 20, "1.0 GiB"),
    ],
)  # fmt: skip
def test_amounts(value: float, text: str) -> None:
    assert amount(value) == text


@given(st.text(), st.floats(5, 30), st.floats(0, 300))
def test_what_is_made_to_fit_fits(text: str, size: float, width: float) -> None:
    short = fit(text, size, width)
    assert text_width(short, size) <= width
    assert short == clean(text) or short.endswith("…") or not short


@given(st.lists(st.floats(1, 400)), st.floats(400, 900))
def test_a_legend_flows_like_words(widths: list[float], right: float) -> None:
    places = flow(widths, 0, right, 10)
    for at, (x, row) in enumerate(places):
        assert x + widths[at] <= right or x == 0
        if at:
            before, above = places[at - 1]
            assert (row, x) == (above + 1, 0) or (row == above and x >= before + widths[at - 1])


@given(st.lists(st.integers(0, 1 << 61)))
def test_the_scale_holds_all_values(values: list[int]) -> None:
    low, high = scale(values)
    assert low < high
    assert all(low <= value <= high for value in values if value)


# -- the command ----------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("os.geteuid", lambda: 1000)  # it needs no root
    path = tmp_path / "move.json"
    path.write_text(json.dumps(report(3)))
    return path


def test_the_picture_lies_beside_the_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(file)]) == 0
    picture = file.with_suffix(".svg")
    assert capsys.readouterr().out == f"wrote {picture}\n"
    assert picture.read_text(encoding="utf-8") == drawn(report(3))


def test_a_web_page(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = file.with_name("out.HTML")
    assert main(["report", str(file), "--output", str(output), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"output": str(output)}
    assert output.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert drawn(report(3)) in output.read_text(encoding="utf-8")


def test_standard_input_and_output(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
    assert main(["report", "-"]) == 0
    assert capsys.readouterr().out == drawn(report(3))
    assert main(["report", str(file), "--output", "-"]) == 0
    assert capsys.readouterr().out == drawn(report(3))


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["none.json"], "none.json cannot be read: No such file"),
        (["."], "cannot be read: Is a directory"),
        (["\0"], "cannot be read: embedded null byte"),
        (["bad.json"], "bad.json is not a report"),
        (["move.json", "--output", "out.png"], "out.png is neither an .svg nor an .html"),
        (["move.json", "--output", "\0.svg"], "cannot be written: embedded null byte"),
        (["move.json", "--output", "none/out.svg"], "none/out.svg cannot be written: No such"),
    ],
)
def test_what_goes_wrong_is_said_with_a_code_of_its_own(
    argv: list[str], said: str, file: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(file.parent)
    Path("bad.json").write_text("{")
    assert main(["report", *argv]) == ReportFailed.exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert "Traceback" not in err
    assert not Path("out.png").exists()


def test_the_file_itself_is_never_written(file: Path) -> None:
    svg = file.rename(file.with_suffix(".svg"))
    before = svg.read_bytes()
    assert main(["report", str(svg)]) == ReportFailed.exit_code
    assert svg.read_bytes() == before
