"""The one place where programs are called.

Each has a session of its own: Ctrl-C at the terminal is for us, who know whether it is too late and
what there is to undo, and not for the `umount` that we have just called.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from migrate.errors import CommandFailed


@dataclass(frozen=True)
class Result:
    """What a program left: its exit code (negative: the signal that ended it) and its output."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        return self.returncode == 0


def run(
    argv: Sequence[str],
    *,
    timeout: float = 60.0,
    stdin: str = "",
    check: bool = True,
    env: Mapping[str, str] | None = None,
) -> Result:
    """Run a program to its end and give its output as text.

    `timeout` is in seconds; a program that needs longer is killed. With `check`, a non-zero exit
    raises `CommandFailed` with the last line of stderr; without, the caller looks at `returncode`.
    A missing program is `CommandFailed` (127) either way of asking.
    """
    command = tuple(argv)
    try:
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            env=None if env is None else dict(env),
            start_new_session=True,
        )
    except FileNotFoundError:
        result = Result(command, 127, "", f"{command[0]}: not found")
    except subprocess.TimeoutExpired:
        raise CommandFailed(f"`{' '.join(command)}` did not end within {timeout:.0f} s") from None
    else:
        result = Result(command, done.returncode, done.stdout, done.stderr)
    if check and not result.ok:
        raise CommandFailed(f"`{' '.join(command)}` failed ({result.returncode}): {tail(result)}")
    return result


class Waiting:
    """A program that is started now and gets its input later, when every millisecond counts."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.argv = tuple(argv)
        self._process = subprocess.Popen(
            self.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, start_new_session=True,
        )  # fmt: skip

    def finish(self, stdin: str, timeout: float = 20.0) -> None:
        """Give the input and wait for the end. Raises CommandFailed unless it succeeds."""
        try:
            stdout, stderr = self._process.communicate(stdin, timeout=timeout)
        except subprocess.TimeoutExpired:
            self.abandon()
            shown = " ".join(self.argv)
            raise CommandFailed(f"`{shown}` did not end within {timeout:.0f} s") from None
        result = Result(self.argv, self._process.returncode, stdout, stderr)
        if not result.ok:
            shown = " ".join(self.argv)
            raise CommandFailed(f"`{shown}` failed ({result.returncode}): {tail(result)}")

    def abandon(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.communicate()


def tail(result: Result) -> str:
    """The last line with something in it that the program said, for an error message."""
    for text in (result.stderr, result.stdout):
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if lines:
            return lines[-1]
    return "it said nothing"
