"""`migrate recover`: order after crashes and broken links, asking other hosts where needed."""

from __future__ import annotations

import time
from collections.abc import Callable

from migrate import frontend, hooks, lineage
from migrate.agent_link import AgentLink, link_to
from migrate.errors import AgentFailed, Busy, OutcomeUnknown
from migrate.fetch import recover_destination
from migrate.forward_upkeep import lay_again
from migrate.journal import COMMIT_SENT, CONFIRMED, DIRECTORY, Journal, find, read_all
from migrate.messages import AskOutcome, Done, Finish, Outcome
from migrate.protocol import call
from migrate.recover import recover_local
from migrate.source_end import end_source_copy, run_hooks
from transport.errors import Failure

ANSWER = 120.0
BUSY_PATIENCE = 60.0
LinkTo = Callable[[str], AgentLink]


def recover_all() -> tuple[list[str], list[Failure]]:
    """Recover every session of which the process is dead, and, after a boot, forwards that are
    not in force. Gives what was done, what failed."""
    said: list[str] = []
    failed: list[Failure] = []
    for header in read_all(DIRECTORY):
        try:
            if header.role == "source":
                said.append(recover_source(header.session))
            else:
                said.append(recover_destination(header.session))
        except FileNotFoundError:
            continue
        except Failure as failure:
            failed.append(failure)
    again, not_again = lay_again(all_of_them=False)
    try:
        if laid := frontend.restore_missing():
            again.append(f"{laid} front ends of this host are in force")
    except Failure as failure:
        not_again.append(failure)
    return said + again, failed + not_again


def recover_source(session: str, link: LinkTo | None = None) -> str:
    """Recover a session that this host was the source of; asks the destination when need be."""
    journal = Journal.reopen(find(session, "source"))
    finished = False
    try:
        if CONFIRMED in journal.phases:
            # First what is surely right, whether or not the destination can be reached.
            end_source_copy(journal)
            journal.tidy()
        if COMMIT_SENT in journal.phases:
            said = _ask(journal, link or link_to)
            finished = True
            return said
    finally:
        journal.close(finished=finished)
    return recover_local(session, "source")


def _ask(journal: Journal, link: LinkTo) -> str:
    """Ask the destination who owns the container, act on it, and tell the destination so."""
    header = journal.header
    with link(header.peer) as peer:
        greeting = peer.greet()
        if header.peer_id and greeting.host_id != header.peer_id:
            raise OutcomeUnknown(
                f"{header.peer} is another host than the one that container {header.name} went to",
                "make that name lead to the old host again, or decide by hand",
            )
        deadline = time.monotonic() + BUSY_PATIENCE
        while True:
            answer = call(peer.channel, AskOutcome(session=header.session), Outcome, ANSWER)
            if answer.owner != "busy":
                break
            if time.monotonic() > deadline:
                raise Busy(f"{header.peer} is still busy with container {header.name}")
            time.sleep(0.5)
        if answer.owner == "destination" or CONFIRMED in journal.phases:
            if CONFIRMED not in journal.phases:
                journal.phase(CONFIRMED)
            lineage.note(header.container, answer.container)
            end_source_copy(journal)
            journal.tidy()
            call(peer.channel, Finish(), Done, ANSWER)
            return f"container {header.name} runs at {header.peer}; the copy here was ended"
        if answer.owner != "source":
            raise OutcomeUnknown(f"{header.peer} gives no usable answer: {answer.owner!r}")
        failed = journal.rollback()
        if hooks.mark(hooks.PREPARE) in journal.phases:
            run_hooks(journal, hooks.ROLLBACK)
        if failed:
            raise AgentFailed("could not undo everything: " + "; ".join(failed))
        return f"container {header.name} did not come to run at {header.peer}; it runs here again"
