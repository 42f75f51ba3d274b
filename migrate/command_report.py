"""`migrate report FILE`: what `migrate move --json` printed, as a picture."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from migrate.errors import ReportFailed
from migrate.report import MAX_SIZE, parse
from migrate.report_picture import draw, draw_page

STANDARD = "-"


def run_command(given: argparse.Namespace) -> int:
    """Draw it, and say where the picture is."""
    figures = parse(_read(given.file), given.file if given.file != STANDARD else "standard input")
    output = given.output or picture_name(given.file)
    kind = Path(output).suffix.lower()
    if output == given.file != STANDARD:
        raise ReportFailed(f"{output} is the report itself", "name the picture with --output")
    if output != STANDARD and kind not in (".svg", ".html"):
        raise ReportFailed(
            f"{output} is neither an .svg nor an .html file", "name the picture so that it is one"
        )
    drawn = draw_page(figures) if kind == ".html" else draw(figures)
    if output == STANDARD:
        sys.stdout.write(drawn)
        return 0
    try:
        Path(output).write_text(drawn, encoding="utf-8")
    except (OSError, ValueError) as problem:
        raise ReportFailed(f"{output} cannot be written: {_why(problem)}", "") from problem
    print(json.dumps({"output": output}) if given.json else f"wrote {output}")
    return 0


def picture_name(file: str) -> str:
    """Beside the file; on standard output for what came from standard input."""
    return STANDARD if file == STANDARD else str(Path(file).with_suffix(".svg"))


def _read(file: str) -> bytes:
    """One byte more than a report may have is enough to know that it is none."""
    try:
        if file == STANDARD:
            return sys.stdin.buffer.read(MAX_SIZE + 1)
        with Path(file).open("rb") as opened:
            return opened.read(MAX_SIZE + 1)
    except (OSError, ValueError) as problem:
        raise ReportFailed(f"{file} cannot be read: {_why(problem)}", "") from problem


def _why(problem: OSError | ValueError) -> str:
    """ValueError: a NUL byte in the name."""
    return str(getattr(problem, "strerror", None) or problem)
