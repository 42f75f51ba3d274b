"""migrate.run: one runner, with a limit in time."""

import os
from pathlib import Path

import pytest

from migrate.errors import CommandFailed
from migrate.run import Result, Waiting, run, tail


def test_output_and_exit_code_are_given() -> None:
    result = run(["sh", "-c", "cat; echo oops >&2; exit 3"], stdin="in", check=False)
    assert (result.stdout, result.stderr, result.returncode) == ("in", "oops\n", 3)
    assert not result.ok


def test_failure_names_the_command_and_its_last_words() -> None:
    with pytest.raises(CommandFailed, match=r"sh -c .*failed \(1\): last"):
        run(["sh", "-c", "echo first; echo last >&2; exit 1"])


def test_a_missing_program_is_a_failure_like_any_other() -> None:
    assert run(["/nonexistent/program"], check=False).returncode == 127


def test_a_program_that_hangs_is_ended() -> None:
    with pytest.raises(CommandFailed, match="did not end"):
        run(["sleep", "30"], timeout=0.1)


def test_the_environment_is_that_which_is_given() -> None:
    result = run(["/usr/bin/env"], env={"ONLY": "this"})
    assert result.stdout == "ONLY=this\n"


def test_ctrl_c_at_the_terminal_is_not_for_what_we_call() -> None:
    """It goes to all of the foreground process group (termios(3), ISIG)."""
    print_group = ["python3", "-c", "import os; print(os.getpgrp())"]
    assert int(run(print_group).stdout) != os.getpgrp()
    waiting = Waiting(["sh", "-c", f'test "$(ps -o pgid= -p $$)" -ne {os.getpgrp()}'])
    waiting.finish("")


def test_a_signal_is_a_negative_code() -> None:
    assert run(["sh", "-c", "kill -9 $$"], check=False).returncode == -9


def test_bytes_that_are_no_text_do_no_harm() -> None:
    assert run(["printf", "a\\377b"]).stdout == "a\N{REPLACEMENT CHARACTER}b"


@pytest.mark.parametrize(
    ("stdout", "stderr", "wanted"),
    [
        ("out\n", "err\n\n", "err"), ("one\ntwo\n", " \n", "two"), ("", "", "it said nothing"),
    ],
)  # fmt: skip
def test_last_words(stdout: str, stderr: str, wanted: str) -> None:
    assert tail(Result(("x",), 1, stdout, stderr)) == wanted


# -- a program that waits for its input -----------------------------------------------------------


def test_a_waiting_program_gets_its_input_later(tmp_path: Path) -> None:
    waiting = Waiting(["sh", "-c", f"cat >{tmp_path}/got"])
    assert not (tmp_path / "got").exists() or (tmp_path / "got").read_text() == ""
    waiting.finish("the input")
    assert (tmp_path / "got").read_text() == "the input"


def test_a_waiting_program_that_fails_says_so() -> None:
    with pytest.raises(CommandFailed, match=r"failed \(4\): no luck"):
        Waiting(["sh", "-c", "cat; echo no luck >&2; exit 4"]).finish("x")


def test_one_that_ended_early_is_a_failure_too() -> None:
    waiting = Waiting(["sh", "-c", "exit 5"])
    waiting._process.wait(20)
    with pytest.raises(CommandFailed, match=r"failed \(5\)"):
        waiting.finish("x" * 100_000)


def test_one_that_hangs_is_ended() -> None:
    waiting = Waiting(["sleep", "600"])
    with pytest.raises(CommandFailed, match="did not end"):
        waiting.finish("", timeout=0.1)
    assert waiting._process.returncode == -9


def test_one_that_is_not_needed_is_ended() -> None:
    waiting = Waiting(["sleep", "600"])
    waiting.abandon()
    assert waiting._process.returncode == -9
