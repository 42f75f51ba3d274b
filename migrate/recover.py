"""After a crash: bring one host back to order from its journals.

`recover_local` needs nobody else; it is what the guard does. A source whose commit went out unsure
of its arrival is the one case that needs the destination (`migrate recover`, in recover_remote.py).
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from migrate import forward, forward_store, hooks, lineage
from migrate.docker_host import DockerHost
from migrate.errors import AgentFailed, Busy, ContainerNotFound
from migrate.held_restore import PENDING, supervisor_is_done
from migrate.journal import (
    COMMIT_SENT,
    CONFIRMED,
    DIRECTORY,
    OWNED,
    RUNNING,
    Journal,
    find,
    restarts,
)
from migrate.messages import Outcome
from migrate.protocol import SESSION
from migrate.runtime import RAN
from migrate.source_end import end_source_copy, run_hooks
from migrate.undo import LeadAway, RemoveContainer, RenameBack, Unmount
from transport.errors import StreamCorrupt

SUPERVISOR_PATIENCE = 60.0


def recover_local(session: str, role: str, directory: Path = DIRECTORY) -> str:
    """Undo or finish one session of which the process is dead; gives a sentence about it.

    Raises Busy while it is alive, FileNotFoundError when there is nothing to do, AgentFailed when
    something could not be undone (the journal stays).
    """
    journal = Journal.reopen(find(session, role, directory))
    finished = False
    try:
        if role == "source" and CONFIRMED in journal.phases:
            end_source_copy(journal)
            journal.tidy()  # the journal stays until the destination knows (recover_remote)
            return f"container {journal.header.name} runs at {journal.header.peer}"
        if role == "source" and COMMIT_SENT in journal.phases:
            return (
                f"container {journal.header.name} stays frozen: ask {journal.header.peer} "
                "with `migrate recover`"
            )
        if role == "destination" and OWNED in journal.phases and _came_to_run(journal):
            _settle(journal)
            return f"container {journal.header.name} runs here; kept for the source to ask"
        failed = journal.rollback()
        if hooks.mark(hooks.PREPARE) in journal.phases:
            run_hooks(journal, hooks.ROLLBACK)
        if failed:
            raise AgentFailed("could not undo everything: " + "; ".join(failed))
        finished = True
        return f"container {journal.header.name}: everything undone"
    finally:
        journal.close(finished=finished)


def _container(journal: Journal) -> str:
    for step in journal.steps:
        if isinstance(step, RemoveContainer):
            return step.container
    return ""


def _came_to_run(journal: Journal) -> bool:
    """Whether the restored container came to run; waits for a restore that is under way.

    By the supervisor's mark, not by what Docker says now: it may have ended since.
    """
    if RUNNING in journal.phases:
        return True
    container = _container(journal)
    pending = PENDING / (container or "none")
    deadline = time.monotonic() + SUPERVISOR_PATIENCE
    while not supervisor_is_done(pending) and time.monotonic() < deadline:
        time.sleep(0.02)
    bases = [step.path for step in journal.steps if isinstance(step, Unmount)]
    if any(Path(base, "work", RAN).exists() for base in bases):
        journal.phase(RUNNING)
        return True
    return False


def _settle(journal: Journal) -> None:
    """The container is ours: do what its agent had left to do (Destination.settle)."""
    docker = DockerHost()
    lineage.note(journal.header.container, _container(journal))
    if restarts(journal.header.policy):
        with contextlib.suppress(ContainerNotFound):  # it may have ended since, and been --rm
            docker.set_restart_policy(_container(journal), journal.header.policy)
    for step in journal.steps:
        if isinstance(step, RenameBack):  # the stopped one that --force has replaced
            docker.remove(step.container)
        if isinstance(step, LeadAway) and (record := forward_store.find(step.ident)):
            forward.end(record)  # it is home
    journal.tidy()


def outcome(session: str, directory: Path = DIRECTORY) -> Outcome:
    """Who owns the container of a session, as far as this (the destination's) host knows.

    No journal means that everything was undone, or never begun: the source owns it.
    """
    if not SESSION.fullmatch(session):
        raise StreamCorrupt(f"not a session id: {session!r}")
    try:
        recover_local(session, "destination", directory)
    except FileNotFoundError:
        return Outcome(owner="source")
    except Busy:
        return Outcome(owner="busy")
    try:
        journal = Journal.reopen(find(session, "destination", directory))
    except FileNotFoundError:
        return Outcome(owner="source")
    container = _container(journal)
    journal.close(finished=False)  # until the source says that it has acted on the answer
    return Outcome(owner="destination", container=container)


def forget(session: str, directory: Path = DIRECTORY) -> None:
    """The source has ended its copy: nobody will ask for this session again."""
    with contextlib.suppress(FileNotFoundError):  # somebody was faster
        journal = Journal.reopen(find(session, "destination", directory))
        for step in journal.steps:
            if isinstance(step, LeadAway):
                forward.remove(step.ident)
        journal.close(finished=True)
