"""migrate.cli: words to commands, failures to messages and exit codes."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import migrate
import migrate.errors
import transport.errors
from migrate import cli
from migrate.cli import COMMANDS, main, parser, with_command, with_sbin
from migrate.errors import BUG, DumpFailed, Interrupted
from transport.errors import Failure


def failures() -> list[type[Failure]]:
    """All classes of failures, however deep."""
    found, rest = [], [Failure]
    while rest:
        for kind in rest.pop().__subclasses__():
            rest.append(kind)
            if kind.__module__ in (migrate.errors.__name__, transport.errors.__name__):
                found.append(kind)
    return found


def raising(monkeypatch: pytest.MonkeyPatch, what: BaseException) -> None:
    def fail(given: argparse.Namespace) -> int:
        raise what

    monkeypatch.setattr(cli, "_dispatch", fail)
    monkeypatch.setattr(os, "geteuid", lambda: 0)


# -- exit codes -----------------------------------------------------------------------------------


def test_one_exit_code_per_cause() -> None:
    codes: dict[int, str] = {}
    for kind in failures():
        assert "exit_code" in vars(kind), f"{kind.__name__} has no exit code of its own"
        assert kind.exit_code not in codes, (kind.__name__, codes[kind.exit_code])
        codes[kind.exit_code] = kind.__name__
    assert len(codes) > 20
    assert not {0, BUG} & set(codes)
    assert all(0 < code < 126 or code == 130 for code in codes)  # the rest is the shell's


def test_names_are_unique_too() -> None:
    names = [kind.__name__ for kind in failures()]
    assert len(names) == len(set(names))  # the wire and --json know nothing else


@pytest.mark.parametrize("kind", failures(), ids=lambda kind: kind.__name__)
def test_a_failure_says_what_and_what_to_do(
    kind: type[Failure], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(monkeypatch, kind("it broke", "mend it"))
    assert main(["app", "hostb"]) == kind.exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "migrate: it broke\n  mend it\n"


def test_a_failure_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failure = DumpFailed("it broke", "mend it")
    failure.logs = "/var/log/x"
    raising(monkeypatch, failure)
    assert main(["--json", "app", "hostb"]) == DumpFailed.exit_code
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "error": "DumpFailed", "message": "it broke", "remedy": "mend it", "logs": "/var/log/x",
        "exit_code": DumpFailed.exit_code,
    }  # fmt: skip
    assert out.count("\n") == 1
    assert "logs: /var/log/x" in err


def test_no_remedy_no_empty_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(monkeypatch, Interrupted("interrupted", ""))
    assert main(["app", "hostb"]) == 130
    assert capsys.readouterr().err == "migrate: interrupted\n"


def test_a_bug_has_a_code_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(monkeypatch, ZeroDivisionError("oops"))
    assert main(["--json", "app", "hostb"]) == BUG
    out, err = capsys.readouterr()
    assert json.loads(out)["exit_code"] == BUG
    assert "oops" in err
    assert "Traceback" not in err
    assert main(["-v", "app", "hostb"]) == BUG
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, KeyboardInterrupt())
    assert main(["recover"]) == 130


# -- words ----------------------------------------------------------------------------------------

option = st.sampled_from(["-v", "--json", "--keep", "--force", "--tcp=close"])
name = st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", fullmatch=True)


@given(container=name, host=name, options=st.lists(st.tuples(option, st.integers(0, 2))))
def test_the_command_may_be_left_out(
    container: str, host: str, options: list[tuple[str, int]]
) -> None:
    words = [container, host]
    for word, at in options:
        words.insert(at, word)
    short, long = with_command(words), with_command(["move", *words])
    assert long == ["move", *words]
    if container in COMMANDS:
        assert short == words
    else:
        given_ = parser().parse_args(short)
        assert given_ == parser().parse_args(long)
        assert (given_.container, given_.host) == (container, host)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_container_named_like_a_command_needs_the_word(command: str) -> None:
    given_ = parser().parse_args(with_command(["move", command, "hostb"]))
    assert (given_.command, given_.container) == ("move", command)
    assert with_command([command]) == [command]


def test_what_move_is_told() -> None:
    given_ = parser().parse_args(with_command(["app", "me@hostb:22"]))
    assert (given_.keep, given_.force, given_.tcp, given_.json) == (
        False,
        False,
        "established",
        False,
    )
    given_ = parser().parse_args(with_command(["--tcp", "close", "app", "hostb", "--keep"]))
    assert (given_.tcp, given_.keep, given_.container) == ("close", True, "app")


@pytest.mark.parametrize(
    "argv",
    [
        [], ["app"], ["app", "hostb", "more"], ["app", "hostb", "--tcp", "udp"],
        ["app", "hostb", "--nonsense"], ["app", "hostb", "--ke"], ["version", "x"],
        ["setup", "--keep"], ["report"], ["report", "a", "b"],
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_code_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert "migrate" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(["version"]) == 0
    assert main(["version", "--json"]) == 0
    plain, as_json = capsys.readouterr().out.splitlines()
    assert plain == f"migrate {migrate.__version__}"
    assert json.loads(as_json) == {"version": migrate.__version__}


@pytest.mark.parametrize(
    ("argv", "needs"),
    [
        (["app", "hostb"], True), (["recover"], True), (["agent"], True), (["setup"], True),
        (["cache"], True),
        (["check"], True), (["setup", "hostb"], False), (["check", "hostb"], False),
        (["report", "move.json"], False),
    ],
)  # fmt: skip
def test_who_must_be_root(
    argv: list[str],
    needs: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli, "_dispatch", lambda given: 77)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(argv) == (migrate.errors.HostUnfit.exit_code if needs else 77)
    assert ("sudo" in capsys.readouterr().err) == needs
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert main(argv) == 77


# -- cron -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/usr/bin:/bin", "/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"),
        ("/sbin:/usr/bin", "/sbin:/usr/bin:/usr/local/sbin:/usr/sbin"),
    ],
)
def test_sbin_comes_last_and_once(path: str, wanted: str) -> None:
    assert with_sbin(path) == wanted
    assert with_sbin(wanted) == wanted


def test_the_programs_of_sbin_are_found_from_cron(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def dispatch(given: argparse.Namespace) -> int:
        seen.append(os.environ["PATH"])
        return 0

    monkeypatch.setattr(cli, "_dispatch", dispatch)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    main(["recover"])
    assert "/usr/sbin" in seen[0].split(":")


def test_asking_for_the_version_loads_neither_docker_nor_ssh() -> None:
    root = Path(__file__).parents[3]
    code = (
        "import sys; from migrate.cli import main; main(['version']); "
        "print([m for m in ('docker', 'paramiko', 'tqdm') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


# -- a reader that goes away ----------------------------------------------------------------------

PROGRAM = """
import os, sys
from pathlib import Path
from migrate import cli
def dispatch(given):
    for _ in range(int(sys.argv.pop())):
        print("a line on stdout, of which a great many fill all buffers there are")
        print("a line on stderr", file=sys.stderr)
    Path(sys.argv.pop()).write_text("done")
    return 80
parse = cli.with_command
cli._dispatch, os.geteuid, cli.with_command = dispatch, lambda: 0, lambda argv: parse(argv[:1])
sys.exit(cli.main())
"""


@pytest.mark.parametrize("lines", [1, 5000])
@pytest.mark.parametrize("broken", ["stdout", "stderr", "both"])
def test_a_reader_that_goes_away_stops_nothing(tmp_path: Path, lines: int, broken: str) -> None:
    """`migrate ... | true`: the work goes on, and the exit code is that of the work."""
    reader, writer = os.pipe()
    os.close(reader)
    words = ["recover", str(tmp_path / "done"), str(lines)]
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words], cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE if broken == "stderr" else writer,
        stderr=subprocess.PIPE if broken == "stdout" else writer, text=True,
    ) as process:  # fmt: skip
        os.close(writer)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 80
    assert (tmp_path / "done").read_text() == "done"
    if broken == "stdout":
        assert err == "a line on stderr\n" * lines
    if broken == "stderr":
        assert out.count("\n") == lines


def test_what_is_read_arrives_whole(tmp_path: Path) -> None:
    words = ["recover", str(tmp_path / "done"), "5000"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], cwd=Path(__file__).parents[3],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 80
    assert done.stdout.count("\n") == 5000
    assert set(done.stderr.splitlines()) == {"a line on stderr"}
