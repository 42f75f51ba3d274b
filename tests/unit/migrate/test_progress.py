"""migrate.progress: what is shown where, and that it never stands in the way."""

from __future__ import annotations

import io
import os
import pty
import threading
from collections.abc import Iterator

import pytest

from migrate.progress import Progress, human


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Gone(io.StringIO):
    """A terminal that hung up, or a pipe that nobody reads."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal
        self.tried = 0

    def isatty(self) -> bool:
        return self._terminal

    def write(self, text: str) -> int:
        self.tried += 1
        raise BrokenPipeError("nobody there")


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (2**20, "1.0 MiB"),
        (2**30, "1.0 GiB"), (5000 * 2**30, "5000.0 GiB"),
    ],
)  # fmt: skip
def test_amounts(amount: int, text: str) -> None:
    assert human(amount) == text


def test_a_line_for_each_phase_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    progress = Progress(out=out)
    with progress.phase("preflight"):
        pass
    with progress.phase("image", 3072) as phase:
        phase.advance(1024)
        phase.advance(2048)
    with progress.phase("freeze"):  # counts from zero again
        pass
    lines = out.getvalue().splitlines()
    assert [line.partition(":")[0] for line in lines] == ["preflight", "image", "freeze"]
    assert "3.0 KiB" in lines[1]
    assert "B" not in lines[0] + lines[2].removeprefix("freeze")


def test_a_phase_that_fails_is_not_reported_as_done() -> None:
    out = io.StringIO()
    progress = Progress(out=out)
    with pytest.raises(ValueError, match="no"), progress.phase("image"):
        raise ValueError("no")
    assert out.getvalue() == ""
    progress.warn("after")  # the bar of the failed phase is gone
    assert out.getvalue() == "warning: after\n"


def test_quiet_lets_only_warnings_through() -> None:
    out = io.StringIO()
    progress = Progress(quiet=True, verbose=True, out=out)
    with progress.phase("image") as phase:
        phase.advance(10)
        progress.note("a detail")
        progress.warn("look out")
    assert out.getvalue() == "warning: look out\n"


@pytest.mark.parametrize("verbose", [False, True])
def test_notes_are_for_the_curious(verbose: bool) -> None:
    out = io.StringIO()
    Progress(verbose=verbose, out=out).note("a detail")
    assert out.getvalue() == ("a detail\n" if verbose else "")


def test_a_bar_on_a_terminal() -> None:
    out = Terminal()
    progress = Progress(out=out)
    with progress.phase("image", 2048) as phase:
        phase.advance(2048)
        progress.warn("look out")
    assert "image" in out.getvalue()
    assert "2.00k" in out.getvalue()
    assert "warning: look out\n" in out.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_somebody_who_went_away_does_not_stop_it(terminal: bool) -> None:
    out = Gone(terminal)
    progress = Progress(verbose=True, out=out)
    with progress.phase("freeze", 10) as phase:
        for _ in range(20):
            phase.advance(10**9)
        progress.warn("look out")
        progress.note("a detail")
    assert out.tried > 0


@pytest.fixture
def hung_up() -> Iterator[io.TextIOWrapper]:
    ours, theirs = pty.openpty()
    file = os.fdopen(theirs, "w")
    os.close(ours)
    yield file
    try:
        file.close()
    except OSError:
        return


def test_a_real_terminal_that_hangs_up(hung_up: io.TextIOWrapper) -> None:
    with pytest.raises(OSError, match="Input/output"):
        print("is anybody there", file=hung_up, flush=True)
    with Progress(out=hung_up).phase("freeze", 10) as phase:
        phase.advance(5)


def test_threads_may_count() -> None:
    out = io.StringIO()
    progress = Progress(out=out)
    with progress.phase("freeze") as phase:
        threads = [threading.Thread(target=phase.advance, args=(512,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert "2.0 KiB" in out.getvalue()
