"""`migrate agent`: the destination's end of the connection, started over SSH by the source.

Speaks the protocol over stdin and stdout. It ends, and undoes what it did, when the source goes
away before commit; its guard (migrate/guard.py) does the same when this process is killed.

Who may start it is root here: the container's settings come from the source and go to Docker as
they are, a privileged one's too. What is checked is that a confused source, or a broken stream,
cannot write outside the container, its images and its session.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator

from migrate import __version__, forward, frontend, frontend_store
from migrate.destination import Destination
from migrate.errors import AgentFailed, NoSpace, ProtocolMismatch
from migrate.freeze_turn import Slot
from migrate.guard import Guard
from migrate.host_facts import facts
from migrate.host_setup import host_id, known_host_id, make_state_dirs
from migrate.messages import (
    Abandon,
    AdoptConnections,
    AskCache,
    AskFrontends,
    AskOutcome,
    AskTurn,
    Begin,
    CacheDigests,
    CloseFile,
    Commit,
    Done,
    DropObjects,
    EndForward,
    Failed,
    Finish,
    FollowForward,
    Frontends,
    Greeting,
    Hello,
    HomeForward,
    MemoryObject,
    MemoryRound,
    Message,
    OpenFile,
    Prepare,
    ReadyFrontend,
    Restore,
    RootfsPass,
    SetForward,
    SmallFiles,
    Survey,
    SwitchForward,
    SwitchFrontend,
    TakeAddresses,
    TurnGiven,
)
from migrate.protocol import (
    FILE_PIECE,
    IMAGE_PIECE,
    MESSAGE,
    PAGES,
    PROTOCOL_VERSION,
    ROOTFS_ITEMS,
    decode_request,
    from_failure,
    send,
)
from migrate.recover import forget, outcome
from migrate.room import DOCKER, no_space
from migrate.survey import survey
from transport.allocator import keep_freed_memory
from transport.channel import Channel
from transport.errors import ConnectionLost, Failure, StreamCorrupt
from transport.frames import Frame


class Agent:
    """Serves one connection. `serve` gives the exit code."""

    def __init__(self, channel: Channel, peer: str) -> None:
        self.channel = channel
        self.peer = peer
        self.guard: Guard | None = None
        self.facts = facts()
        self.destination = Destination(self.facts)
        self.slot = Slot()
        self.greeted = False
        self.asked = ""  # the session of an `AskOutcome` that we own
        self.switch: frontend.Switch | None = None  # of front ends of this host
        self.failed = False  # after a failure all content is dropped until the source goes

    def serve(self) -> int:
        try:
            while self.serve_one(self.channel.receive()):
                pass
        except ConnectionLost as lost:
            return self.source_lost(lost)
        except StreamCorrupt as corrupt:  # not a frame: nothing more can be read
            with contextlib.suppress(ConnectionLost):
                self.fail(corrupt)
            return corrupt.exit_code
        return 0

    def serve_one(self, frame: Frame) -> bool:
        """Serve one frame; False when it was the last."""
        try:
            if frame.kind == MESSAGE:
                message = decode_request(frame.payload)
                if self.failed and not (self.destination.running and isinstance(message, Finish)):
                    return not isinstance(message, Abandon | Finish)
                return self._request(message)
            if not self.failed:
                self._content(frame)
        except ConnectionLost:
            raise
        except Failure as failure:
            self.fail(self._no_space(failure) or failure)
        except Exception as bug:  # noqa: BLE001 - the source must be told whatever it is
            print(traceback.format_exc(), file=sys.stderr)
            unforeseen = AgentFailed(f"the destination's agent failed: {bug!r}")
            self.fail(self._no_space(bug) or unforeseen)
        return True

    def _no_space(self, problem: Exception) -> NoSpace | None:
        docker = self.facts.docker
        return no_space(problem, "the destination", docker.root_dir if docker else DOCKER)

    def _content(self, frame: Frame) -> None:
        if frame.kind == PAGES:
            self.destination.incoming.pages.apply(frame.payload)
        elif frame.kind == FILE_PIECE:
            self.destination.incoming.files.piece(frame.stream, frame.payload)
        elif frame.kind == ROOTFS_ITEMS:
            self.destination.rootfs_items(frame.payload)
        elif frame.kind == IMAGE_PIECE:
            self.destination.load_image(self._image_pieces(frame))
            send(self.channel, Done())
        else:
            raise StreamCorrupt(f"a frame of unknown kind {frame.kind}")

    def _image_pieces(self, first: Frame) -> Iterator[bytes]:
        frame = first
        while frame.payload:
            yield frame.payload
            frame = self.channel.receive()
            if frame.kind != IMAGE_PIECE:
                raise StreamCorrupt("the image was not ended")

    def _request(self, message: Message) -> bool:
        if not self.greeted and not isinstance(message, Hello):
            raise StreamCorrupt("the first message was no `Hello`")
        reply: Message | None = Done()
        match message:
            case Hello():
                reply = self._greet(message)
            case Begin():
                reply = self.destination.begin(message, self.peer)
                self.guard = Guard.start(message.session, "destination")
            case Prepare():
                reply = self.destination.prepare(message)
            case SetForward():
                self.destination.network.set_forward(message.forward)
            case EndForward():
                forward.remove(message.ident)
            case FollowForward():
                forward.follow(message.old, message.forward)
            case SwitchForward():
                forward.switch_over(message.old, message.new)
                send(self.channel, Done())
                forward.remove(message.old)
                reply = None
            case HomeForward():
                self.destination.network.come_home(message.ident)
            case AdoptConnections():
                self.destination.network.adopt_connections(message.entries)
            case AskFrontends():
                reply = Frontends(frontends=tuple(frontend_store.read()))
            case ReadyFrontend():
                self.switch = frontend.Switch(message.leads)
                self.switch.look()
            case SwitchFrontend():
                self._lead(message)
                reply = None
            case TakeAddresses():
                self.destination.take_addresses(message.holders)
            case AskCache():
                for digests in self.destination.cache_digests():
                    send(self.channel, CacheDigests(digests=digests))
                reply = CacheDigests(digests=b"")
            case AskTurn():
                reply = TurnGiven(ours=self.slot.take())
            case RootfsPass() | MemoryRound():
                self.destination.check_held()  # what came before it is done
            case MemoryObject() | DropObjects() | OpenFile() | CloseFile() | SmallFiles():
                self._part(message)
                reply = None
            case Restore():
                reply = self.destination.restore(message)
            case Commit():
                send(self.channel, self.destination.commit())
                self.slot.leave()
                # `Done` follows when it is on the disk that the container is ours.
                self.destination.settle()
            case Abandon():
                self._undo()
            case Finish():
                if self.asked:
                    forget(self.asked)
                elif self.destination.begun:
                    reply = self._finish()
            case Survey():
                reply = survey(message)
            case AskOutcome():
                answer = outcome(message.session)
                self.asked = message.session if answer.owner == "destination" else ""
                reply = answer
            case _:
                raise StreamCorrupt(f"unexpected {type(message).__name__}")
        if reply is not None:
            send(self.channel, reply)
        return not isinstance(message, Abandon | Finish)

    def _lead(self, message: SwitchFrontend) -> None:
        """A container stands still until it has the answer; the disk comes afterwards."""
        switch, self.switch = self.switch, None
        if switch is None or switch.leads != message.leads:
            switch = frontend.Switch(message.leads)
        with switch:
            switch.do()
            send(self.channel, Done())
            switch.note()

    def _part(self, message: Message) -> None:
        """A part of the checkpoint."""
        incoming = self.destination.incoming
        match message:
            case MemoryObject(number, name):
                incoming.pages.announce(number, name)
            case DropObjects(numbers):
                incoming.pages.drop(numbers)
            case OpenFile():
                incoming.files.open(message)
            case CloseFile():
                incoming.files.close_file(message)
            case SmallFiles():
                incoming.files.small_files(message)

    def _finish(self) -> Message:
        try:
            return self.destination.finish()
        finally:
            self.dismiss_guard()

    def _greet(self, message: Hello) -> Greeting:
        if message.protocol != PROTOCOL_VERSION:
            raise ProtocolMismatch(
                f"the destination runs migrate {__version__} (protocol {PROTOCOL_VERSION}), "
                f"the source {message.version} (protocol {message.protocol})"
            )
        self.greeted = True
        if not message.looks:
            make_state_dirs()
        own_id = known_host_id() if message.looks else host_id()
        return Greeting(protocol=PROTOCOL_VERSION, version=__version__, facts=self.facts,
                        host_id=own_id)  # fmt: skip

    def fail(self, failure: Failure) -> None:
        """Undo, then tell the source: when it hears of the failure, nothing is left here.

        But for a container that runs: it stays, whatever else fails. And a source that has sent
        `Commit` lets its copy run again on our word, so it gets none unless ours is surely gone.
        """
        self.failed = True
        log = self.destination.log_lines()
        report: Failed = from_failure(failure, log)
        if self.destination.running:
            self.slot.leave()
        else:
            try:
                self._undo()
            except Failure as worse:
                both = AgentFailed(f"{failure.message}; and {worse.message}")
                report = from_failure(both, log)
                if self.destination.committed and self.destination.remains:
                    print(f"migrate agent: {both.message}", file=sys.stderr)
                    raise ConnectionLost("no answer can be given") from worse
        send(self.channel, report)

    def _undo(self) -> None:
        self.destination.rollback()
        self.slot.leave()
        self.dismiss_guard()

    def dismiss_guard(self) -> None:
        if self.guard:
            self.guard.dismiss()
            self.guard = None

    def source_lost(self, lost: ConnectionLost) -> int:
        """The source is gone. Before commit: undo. After: we own it, and remember to say so."""
        self.slot.leave()
        if self.destination.committed:
            return 0  # the guard settles what is left and keeps the journal for `AskOutcome`
        try:
            self._undo()
        except Failure as failure:
            print(f"migrate agent: {failure.message}", file=sys.stderr)
            return failure.exit_code
        return lost.exit_code


def claim_streams() -> tuple[int, int]:
    """Take stdin and stdout for the connection: what libraries print must not end up in it."""
    read_fd, write_fd = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    return read_fd, write_fd


def main() -> int:
    """Serve the connection on stdin and stdout."""
    read_fd, write_fd = claim_streams()
    keep_freed_memory()
    peer = os.environ.get("SSH_CONNECTION", "").split(" ")[0]
    channel = Channel.over_fds(read_fd, write_fd)
    try:
        return Agent(channel, peer).serve()
    finally:
        channel.close()
