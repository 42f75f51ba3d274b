"""migrate.run: one runner, with a limit in time."""

import pytest

from migrate.errors import CommandFailed
from migrate.run import run


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
