"""The source of a migration: leads it through its phases, and undoes it when it fails."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from migrate import failure_logs, hooks
from migrate.agent_link import AgentLink
from migrate.criu import LOG, Dumper, descriptors
from migrate.criu_log import interesting_lines
from migrate.docker_host import DockerHost
from migrate.errors import AgentFailed, FreezeTooLong, OutcomeUnknown, Unsupported
from migrate.forward_record import published, way_endpoint
from migrate.freeze import MAX_FREEZE, FrozenPart
from migrate.guard import Guard
from migrate.hooks import Hook
from migrate.host_facts import facts
from migrate.host_setup import host_id, make_state_dirs
from migrate.image_stream import ImageSender
from migrate.interrupts import Interrupts
from migrate.journal import CONFIRMED, Header, Journal, restarts
from migrate.network_mode import Choice
from migrate.network_move import Departure
from migrate.progress import Progress
from migrate.protocol import (
    IMAGE_PIECE,
    ROOTFS_ITEMS,
    Abandon,
    Begin,
    Done,
    Finish,
    Prepare,
    Prepared,
    RootfsPass,
    Welcome,
    call,
    encode_items,
    expect,
    send,
)
from migrate.rootfs_items import Data, Item
from migrate.rootfs_limits import kept_paths
from migrate.rootfs_send import PassReport, Sender
from migrate.run import run
from migrate.source_end import end_source_copy, run_hooks
from migrate.source_view import SourceView, check_here, look, open_connections
from migrate.summary import Summary
from migrate.undo import RestoreRestartPolicy, Unmount
from transport.errors import ConnectionLost, Failure

RUN = Path("/run/migrate")
IMAGES_SLACK = 256 << 20
BATCH = 1 << 19  # bytes of rootfs items that travel in one frame
CALM = 1 << 20  # a pass that read less than this many bytes is the last before the freeze
MAX_PASSES = 3
PIECE = 1 << 20
ANSWER = 120.0  # seconds for an answer that takes the other side little work
IMAGE_LOAD = 1800.0
SETTLED = 180.0


@dataclass(frozen=True)
class Options:
    """What the user asked for. `tcp`: `established` or `close`; `max_freeze`: seconds."""

    container: str
    host: str
    tcp: str = "established"
    keep: bool = False
    force: bool = False
    max_freeze: float = MAX_FREEZE
    network: str = "auto"
    hooks: tuple[Hook, ...] = ()


class Migration:
    """One migration from this host. `run` does it and gives the figures."""

    def __init__(self, options: Options, progress: Progress) -> None:
        self.options = options
        self.progress = progress
        self.session = secrets.token_hex(8)
        self.docker = DockerHost()
        self.summary = Summary(
            options.container, source=socket.gethostname(), destination=options.host
        )
        self.summary.session = self.session
        self.journal: Journal | None = None
        self.guard: Guard | None = None
        self.frozen: FrozenPart | None = None
        self.link: AgentLink | None = None
        self._announced = False  # whether the destination knows of the session
        self._base = RUN / "sessions" / f"{self.session}-source"

    def run(self) -> Summary:
        """Move the container. Raises the Failure that stopped it, after everything is undone."""
        began = time.monotonic()
        with Interrupts() as interrupts, ExitStack() as stack:
            try:
                self._run(stack, interrupts)
            except BaseException as failure:
                interrupts.hold()
                self._roll_back(failure)
                raise
        self.summary.total = time.monotonic() - began
        return self.summary

    def _run(self, stack: ExitStack, interrupts: Interrupts) -> None:
        with self._timed("preflight"):
            make_state_dirs()
            view = look(self.docker, self.options.container)
            here = facts()
            check_here(here, view, self.options.tcp)
            self.summary.container = view.spec.name
            self.link = stack.enter_context(AgentLink(self.options.host))
            self.link.channel.check = interrupts.check
            interrupts.polite()
            greeting = self.link.greet()
            self.network = Departure(self.docker, self.session, self.options.network)
            stack.callback(self.network.close)
            self._explain(
                self.network.decide(
                    view, here, greeting.facts, here_id=host_id(), there_id=greeting.host_id,
                    name=self.options.host, address=self.link.address,
                )
            )  # fmt: skip
            self.journal = self._begin_journal(view, greeting.host_id)
            self.guard = Guard.start(self.session, "source")
            self._announced = True
            welcome = call(
                self.link.channel,
                Begin(
                    session=self.session, spec=view.spec, source=here, usage=view.usage,
                    tcp=self.options.tcp, force=self.options.force,
                    connections=self._connections(view),
                ),
                Welcome, ANSWER,
            )  # fmt: skip
            self._warn(*welcome.warnings)
            docker = greeting.facts.docker
            self.progress.note(
                f"destination: migrate {greeting.version}, kernel {greeting.facts.kernel}, "
                f"Docker {docker.version if docker else '?'}"
            )
        if welcome.save:
            self._send_image(welcome.save, view)
        with self._timed("prepare"):
            streams = descriptors(view.target.pid)
            prepared = call(self.link.channel, Prepare(descriptors=streams), Prepared, ANSWER)
            self.summary.new_id = prepared.container
            self.network.prepare(self.link.channel, self.journal)
            hooks.run_phase(self.journal, hooks.PREPARE)
            dumper = self._prepare_dump(stack, view, streams)
        sender = Sender(view.upper, skip=kept_paths(view.spec))
        self._pre_copy(sender)
        self._freeze(view, dumper, sender, interrupts)
        with self._timed("confirm"):
            self._confirm()

    # -- phases ----------------------------------------------------------------------------------

    def _connections(self, view: SourceView) -> int:
        return open_connections(view.target.pid) if self.options.tcp == "established" else 0

    def _explain(self, choice: Choice) -> None:
        self.summary.network, self.summary.way = choice.mode, choice.reason
        if choice.warning:
            self._warn(choice.reason)
        else:
            self.progress.say(choice.reason)

    def _warn(self, *sentences: str) -> None:
        for sentence in sentences:
            self.summary.warnings.append(sentence)
            self.progress.warn(sentence)

    def _begin_journal(self, view: SourceView, peer_id: str) -> Journal:
        return Journal.create(
            Header(
                self.session, "source", view.spec.source_id, view.spec.name, self.options.host,
                time.time(), freezer=view.target.freezer or "", keep=self._keep(view),
                peer_id=peer_id, hooks=self.options.hooks, told=self._told(view),
            )
        )  # fmt: skip

    def _told(self, view: SourceView) -> dict[str, str]:
        """What hooks are told (README)."""
        endpoint = way_endpoint(view.spec)
        return {
            "container": view.spec.name,
            "container_address": (endpoint.ipv4 or endpoint.had_ipv4) if endpoint else "",
            "ports": " ".join(
                f"{port.host_ip or '0.0.0.0'}:{port.host_port}/{port.protocol}"
                for port in published(view.spec)
            ),
            "source": self.summary.source,
            "destination": self.options.host,
            "destination_address": (self.link.address or "") if self.link else "",
            "network_mode": self.summary.network,
            "session": self.session,
        }

    def _keep(self, view: SourceView) -> bool:
        if self.options.keep and view.spec.auto_remove:
            raise Unsupported(
                f"container `{view.spec.name}` was started with --rm: Docker removes it when it "
                "stops, so it cannot be kept",
                "leave --keep away",
            )
        return self.options.keep

    def _send_image(self, reference: str, view: SourceView) -> None:
        assert self.link
        with self._timed("image", view.usage.image):
            for piece in self.docker.save_image(reference):
                for at in range(0, len(piece), PIECE):
                    self.link.channel.send(IMAGE_PIECE, piece[at : at + PIECE])
                self.summary.raw += len(piece)
                self.progress.advance(len(piece))
            self.link.channel.send(IMAGE_PIECE, b"")
            expect(self.link.channel, Done, IMAGE_LOAD)
        self.summary.image_sent = True

    def _prepare_dump(self, stack: ExitStack, view: SourceView, streams: list[str]) -> Dumper:
        """A private tmpfs for the images (they hold the container's memory), and CRIU, waiting."""
        assert self.journal
        self.journal.push(Unmount(str(self._base)))
        self._base.mkdir(parents=True, mode=0o700)
        size = 2 * view.usage.images + IMAGES_SLACK
        options = f"mode=0700,size={size}"
        run(["mount", "-t", "tmpfs", "-o", options, "migrate", str(self._base)])
        for name in ("images", "work"):
            (self._base / name).mkdir()
        dumper = Dumper(
            view.target, self._base / "images", self._base / "work", tcp=self.options.tcp,
            descriptors=streams,
        )  # fmt: skip
        stack.callback(dumper.close)
        dumper.start()
        return dumper

    def _pre_copy(self, sender: Sender) -> None:
        """Send the writable layer while the container runs, until little changes."""
        assert self.link
        assert self.journal
        self.journal.phase("pre-copy")
        with self._timed("pre-copy"):
            for number in range(1, MAX_PASSES + 1):
                report = self._pass(sender, final=False)
                expect(self.link.channel, Done, IMAGE_LOAD)
                self.summary.rootfs_passes = number
                self.progress.note(
                    f"pass {number} over the files: {report.entries} entries, "
                    f"{report.files} read, {report.bytes} bytes sent"
                )
                if report.dirty_bytes < CALM and not report.failed:
                    break

    def _pass(self, sender: Sender, *, final: bool) -> PassReport:
        assert self.link
        channel = self.link.channel
        batch: list[Item] = []
        waiting = 0

        def emit(item: Item) -> None:
            nonlocal waiting
            batch.append(item)
            size = len(item.content) if isinstance(item, Data) else 0
            waiting += size + 100
            if waiting >= BATCH:
                flush()
            if size:
                self.progress.advance(size)

        def flush() -> None:
            nonlocal waiting
            if batch:
                channel.send(ROOTFS_ITEMS, encode_items(batch))
                batch.clear()
                waiting = 0

        report = sender.send_pass(emit, final=final)
        flush()
        self.summary.raw += report.bytes
        if not final:
            send(channel, RootfsPass())
        return report

    def _freeze(
        self, view: SourceView, dumper: Dumper, sender: Sender, interrupts: Interrupts
    ) -> None:
        assert self.link
        assert self.journal
        self._end_restarts(view)
        images = ImageSender(self.link.channel, self._base / "images", self.progress.advance)
        self.frozen = FrozenPart(
            view, self.journal, self.link.channel, dumper, images,
            lambda: self._pass(sender, final=True), self.options.max_freeze, self.link.cut,
        )  # fmt: skip
        self.network.ready()
        self.frozen.switch = self.network.switch
        with self._timed("freeze"):
            self.frozen.run(before_commit=interrupts.hold)
            self._warn(*self.network.committed())
            self._warn(*run_hooks(self.journal, hooks.COMMIT))
        self.summary.raw += images.bytes
        self.summary.memory = images.bytes
        self.summary.parts = self.frozen.parts()
        self.summary.downtime = sum(self.summary.parts.values())
        if self.frozen.ready:
            self.summary.details.update(self.frozen.ready.timing)

    def _end_restarts(self, view: SourceView) -> None:
        """While nobody knows who owns it, a reboot of this host must not start it here afresh."""
        assert self.journal
        if restarts(view.spec.restart_policy):
            step = RestoreRestartPolicy(view.spec.source_id, view.spec.restart_policy)
            self.journal.push(step)
            self.docker.set_restart_policy(view.spec.source_id, {"Name": "no"})

    def _confirm(self) -> None:
        """The destination runs it: end our copy, forget the session on both sides."""
        assert self.link
        assert self.journal
        assert self.frozen
        try:
            expect(self.link.channel, Done, SETTLED)  # on its disk: no power cut can undo it there
        except Failure as failure:
            if not failure.reported:
                raise
            self.progress.warn(f"it runs at the destination, but: {failure.message}")
        self.journal.phase(CONFIRMED)
        self.summary.sent = self.link.channel.sent_wire
        self._log_criu()
        try:
            self._warn(*end_source_copy(self.journal))
        except Failure as failure:
            # It has moved, whatever is wrong with our Docker: the guard, or recover, goes on.
            self.progress.warn(f"the copy here is frozen but not yet removed: {failure.message}")
            self.summary.source_copy = "frozen; `migrate recover` removes it"
            self._close(finished=False)
            return
        self.summary.source_copy = "kept, stopped" if self.journal.header.keep else "removed"
        self.journal.tidy()
        try:
            call(self.link.channel, Finish(), Done, ANSWER)
        except ConnectionLost as lost:
            # Our guard, or `migrate recover`, tells it later that it can forget the session.
            self.progress.warn(f"{self.options.host} could not be told that all is done: {lost}")
            self._close(finished=False)
        else:
            self._close(finished=True)

    # -- when it fails -----------------------------------------------------------------------------

    def _roll_back(self, failure: BaseException) -> None:
        """Undo everything on both sides, or, when nobody knows who owns it, leave it frozen."""
        marks = self.frozen.marks if self.frozen else {}
        if "commit" in marks:
            # Only the destination's own word that it has undone everything is good enough now.
            undone = isinstance(failure, Failure) and failure.reported and "running" not in marks
            if not undone:
                self._unsure(failure)
                return
        logs = ""
        with suppress(OSError):  # to undo is more important
            logs = self._keep_logs(failure)
        # First here: the destination cannot run it without our `Commit`, and may take long.
        failed = self.journal.rollback() if self.journal else []
        if self.journal and hooks.mark(hooks.PREPARE) in self.journal.phases:
            self._warn(*run_hooks(self.journal, hooks.ROLLBACK))
        self._close(finished=not failed)
        if self.link and not isinstance(failure, ConnectionLost | FreezeTooLong):
            self._abandon(failure)
        if failed:
            raise AgentFailed(
                "the migration failed, and not everything could be undone: " + "; ".join(failed),
                "`migrate recover` tries it again",
            ) from failure
        if logs and isinstance(failure, Failure):
            failure.logs = logs

    def _unsure(self, failure: BaseException) -> None:
        """It failed after `Commit`: between that and its answer, or while we ended our copy."""
        known = self.journal is None or CONFIRMED in self.journal.phases
        self._keep_journal()  # the guard goes on with it, or `migrate recover`
        if not known:
            what = failure.message if isinstance(failure, Failure) else repr(failure)
            raise OutcomeUnknown(
                f"it failed at the moment of commit: {what}; the container here stays "
                "frozen until it is known who owns it"
            ) from failure

    def _keep_journal(self) -> None:
        self._close(finished=False)

    def _abandon(self, failure: BaseException) -> None:
        """Tell the destination to undo; one that failed itself has done so already."""
        assert self.link
        if not self._announced or (isinstance(failure, Failure) and failure.reported):
            return
        try:
            call(self.link.channel, Abandon(), Done, ANSWER)
        except Failure as other:
            self.progress.warn(
                f"the destination did not confirm that it has undone: {other.message}"
            )

    def _close(self, *, finished: bool) -> None:
        journal, self.journal = self.journal, None
        guard, self.guard = self.guard, None
        if journal:
            journal.close(finished=finished)
        if guard and finished:
            guard.dismiss()

    # -- logs and figures ----------------------------------------------------------------------

    def _keep_logs(self, failure: BaseException) -> str:
        """Save CRIU's logs of a failed migration, before its tmpfs goes; show them with -v."""
        remote = failure.remote_log if isinstance(failure, Failure) else ""
        kept = failure_logs.keep(self.session, self._base / "work" / LOG, remote)
        for line in remote.splitlines():
            self.progress.note(f"destination: {line}")
        self._log_criu()
        return kept

    def _log_criu(self) -> None:
        log = self._base / "work" / LOG
        if self.progress.verbose and log.exists():
            for line in interesting_lines(log.read_text(errors="replace")):
                self.progress.note(f"criu: {line}")

    @contextmanager
    def _timed(self, name: str, total: int | None = None) -> Iterator[None]:
        began = time.monotonic()
        with self.progress.phase(name, total):
            yield
        self.summary.phases[name] = time.monotonic() - began
