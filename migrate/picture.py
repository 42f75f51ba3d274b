"""Drawing in SVG: text that fits, strips with their legends, figures for people.

By hand, as it is a few rectangles: a library for charts would bring numpy along, and pictures that
cannot be themed for light and dark.
"""

from __future__ import annotations

import base64
import html
import unicodedata
from collections.abc import Sequence

FONT = "system-ui, 'DejaVu Sans', sans-serif"
WIDTH_OF_CHARACTER = 0.62  # of the font size; DejaVu's digits, which are wider than most fonts'
WIDER_IN_BOLD = 1.2
LABEL = 12
SWATCH = 17.0  # room for the colour in a legend
ROW, THIN = 17.0, 7.0  # of text; of a strip that only says when

Piece = tuple[float, float, str, str, str]
"""Of a strip: x, width, name, role, and name with figure."""

# Colours of one role: light, dark.
COLOURS = {
    "bg": ("#ffffff", "#15181c"),
    "ink": ("#1b1f24", "#e6e9ec"),
    "dim": ("#59636e", "#9aa5b1"),
    "grid": ("#d5dbe1", "#343b44"),
    "zero": ("#a9b1ba", "#7a838d"),
    "duplicate": ("#e0a100", "#d9a520"),
    "cached": ("#1a9e77", "#3cb98f"),
    "literal": ("#1f6fb5", "#5aa2ea"),
    "frozen": ("#cf4257", "#e76b7d"),
    "part0": ("#5d6b7a", "#8d9aa8"),
    "part1": ("#2c72b0", "#6aa9e6"),
    "part2": ("#22806a", "#4bbd9d"),
    "part3": ("#a8631d", "#e2a05c"),
    "part4": ("#7d56a8", "#b394dd"),
}


def clean(text: str) -> str:
    """Without what is no character of XML, or turns the direction of the text round."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


def text_width(text: str, size: float) -> float:
    """About how many pixels it takes, rather too many than too few."""
    wide = sum(unicodedata.east_asian_width(sign) in "WF" for sign in text)
    return size * (WIDTH_OF_CHARACTER * (len(text) - wide) + 1.1 * wide)


def fit(text: str, size: float, width: float) -> str:
    """The text, or as much of it as fits and an ellipsis."""
    text = clean(text)
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "…", size) > width:
        text = text[:-1]
    return text + "…" if text else ""


def flow(widths: Sequence[float], left: float, right: float, gap: float) -> list[tuple[float, int]]:
    """Where things of these widths go, one after the other like words: x and row of each."""
    x, row, places = left, 0, []
    for width in widths:
        if x > left and x + width > right:
            x, row = left, row + 1
        places.append((x, row))
        x += width + gap
    return places


def duration(seconds: float) -> str:
    """Seconds for a person: `0.4 ms`, `384 ms`, `2.50 s`, `73.1 s`, `12 min`."""
    if seconds < 0.00995:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 600:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 36000 else f"{seconds / 3600:.0f} h"


def amount(value: float) -> str:
    """Bytes, short enough for a bar or a column: `831 B`, `1.4 MiB`, `256 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if value < 999.5 or unit == "PiB":
            break
        value /= 1024
    return f"{value:.1f} {unit}" if value < 99.95 and unit != "B" else f"{value:.0f} {unit}"


class Picture:
    """An SVG picture that grows downwards."""

    def __init__(self, width: int, title: str) -> None:
        self.width = width
        self.title = clean(title)
        self._marks: list[str] = []

    def text(
        self, x: float, y: float, text: str, *, size: float = LABEL, role: str = "ink",
        anchor: str = "start", bold: bool = False,
    ) -> None:  # fmt: skip
        weight = ' font-weight="600"' if bold else ""
        self._marks.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" class="{role}" '
            f'text-anchor="{anchor}"{weight}>{html.escape(clean(text))}</text>'
        )

    def rect(
        self, x: float, y: float, width: float, height: float, role: str, tip: str = ""
    ) -> None:
        """A rectangle; `tip` is shown when the mouse is over it."""
        inside = f"<title>{html.escape(clean(tip))}</title>" if tip else ""
        self._marks.append(
            f'<rect x="{x:.2f}" y="{y:.2f}" width="{max(width, 0):.2f}" '
            f'height="{max(height, 0):.2f}" class="{role}">{inside}</rect>'
        )

    def line(
        self, x1: float, y1: float, x2: float, y2: float, role: str = "grid", width: float = 1
    ) -> None:
        self._marks.append(
            f'<line x1="{x1:.2f}" y1="{y1:.2f}" x2="{x2:.2f}" y2="{y2:.2f}" '
            f'class="s-{role}" stroke-width="{width:g}"/>'
        )

    def dot(self, x: float, y: float, radius: float, role: str) -> None:
        self._marks.append(f'<circle cx="{x:.2f}" cy="{y:.2f}" r="{radius:g}" class="{role}"/>')

    def image(
        self, x: float, y: float, width: float, height: float, data: bytes, media: str
    ) -> None:
        """Another picture, which becomes part of this one. `media`: such as image/png."""
        inside = base64.b64encode(data).decode()
        self._marks.append(
            f'<image x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}" '
            f'href="data:{media};base64,{inside}"/>'
        )

    def area(self, points: Sequence[tuple[float, float]], role: str, opacity: float) -> None:
        shape = " ".join(f"{x:.2f},{y:.2f}" for x, y in points)
        self._marks.append(f'<polygon points="{shape}" class="{role}" opacity="{opacity:g}"/>')

    def strip(self, y: float, height: float, pieces: Sequence[Piece]) -> None:
        """Pieces side by side, named where there is room."""
        for x, width, name, role, tip in pieces:
            self.rect(x, y, max(width, 0.75), height, role, tip)
            if text_width(name, LABEL) + 8 <= width:
                self.text(x + width / 2, y + height / 2 + 4, name, role="bg", anchor="middle")

    def legend(self, y: float, pieces: Sequence[Piece], left: float, right: float) -> float:
        """All pieces of a strip with their figures; gives the base line of its last row."""
        texts = [fit(piece[4], LABEL, right - left - SWATCH) for piece in pieces]
        places = flow([SWATCH + text_width(text, LABEL) for text in texts], left, right, LABEL)
        for piece, text, (x, row) in zip(pieces, texts, places, strict=True):
            self.rect(x, y + row * ROW - 10, 11, 11, piece[3])
            self.text(x + SWATCH, y + row * ROW, text)
        return y + ROW * max((row for _, row in places), default=0)

    def svg(self, height: float) -> str:
        """The whole picture; it refers to nothing outside of it."""
        title = html.escape(self.title)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {height:.0f}" '
            f'width="{self.width}" height="{height:.0f}" role="img" font-family="{FONT}">\n'
            f"<title>{title}</title>\n<style>\n{_style()}</style>\n"
            f'<rect width="100%" height="100%" class="bg"/>\n'
            + "\n".join(self._marks)
            + "\n</svg>\n"
        )


def page(picture: str, title: str) -> str:
    """A web page of its own that holds the picture."""
    light, dark = COLOURS["bg"]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{html.escape(clean(title))}</title>\n<style>\n"
        f"body {{ margin: 0; background: {light} }}\n"
        f"@media (prefers-color-scheme: dark) {{ body {{ background: {dark} }} }}\n"
        "svg { display: block; max-width: 100%; height: auto; margin: auto }\n"
        f"</style>\n</head>\n<body>\n{picture}</body>\n</html>\n"
    )


def _style() -> str:
    def rules(theme: int) -> str:
        return "".join(
            f".{role} {{ fill: {colours[theme]} }} .s-{role} {{ stroke: {colours[theme]} }}\n"
            for role, colours in COLOURS.items()
        )

    return rules(0) + "@media (prefers-color-scheme: dark) {\n" + rules(1) + "}\n"
