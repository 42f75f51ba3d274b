"""The guard: a second process that cleans up when the first is killed.

Each side of a migration starts one with a pipe to itself. The end of the pipe without the word
`done` means that the first process died, whatever killed it; the guard then does what
`migrate recover` does for that session. A killed `migrate` leaves no container frozen.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

DONE = b"done"
LOG = Path("/var/lib/migrate/guard.log")
PATIENCE = 10.0  # seconds for the dead process's journal lock to become free


class Guard:
    """The guarded process's end. Keep the object: its death is the signal."""

    def __init__(self, process: subprocess.Popen[bytes], pipe: int) -> None:
        self._process = process
        self._pipe = pipe

    @classmethod
    def start(cls, session: str, role: str) -> Guard:
        """Start the guard of a session; `role`: `source` or `destination`."""
        read, write = os.pipe()  # not inheritable: no child of ours keeps the pipe open
        with LOG.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-I", "-m", "migrate.guard", session, role],
                stdin=read, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        os.close(read)
        return cls(process, write)

    def dismiss(self) -> None:
        """All is done or undone: nothing is to be guarded any more."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._pipe, DONE)
        os.close(self._pipe)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)


def main() -> int:
    session, role = sys.argv[1], sys.argv[2]
    heard = b""
    while piece := os.read(0, 64):
        heard += piece
    if heard == DONE:
        return 0
    from migrate.errors import Busy
    from migrate.recover import recover_local
    from transport.errors import Failure

    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            said = recover_local(session, role)
        except Busy:
            if time.monotonic() > deadline:
                return Busy.exit_code
            time.sleep(0.05)
        except FileNotFoundError:
            return 0
        except Failure as failure:
            print(f"{session} {role}: {failure.message}", flush=True)
            return failure.exit_code
        else:
            print(f"{session} {role}: {said}", flush=True)
            return 0


if __name__ == "__main__":
    sys.exit(main())
