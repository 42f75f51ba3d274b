"""The guard: a second process that cleans up when the first is killed.

Each side of a migration starts one with a pipe to itself. The end of the pipe without the word
`done` means that the first process died, whatever killed it; the guard then does what
`migrate recover` does for that session, for up to an hour: it also asks the destination how an
unsure commit has ended. A killed `migrate` leaves no container frozen. It also goes on to tell an
anchor where the container went, when `migrate` could not.
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
PATIENCE = 3600.0  # seconds to go on trying
FIRST_PAUSE, LAST_PAUSE = 0.05, 60.0  # seconds between two tries; doubled each time


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


def note(line: str) -> None:
    """Into the log, unless the disk is full: what we are here for is more important."""
    with contextlib.suppress(OSError):
        print(f"{time.strftime('%F %T')} {line}", flush=True)


def main() -> int:
    session, role = sys.argv[1], sys.argv[2]
    heard = b""
    while piece := os.read(0, 64):
        heard += piece
    if heard == DONE:
        return 0
    from migrate import forward_upkeep
    from migrate.fetch import recover_destination
    from migrate.recover_remote import recover_source
    from transport.errors import Failure

    said_before: set[str] = set()
    deadline, pause = time.monotonic() + PATIENCE, FIRST_PAUSE
    while True:
        try:
            if role == "source":
                # It may have to ask the destination who owns the container.
                with contextlib.suppress(FileNotFoundError):
                    note(f"{session} {role}: {recover_source(session)}")
                said = forward_upkeep.tell_late(session)
            else:
                said = recover_destination(session, PATIENCE)
        except FileNotFoundError:
            return 0
        except Failure as failure:
            # Busy: the dead process's lock is not free yet. Else a Docker that starts again, a
            # link that comes back: a frozen container is worth an hour of trying.
            if failure.message not in said_before:
                said_before.add(failure.message)
                note(f"{session} {role}: {failure.message}")
            if time.monotonic() > deadline:
                return failure.exit_code
            time.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE)
        else:
            if said:
                note(f"{session} {role}: {said}")
            return 0


if __name__ == "__main__":
    sys.exit(main())
