"""What tests do with a host, whatever it is: a lab's, a virtual machine, a client beside one."""

from __future__ import annotations

import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence

from migrate.run import Result, run


class Host(ABC):
    """A host that commands can be run on. `patience`: seconds that one may take."""

    name: str
    address: str
    patience = 120.0

    @abstractmethod
    def enter(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` inside the host."""

    @abstractmethod
    def write(self, inside: str, text: str, mode: int = 0o644) -> None:
        """Write a file of the host."""

    def run(
        self, argv: Sequence[str], *, timeout: float = 0, stdin: str = "", check: bool = True
    ) -> Result:
        """Run a program inside the host to its end; `timeout` 0 is the host's patience."""
        return run(self.enter(argv), timeout=timeout or self.patience, stdin=stdin, check=check)

    def sh(self, script: str, *, timeout: float = 0, check: bool = True) -> str:
        """Run a shell script inside the host, give its stdout without the last newline."""
        result = self.run(["sh", "-c", script], timeout=timeout, check=check)
        return result.stdout.rstrip("\n")

    def popen(self, argv: Sequence[str]) -> subprocess.Popen[str]:
        """Start a program inside the host with pipes; the caller ends it."""
        return subprocess.Popen(
            self.enter(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
