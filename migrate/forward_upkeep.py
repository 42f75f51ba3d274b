"""Forwards after the moves that made them: found, laid again, and ended on both hosts."""

from __future__ import annotations

from migrate import forward, forward_store
from migrate.agent_link import AgentLink
from migrate.docker_host import DockerHost
from migrate.errors import ContainerNotFound
from migrate.forward_record import TARGET, Forward
from migrate.messages import Done, EndForward
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
    """Lay the forwards on record, as after a boot; one to a container that is gone ends.

    Gives what was done, in sentences, and what failed. Not `all_of_them`: those not in force.
    """
    said: list[str] = []
    failed: list[Failure] = []
    for record in forward_store.read_all():
        if not all_of_them and forward.laid(record):
            continue
        try:
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


def _there(container: str) -> bool:
    try:
        DockerHost().inspect_container(container)
    except ContainerNotFound:
        return False
    return True
