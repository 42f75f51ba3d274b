"""Forwards after the moves that made them: found, laid again, led on and ended on both hosts."""

from __future__ import annotations

from migrate import forward, forward_store
from migrate.agent_link import AgentLink
from migrate.docker_host import DockerHost
from migrate.errors import ContainerNotFound, PlacementFailed, Unsupported
from migrate.forward_record import TARGET, Forward
from migrate.messages import Done, EndForward, SwitchForward
from migrate.protocol import call
from transport.errors import Failure

ANSWER = 60.0


def forward_to(container: str) -> Forward | None:
    """The record of the forward that ends in a container of this host (by its id)."""
    return next(
        (f for f in forward_store.read_all() if f.role == TARGET and f.container == container), None
    )


def end_both(record: Forward) -> str:
    """End a forward here and at the other host; gives a warning, or ''."""
    forward.remove(record.id)
    try:
        with AgentLink(record.peer) as link:
            if link.greet().host_id == record.peer_id:
                call(link.channel, EndForward(record.id), Done, ANSWER)
                return ""
            problem = f"{record.peer} is another host now"
    except Failure as failure:
        problem = failure.message
    return f"{record.peer} could not be told: {problem}; `migrate forward remove` there does it"


def lay_again(*, all_of_them: bool = True) -> tuple[list[str], list[Failure]]:
    """Lay the forwards on record, as after a boot; one to a container that is gone ends, and the
    anchor of one that has moved on is told.

    Gives what was done, in sentences, and what failed. Not `all_of_them`: those not in force.
    """
    said: list[str] = []
    failed: list[Failure] = []
    for record in forward_store.read_all():
        if not all_of_them and not record.left and forward.laid(record):
            continue
        try:
            if record.left:
                said.append(_tell_late(record))
                continue
            if record.role == TARGET and not _there(record.container):
                said.append(f"forward {record.id}: container {record.name} is gone; it ends")
                if warning := end_both(record):
                    said.append(warning)
                continue
            forward.lay(record)
            said.append(f"forward {record.id} of container {record.name} is in force")
        except Failure as failure:
            failed.append(failure)
    return said, failed


def told(record: Forward) -> bool:
    """The container moves on to a third host: do what `Departure.committed` could not, since the
    process died, or the anchor was gone. False when it still is."""
    try:
        _switch_over(record)
    except PlacementFailed:  # that is an answer: it has no such forward, of a move that was undone
        return True
    except Failure:
        return False
    return True


def still_leads_here(record: Forward, failure: Failure) -> str:
    return (
        f"{record.peer} still leads the clients of {record.name} to this host: {failure.message}; "
        f"`migrate recover` here tells it once more, `migrate forward remove {record.id}` gives up"
    )


def untold(session: str) -> Forward | None:
    """The record of a forward here of which the anchor is still to be told of that session."""
    return next((f for f in forward_store.read_all() if f.left and f.successor == session), None)


def tell_late(session: str) -> str:
    """Tell it; '' when there is none, as when somebody was faster. Raises Failure."""
    record = untold(session)
    return _tell_late(record) if record else ""


def _tell_late(record: Forward) -> str:
    """The container has moved on, and the anchor could not be told then. Gives what was done."""
    try:
        _switch_over(record)
    except PlacementFailed:  # it has no way to where it went: nor is one here any more
        end = f"forward {record.id} of container {record.name} ends"
        return f"{end}; {end_both(record)}".rstrip("; ")
    except Failure as failure:
        raise type(failure)(still_leads_here(record, failure), failure.remedy) from failure
    forward.remove(record.id)
    return f"{record.peer} leads the clients of container {record.name} to where it has moved on"


def _switch_over(record: Forward) -> None:
    with AgentLink(record.peer) as link:
        if link.greet().host_id != record.peer_id:
            raise Unsupported(f"{record.peer} is another host now")
        call(link.channel, SwitchForward(record.id, record.successor), Done, ANSWER)


def _there(container: str) -> bool:
    try:
        DockerHost().inspect_container(container)
    except ContainerNotFound:
        return False
    return True
