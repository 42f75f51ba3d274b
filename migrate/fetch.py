"""`migrate fetch CONTAINER HOST`: brings a container from another host to this one.

This host logs in there, as it does to send one away, and starts the source of an ordinary migration
(`migrate source`); over the same connection it serves as that migration's destination. The other
host needs neither a key nor a name of this one.
"""

from __future__ import annotations

import shlex
import socket
import time
from dataclasses import dataclass

import msgspec

from migrate.agent import Agent
from migrate.agent_link import COMMAND, SLICE
from migrate.caller_link import Report
from migrate.docker_host import DockerHost
from migrate.errors import (
    CommandFailed,
    ContainerNotFound,
    HostUnfit,
    Interrupted,
    OutcomeUnknown,
    ToolMissing,
)
from migrate.interrupts import Interrupts
from migrate.journal import read_all
from migrate.messages import Failed
from migrate.progress import Progress
from migrate.protocol import REPORT, to_failure
from migrate.recover import recover_local
from migrate.summary import Summary
from transport.channel import Channel
from transport.errors import ConnectionLost, Failure, StreamCorrupt
from transport.frames import Frame
from transport.ssh import connect
from transport.ssh_process import RemoteProcess
from transport.target import parse_target

SETTLE_PATIENCE = 90.0  # seconds: longer than the other side needs to notice that a link is dead
SETTLE_PAUSE = 2.0
PHASE = "fetch"  # until the source has found the container and begins
FETCHED = "fetched from "  # before the name of a peer, in the journal of its destination


@dataclass(frozen=True)
class Wanted:
    """`words`: options of `migrate move`, for the source."""

    container: str
    host: str
    words: tuple[str, ...] = ()


class Receiver(Agent):
    """The agent of a source that we have started. `receive_all` serves it to its last word."""

    def __init__(
        self, channel: Channel, peer: str, interrupts: Interrupts, progress: Progress
    ) -> None:
        super().__init__(channel, peer)
        self._interrupts = interrupts
        self._progress = progress
        self._reached = ""

    @property
    def session(self) -> str:
        return self.destination.begun.session if self.destination.begun else ""

    def fail(self, failure: Failure) -> None:
        """A program that we had called may have been ended by the signal that is to end us."""
        if isinstance(failure, CommandFailed):
            failure = self._interrupts.noted() or failure
        super().fail(failure)

    def let_go(self) -> None:
        """Free the journal: now it can be answered from, by us, our guard, or `migrate recover`."""
        journal, self.destination.journal = self.destination.journal, None
        if journal:
            journal.close(finished=False)

    def receive_all(self) -> Report:
        """Raises ConnectionLost when it ends without a word, after undoing what is not ours yet."""
        try:
            while (frame := self._next()).kind != REPORT:
                self._progress.advance(len(frame.payload))
                self.serve_one(frame)
                self._say_how_far()
            return msgspec.json.decode(frame.payload, type=Report)
        except ConnectionLost as lost:
            self.source_lost(lost)
            raise
        except (StreamCorrupt, msgspec.DecodeError, UnicodeDecodeError) as corrupt:
            broken = ConnectionLost(f"what the source sends makes no sense: {corrupt}")
            self.source_lost(broken)
            raise broken from corrupt

    def _say_how_far(self) -> None:
        """As the phases of `migrate move`, once each: who has called us must know of the commit."""
        destination = self.destination
        reached = "confirm" if destination.running else "prepare" if destination.begun else ""
        if reached != self._reached:
            self._reached = reached
            self._progress.reached(reached)

    def _next(self) -> Frame:
        """The next frame. A signal is passed on as our refusal, and the source undoes, too."""
        while True:
            if self.destination.committed:
                self._interrupts.hold()  # too late
            if not self.failed:
                try:
                    self._interrupts.check()
                except Interrupted as interrupted:
                    self.fail(interrupted)
            try:
                return self.channel.receive(SLICE)
            except TimeoutError:
                continue


def fetch(wanted: Wanted, progress: Progress) -> Summary:
    """Bring it here. Raises the Failure that stopped it, after everything is undone."""
    began = time.monotonic()
    receiver = None
    with Interrupts() as interrupts:
        try:
            with (
                connect(parse_target(wanted.host)) as connection,
                connection.open(_source([*wanted.words, wanted.container])) as process,
                Channel.over_process(process) as channel,
                progress.phase(PHASE),
            ):
                interrupts.polite()
                receiver = Receiver(channel, FETCHED + wanted.host, interrupts, progress)
                try:
                    report = receiver.receive_all()
                except ConnectionLost as lost:
                    raise _explained(process, lost, connection.description) from lost
        except Failure as failure:
            if receiver is None or not receiver.session:
                raise  # nothing had begun
            interrupts.hold()
            _settle_after(receiver, wanted, failure)
            report = Report()
    if report.error:
        raise failure_of(report)
    if report.summary:
        return msgspec.json.decode(report.summary, type=Summary)
    assert receiver
    return Summary(
        wanted.container, source=wanted.host, destination=socket.gethostname(),
        new_id=receiver.destination.container, session=receiver.session,
        total=time.monotonic() - began, warnings=["the link broke at the end: no figures"],
    )  # fmt: skip


def _settle_after(receiver: Receiver, wanted: Wanted, failure: Failure) -> None:
    """The link broke in a session: tell the source who owns the container. Returns when we do."""
    receiver.let_go()
    settled = settle_patiently(wanted.host, receiver.session, SETTLE_PATIENCE)
    if not receiver.destination.committed:
        if settled:
            failure.remedy = f"{settled.message}: run it again, else it may stay frozen there"
        raise failure
    if settled:  # our guard goes on trying, as soon as we end
        raise OutcomeUnknown(
            f"`{wanted.container}` is ours, but its copy at {wanted.host} is still frozen: "
            f"{settled.message}",
            f"run `migrate fetch {wanted.container} {wanted.host}` again when it can be reached",
        ) from failure
    receiver.dismiss_guard()
    try:
        DockerHost().inspect_container(receiver.destination.container)
    except ContainerNotFound:  # it did not come to run, and goes on there
        raise failure from None


def settle_patiently(host: str, session: str, patience: float) -> Failure | None:
    """Try `settle` for so many seconds; gives the last failure when it did not work."""
    deadline = time.monotonic() + patience
    while True:
        try:
            settle(host, session)
        except Failure as failure:
            if time.monotonic() > deadline:
                return failure
            time.sleep(SETTLE_PAUSE)
        else:
            return None


def settle(host: str, session: str = "") -> list[str]:
    """See that all sources there that were left by broken links know who owns their containers.

    Raises the first failure; Busy: the process of that `session` there still lives.
    """
    words = [f"--session={session}"] if session else []
    with (
        connect(parse_target(host)) as connection,
        connection.open(_source(words)) as process,
        Channel.over_process(process) as channel,
    ):
        receiver = Receiver(channel, FETCHED + host, Interrupts(), Progress(quiet=True))
        try:
            report = receiver.receive_all()
        except ConnectionLost as lost:
            raise _explained(process, lost, connection.description) from lost
    if report.error:
        raise failure_of(report)
    return report.settled


def recover_destination(session: str, patience: float = SETTLE_PAUSE) -> str:
    """`recover_local` for a destination; where it had fetched, the source is told then.

    Raises what that raises, and the failure to tell it, after `patience` seconds of trying.
    """
    peers = {header.session: header.peer for header in read_all() if header.role == "destination"}
    said = recover_local(session, "destination")
    host = peers.get(session, "")
    if host.startswith(FETCHED):
        failure = settle_patiently(host.removeprefix(FETCHED), session, patience)
        if failure:
            raise failure
    return said


def failure_of(report: Report) -> Failure:
    """The failure that the source has ended with, as an exception of ours."""
    return to_failure(Failed(report.error, report.message, report.remedy))


def _source(words: list[str]) -> str:
    return COMMAND.format(shlex.join(["source", f"--caller={socket.gethostname()}", *words]))


def _explained(process: RemoteProcess, lost: ConnectionLost, where: str) -> Failure:
    """Why the source has ended without a word: a host that is not set up, or a broken link."""
    status = process.exit_status(1.0)
    said = process.stderr_tail().strip()
    if status == 127 or "command not found" in said:
        return ToolMissing(f"`migrate` is not installed at {where}")
    if status and "sudo:" in said:
        return HostUnfit(
            f"sudo at {where} refuses: {said.splitlines()[-1]}",
            "log in as root, or allow this user `migrate` without a password",
        )
    return lost
