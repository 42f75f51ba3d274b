"""The source of a migration: leads it through its phases."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from migrate import hooks, lineage
from migrate.address_spaces import transparent_huge_pages
from migrate.agent_link import CALLER, AgentLink
from migrate.departed import keep_memory
from migrate.docker_host import DockerHost
from migrate.errors import Interrupted, Unsupported
from migrate.files_pass import FilesPass
from migrate.forward_upkeep import untold
from migrate.freeze import FrozenPart
from migrate.freeze_turn import Slot, Turn
from migrate.guard import Guard
from migrate.host_facts import facts
from migrate.host_setup import host_id, make_state_dirs
from migrate.image_stream import ImageSender
from migrate.interrupts import Interrupts
from migrate.journal import CONFIRMED, Header, Journal, restarts
from migrate.lazy_pages import restore_lazily
from migrate.messages import (
    AskCache,
    AskTurn,
    Begin,
    CacheDigests,
    Done,
    Filled,
    Finish,
    Prepare,
    Prepared,
    TurnGiven,
    Welcome,
)
from migrate.move_options import Options
from migrate.network_mode import Choice
from migrate.network_move import Departure
from migrate.outgoing import Outgoing, choose_source, coarse_tracking
from migrate.pairing import same_host
from migrate.precopy import PreCopy, expected_costs
from migrate.progress import Progress, human
from migrate.protocol import IMAGE_PIECE, call, expect
from migrate.quiet_moment import await_moment
from migrate.rootfs_limits import kept_paths
from migrate.rootfs_send import PassReport, Sender
from migrate.source_end import end_source_copy, run_hooks
from migrate.source_undo import ANSWER, Undoing
from migrate.source_view import (
    SourceView,
    check_here,
    look,
    open_connections,
)
from migrate.std_streams import find_streams, parent_of
from migrate.summary import Lazy, Summary, Switchover
from migrate.switchover import Limits
from migrate.throttle import Throttler, cpu_cgroup
from migrate.undo import RestoreRestartPolicy, Unmount
from transport.allocator import keep_freed_memory
from transport.bucket import Bucket
from transport.errors import BadTarget, ConnectionLost, Failure

PIECE = 1 << 20
IMAGE_LOAD = 1800.0
SETTLED = 180.0
FILL = 3600.0  # seconds until the last page is filled in


class Migration(Undoing):
    """One migration from this host. `run` does it and gives the figures."""

    def __init__(
        self, options: Options, progress: Progress, link_to: Callable[[str], AgentLink] = AgentLink
    ) -> None:
        super().__init__(options, progress)
        self._link_to = link_to
        self.docker = DockerHost()
        self._turn = Turn(self._ask_turn, Slot())

    def run(self) -> Summary:
        """Move the container. Raises the Failure that stopped it, after everything is undone."""
        self._began = time.monotonic()
        keep_freed_memory()
        with Interrupts() as interrupts, ExitStack() as stack:
            try:
                self._run(stack, interrupts)
            except BaseException as failure:
                cause = self._cause(failure)
                if cause is failure and not isinstance(failure, Interrupted):
                    # Whoever ends us may have ended a program that we have called, too.
                    cause = interrupts.noted() or failure
                interrupts.hold()
                self._turn.end()
                self._roll_back(failure)
                if cause is failure:
                    raise
                if isinstance(cause, Failure) and isinstance(failure, Failure):
                    cause.logs = failure.logs
                raise cause from failure
        self.summary.total = time.monotonic() - self._began
        return self.summary

    def _run(self, stack: ExitStack, interrupts: Interrupts) -> None:
        with self._timed("preflight"):
            make_state_dirs()
            view = look(self.docker, self.options.container)
            self._init = (view.target.pid, view.started)
            here = facts()
            check_here(here, view, self.options.tcp)
            source = choose_source(self.options.memory_source, self.options.max_rounds)
            self.summary.memory_source = source
            if source == "predump" and (said := coarse_tracking(transparent_huge_pages())):
                self.progress.note(said)
            self.summary.container = view.spec.name
            self.link = stack.enter_context(self._link_to(self.options.host))
            if self.options.bwlimit:
                self.link.channel.limit = Bucket(self.options.bwlimit)
            self.link.channel.check = interrupts.check
            interrupts.polite()
            greeting = self.link.greet()
            if same_host(here, host_id(), greeting.facts, greeting.host_id):
                raise BadTarget(
                    f"`{self.options.host.removeprefix(CALLER)}` is the host on which the "
                    "container runs",
                    "name another host",
                )
            self.network = Departure(
                self.docker,
                self.session,
                self.options.network,
                self.options.frontend,
                self.options.buffer,
            )
            stack.callback(self.network.close)
            self._explain(
                self.network.decide(
                    view, here, greeting.facts, here_id=host_id(), there_id=greeting.host_id,
                    name=self.options.host.removeprefix(CALLER), address=self.link.address,
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
            outgoing = self._prepare(stack, view)
        sender = Sender(view.upper, skip=kept_paths(view.spec))
        files = FilesPass(sender, self.link.channel, self.progress.advance)
        self._pre_copy(view, outgoing, files, interrupts)
        self._freeze(view, outgoing, files, interrupts)
        with self._timed("confirm"):
            self._confirm(view)

    # -- phases ----------------------------------------------------------------------------------

    def _connections(self, view: SourceView) -> int:
        return open_connections(view.target.pid) if self.options.tcp == "established" else 0

    def _explain(self, choice: Choice) -> None:
        self.summary.network, self.summary.way = choice.mode, choice.reason
        if choice.warning:
            self._warn(choice.reason)
        else:
            self.progress.say(choice.reason)

    def _begin_journal(self, view: SourceView, peer_id: str) -> Journal:
        told = hooks.facts_of(
            view.spec, source=self.summary.source, destination=self.options.host,
            address=self.link.address if self.link else None,
            network_mode=self.summary.network, session=self.session,
        )  # fmt: skip
        return Journal.create(
            Header(
                self.session, "source", view.spec.source_id, view.spec.name, self.options.host,
                time.time(), freezer=view.target.freezer or "", keep=self._keep(view),
                peer_id=peer_id, hooks=self.options.hooks, told=told,
            )
        )  # fmt: skip

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

    def _prepare(self, stack: ExitStack, view: SourceView) -> Outgoing:
        """The container is made at the destination, and held; what dumps it here waits."""
        assert self.link
        assert self.journal
        pid, seed = view.target.pid, secrets.randbits(64)
        streams = find_streams(pid, parent_of(pid))
        self._lazy = restore_lazily(self.options.restore, view.usage.images)
        request = Prepare(descriptors=streams.links, seed=seed, lazy=self._lazy)
        prepared = call(self.link.channel, request, Prepared, ANSWER)
        self.summary.new_id = prepared.container
        self.network.prepare(self.link.channel, self.journal)
        hooks.run_phase(self.journal, hooks.PREPARE)
        cached = self._ask_cache() if self.options.cache else b""
        self.journal.push(Unmount(str(self._base)))
        outgoing = Outgoing(
            self._base, view.target, self.link.channel, tcp=self.options.tcp, streams=streams,
            memory=view.usage.images, source=self.summary.memory_source, seed=seed, cached=cached,
        )  # fmt: skip
        stack.callback(outgoing.close)
        return outgoing

    def _ask_cache(self) -> bytes:
        """Digests of the pages that the destination has from an earlier migration."""
        assert self.link
        found = bytearray()
        part = call(self.link.channel, AskCache(), CacheDigests, ANSWER).digests
        while part:
            found += part
            part = expect(self.link.channel, CacheDigests, ANSWER).digests
        return bytes(found)

    def _ask_turn(self) -> bool:
        assert self.link
        return call(self.link.channel, AskTurn(), TurnGiven, ANSWER).ours

    def _pre_copy(
        self, view: SourceView, outgoing: Outgoing, files: FilesPass, interrupts: Interrupts
    ) -> None:
        """Send memory and files while the container runs, until the switchover rule says stop."""
        assert self.link
        assert self.journal
        self.journal.phase("pre-copy")
        costs = expected_costs(self.summary.memory_source, view.usage.images, lazy=self._lazy)
        limits = Limits(self.options.max_downtime, self.options.max_rounds)
        with self._timed("pre-copy"):
            precopy = PreCopy(
                self.link.channel, outgoing.memory, files, costs, limits, self.progress,
                self._began, self._throttler(view),
            )  # fmt: skip
            try:
                precopy.run()
                await_moment(
                    self.docker, view.spec.source_id, self.network.taken_along(view.spec.networks),
                    self._turn, precopy, interrupts.check, self.progress,
                )  # fmt: skip
            finally:
                precopy.lift()
        self.summary.rounds = precopy.report()
        self.summary.rootfs_passes = precopy.passes
        self.summary.switchover = Switchover(precopy.decision.reason, precopy.decision.predicted)

    def _throttler(self, view: SourceView) -> Throttler | None:
        assert self.journal
        if not self.options.throttle:
            return None
        cgroup = cpu_cgroup(Path(f"/proc/{view.target.pid}/cgroup").read_text())
        if cgroup is None:
            self.progress.warn("the container has no cpu cgroup of its own: it is not throttled")
            return None
        return Throttler(cgroup, self.journal)

    def _freeze(
        self, view: SourceView, outgoing: Outgoing, files: FilesPass, interrupts: Interrupts
    ) -> None:
        assert self.link
        assert self.journal
        self._end_restarts(view)
        images = ImageSender(self.link.channel, outgoing.images, self.progress.advance)

        def last_files() -> PassReport:
            view.check_volumes()
            return files.run(final=True)

        self.frozen = FrozenPart(
            view, self.journal, self.link.channel, outgoing, images,
            last_files, self.options.max_freeze, self.link.cut,
        )  # fmt: skip
        self.network.ready()
        self.link.channel.hurry = True
        self.frozen.hold, self.frozen.let_go = self.network.hold, self.network.let_go
        self.frozen.switch = self.network.switch
        self.frozen.interrupted = interrupts.check
        with self._timed("freeze"):
            try:
                self.frozen.run(before_commit=interrupts.hold)
            finally:
                self._turn.end()
            self._warn(*self.network.committed())
            self._warn(*run_hooks(self.journal, hooks.COMMIT))
        self.summary.raw += files.bytes
        self.summary.add_frozen(self.frozen, images.bytes)

    def _end_restarts(self, view: SourceView) -> None:
        """While nobody knows who owns it, a reboot of this host must not start it here afresh."""
        assert self.journal
        if restarts(view.spec.restart_policy):
            step = RestoreRestartPolicy(view.spec.source_id, view.spec.restart_policy)
            self.journal.push(step)
            self.docker.set_restart_policy(view.spec.source_id, {"Name": "no"})

    def _keep_memory(self, view: SourceView) -> None:
        """For when it comes back. Nothing that matters depends on it."""
        if self.options.cache and view.target.freezer:
            try:
                kept = keep_memory(view.spec, view.target.pid, view.target.freezer)
            except OSError as problem:
                self.progress.warn(f"its memory could not be kept in the cache: {problem}")
            else:
                self.progress.note(f"{human(kept)} of its memory are kept in the cache here")

    def _confirm(self, view: SourceView) -> None:
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
        lineage.note(self.journal.header.container, self.summary.new_id)
        self.summary.sent = self.link.channel.sent_wire
        self._log_criu()
        self._keep_memory(view)
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
            filled = call(self.link.channel, Finish(), Filled, FILL)
        except ConnectionLost as lost:
            # Our guard, or `migrate recover`, tells it later that it can forget the session.
            self.progress.warn(f"{self.options.host} could not be told that all is done: {lost}")
            self._close(finished=False)
        except Failure as failure:
            # Nothing can be done here any more, and the destination has forgotten the session.
            self._close(finished=failure.reported)
            raise
        else:
            if untold(self.session):
                self.guard = None  # not dismissed: it goes on trying
            self._close(finished=True)
            if filled.pages:
                self.summary.lazy = Lazy(filled.pages, filled.seconds)

    @contextmanager
    def _timed(self, name: str, total: int | None = None) -> Iterator[None]:
        began = time.monotonic()
        with self.progress.phase(name, total):
            yield
        self.summary.phases[name] = time.monotonic() - began
