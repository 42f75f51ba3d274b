"""The destination of one migration: what each request does here, and how it is undone.

Nothing is changed before `prepare`; from then on every thing done has its undo step in the journal
before it is done. After `commit` the container is this host's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from migrate import announce, docker_files, lineage, same_l2
from migrate.container_spec import ContainerSpec
from migrate.create_container import create
from migrate.criu_log import interesting_lines
from migrate.criu_probe import probe
from migrate.docker_host import DockerHost
from migrate.errors import (
    AgentFailed,
    Busy,
    ContainerNotFound,
    MemoryLost,
    PlacementFailed,
    RestoreFailed,
)
from migrate.held_restore import PENDING, HeldRestore
from migrate.host_facts import HostFacts
from migrate.host_setup import Places
from migrate.incoming import Incoming
from migrate.journal import OWNED, RUNNING, Header, Journal
from migrate.last_steps import LastSteps, steps
from migrate.messages import Begin, Filled, Prepare, Prepared, Ready, Restore, Running, Welcome
from migrate.network_arrival import Arrival
from migrate.networks import parse_api
from migrate.page_batch import Buffer
from migrate.page_cache import CachedPages, PageCache, cache_key
from migrate.pairing import published, refuse_pair, refuse_probe
from migrate.placement import Placement, find_image, place
from migrate.preflight import check
from migrate.protocol import SESSION, decode_items
from migrate.rootfs_apply import Applier
from migrate.rootfs_limits import kept_paths
from migrate.runtime import RESTORE, RESTORE_UNPLUGGED
from migrate.surroundings import try_ports
from migrate.survey import look_around
from migrate.undo import (
    EndPending,
    RemoveContainer,
    RemoveImage,
    RemoveNetwork,
    RenameBack,
    Unmount,
    shared_image,
    shared_network,
)
from transport.errors import Failure, StreamCorrupt

RUN = Path("/run/migrate")
START_TIMEOUT = 60.0
RESTORE_TIMEOUT = 300.0


def relied_on(spec: ContainerSpec) -> tuple[str, ...]:
    """What must stay on this host though another migration that made it is undone."""
    networks = (shared_network(endpoint.network) for endpoint in spec.endpoints)
    return (shared_image(spec.image.layers), *networks)


class Destination:
    """One session. Methods are called in the order of the protocol; `rollback` at any time."""

    docker: DockerHost  # from `begin` on, which says it when dockerd does not answer

    def __init__(self, facts: HostFacts) -> None:
        self.facts = facts
        self.begun: Begin | None = None
        self.journal: Journal | None = None
        self.placement: Placement | None = None
        self.container = ""
        self.committed = False
        self.running = False  # it has come to run here: from here on nothing may be undone
        self._image = ""
        self._held: HeldRestore | None = None
        self._applier: Applier | None = None
        self._incoming: Incoming | None = None
        self._cache: CachedPages | None = None
        self._network: Arrival | None = None
        self._restored = False
        self._last = LastSteps()
        self._start_failed = ""  # why, though the container had come to run
        self._init = 0  # the pid of the restored one
        self.remains = False  # after a rollback: the container could not be removed

    # -- before anything is changed -----------------------------------------------------------

    def begin(self, message: Begin, peer: str) -> Welcome:
        """Say whether it can be done. Raises the first reason why not; changes nothing."""
        if self.begun:
            raise StreamCorrupt("a second `Begin` in one session")
        if not SESSION.fullmatch(message.session):
            raise StreamCorrupt(f"not a session id: {message.session!r}")
        refuse_pair(message.source, self.facts)
        self.docker = DockerHost()
        probed = probe()
        refuse_probe("" if probed.ok else probed.reason)
        view = look_around(self.docker)
        self.placement = self._fitted(place(message.spec, view, force=message.force), message)
        self._refuse_arriving(self.placement.remove)
        try_ports(published(message.spec))
        skew = self.facts.wall_clock - message.source.wall_clock
        warnings = list(self.placement.warnings)
        problems = check(message.source, self.facts, message.spec, message.usage, clock_skew=skew)
        for problem in problems:
            if not problem.warning:
                raise problem.as_failure()
            warnings.append(problem.message)
        self.begun = message
        self.journal = Journal.create(
            Header(
                message.session, "destination", message.spec.source_id, message.spec.name, peer,
                time.time(), policy=message.spec.restart_policy, relies=relied_on(message.spec),
            )
        )  # fmt: skip
        self._image = self.placement.image.create_from
        save = self.placement.image.save if self.placement.image.send else ""
        return Welcome(save=save, warnings=tuple(warnings))

    def _refuse_arriving(self, containers: Iterable[str]) -> None:
        """What looks like a stopped container may be one that another migration holds until its
        restore: --force is not for that."""
        for container in containers:
            if (PENDING / container).exists():
                raise Busy("another migration is bringing a container of that name there")

    def _fitted(self, placement: Placement, message: Begin) -> Placement:
        """Networks that are to be made here are on this host's interfaces."""
        source, here = message.source.network, self.facts.network
        names = announce.interface_names()
        said = tuple(filter(None, map(same_l2.same_pool, placement.networks)))
        return msgspec.structs.replace(
            placement,
            networks=tuple(same_l2.fitted(n, source, here, names) for n in placement.networks),
            warnings=placement.warnings + said,
        )

    @property
    def _session(self) -> tuple[Begin, Journal]:
        if not self.begun or not self.journal:
            raise StreamCorrupt("a request came before `Begin`")
        return self.begun, self.journal

    # -- prepare ---------------------------------------------------------------------------------

    def load_image(self, pieces: Iterator[bytes]) -> None:
        begun, journal = self._session
        journal.phase("image")
        journal.push(RemoveImage(begun.spec.image.layers))
        self.docker.load_image(pieces)
        found = find_image(begun.spec.image, self.docker.images_view())
        if not found:
            raise PlacementFailed("the image that was sent is not the one that was announced")
        self._image = found

    def prepare(self, message: Prepare) -> Prepared:
        """Make what the container needs, and the container; `docker start` is called and held."""
        begun, journal = self._session
        assert self.placement
        began = time.monotonic()
        journal.phase("prepare")
        base = RUN / "sessions" / begun.session
        journal.push(Unmount(str(base)))
        base.mkdir(parents=True, mode=0o700)
        incoming = self._incoming = Incoming(
            base, memory=begun.usage.images, free=self.facts.free_memory or 0,
            seed=message.seed, lazy=message.lazy, cached=self._cached_page,
        )  # fmt: skip
        incoming.write_descriptors(message.descriptors)
        for old in self.placement.remove:
            journal.push(RenameBack(old, begun.spec.name))
            self.docker.rename(old, f"{begun.spec.name}-replaced-{begun.session[:8]}")
        for network in self.placement.networks:
            journal.push(RemoveNetwork(network.name))
            self.docker.create_network(network)
        self.container = create(self.docker, journal, begun, self.placement, self._image)
        journal.push(EndPending(str(PENDING / self.container)))
        tcp = "tcp-established" if begun.tcp == "established" else "tcp-close"
        self._held = HeldRestore(
            self.docker, self.container, incoming.images, incoming.work,
            [tcp, "file-locks", *incoming.criu_options],
            deaf=bool(same_l2.moving(begun.spec)),
        )  # fmt: skip
        rootfs = self._held.start(START_TIMEOUT)
        self._applier = Applier(Path(rootfs), keep=kept_paths(begun.spec))
        return Prepared(container=self.container, seconds=time.monotonic() - began)

    def cache_digests(self) -> Iterator[bytes]:
        """Digests of the pages that are kept here since this container left, some at a time."""
        begun, _ = self._session
        key = cache_key(begun.spec.name, begun.spec.image.layers)
        self._cache = PageCache(Places().cache).open(key)
        if self._cache:
            yield from self._cache.digests(self.incoming.seed)

    def _cached_page(self, known: bytes) -> Buffer | None:
        return self._cache.page(known) if self._cache else None

    @property
    def network(self) -> Arrival:
        """What is to be done with the container's network; from `prepare` on."""
        _, journal = self._session
        if not self.container:
            raise StreamCorrupt("a forward came before `Prepare`")
        if not self._network:
            self._network = Arrival(self.docker, journal, self.container)
        return self._network

    def take_addresses(self, holders: dict[str, str]) -> None:
        """The container's addresses are to be announced from here."""
        begun, _ = self._session
        self.network.take(same_l2.moving(begun.spec), holders)

    # -- content ---------------------------------------------------------------------------------

    def rootfs_items(self, payload: bytes) -> None:
        if not self._applier:
            raise StreamCorrupt("changed files came before `Prepare`")
        for item in decode_items(payload):
            self._applier.apply(item)

    def check_held(self) -> None:
        """Raise RestoreFailed when `docker start` has failed already: the source need not freeze
        anything."""
        if self._held:
            self._held.check()

    @property
    def incoming(self) -> Incoming:
        """The checkpoint that is coming in."""
        if not self._incoming:
            raise StreamCorrupt("a part of the checkpoint came before `Prepare`")
        return self._incoming

    # -- restore, commit ---------------------------------------------------------------------------

    def restore(self, message: Restore) -> Ready:
        """Restore up to the last step. Raises RestoreFailed with CRIU's reason."""
        _, journal = self._session
        if not self._held or not self._applier:
            raise StreamCorrupt("`Restore` came before `Prepare`")
        began = time.monotonic()
        self.incoming.complete(message.files)
        self._applier.finish()
        first = message.network or self._docker_speaks()
        self._held.say(RESTORE if first else RESTORE_UNPLUGGED)
        timing = {}
        timing["images"] = time.monotonic() - began
        for event in ("namespaces", "network", "ready"):
            heard = self._held.wait(event, RESTORE_TIMEOUT)
            timing[event] = time.monotonic() - began
        self._init = int(heard["pid"])
        # After Docker, which enters addresses when it plugs the network in.
        docker_files.bring(self._held.dockers, message.written)
        self.network.arrived(self._init)
        journal.phase("restored", sync=False)
        self._restored = True
        return Ready(timing=timing)

    def _docker_speaks(self) -> bool:
        """Docker 28 sends an IPv6 packet when it plugs a container in, and fails when it cannot: as
        when CRIU has locked the network of what it restores meanwhile."""
        begun, _ = self._session
        modern = parse_api(self.docker.api_version) >= (1, 48)
        return modern and any(endpoint.ipv6 for endpoint in begun.spec.endpoints)

    def commit(self) -> Running:
        """Let it run: from here on the container is this host's."""
        _, journal = self._session
        if not self._held or not self._restored or self.committed:
            raise StreamCorrupt("`Commit` came out of turn")
        began = time.monotonic()
        # Not synced before the release, which would cost a disk write inside the freeze: should
        # the machine lose power in between, the container is dead here and the source has it.
        journal.phase(OWNED, sync=False)
        self.committed = True
        self.incoming.commit(self._init)
        self.network.announce()
        self._held.say("commit")
        self.network.commit()
        self._held.wait("running", RESTORE_TIMEOUT)
        self.running = True
        timing = {"running": time.monotonic() - began}
        # The tasks execute before runc has said so.
        timing["resumed"] = self._held.times.get("resumed", time.monotonic()) - began
        return Running(container=self.container, timing=timing)

    def settle(self) -> None:
        """After the freeze: make the record durable, the container what it was at the source."""
        begun, journal = self._session
        journal.phase(RUNNING)
        lineage.note(journal.header.container, self.container)
        if not self._held or not self.placement:
            raise StreamCorrupt("`Commit` came before `Prepare`")
        self._last.plan(
            steps(self.docker, self.container, begun.spec.restart_policy, self.placement.remove)
        )
        try:
            self._held.wait("started", START_TIMEOUT)
        except RestoreFailed as failed:
            self._start_failed = failed.message
            raise
        try:
            self.network.settle()  # first: connections wait for it
        finally:
            self._last.run()
        self.incoming.release()

    def finish(self) -> Filled:
        """The source has stopped its copy: nothing is left to be remembered.

        Waits until the memory is filled in. Raises MemoryLost when it never will be; the
        container has ended then. AgentFailed when a step of `settle` fails once more.
        """
        begun, journal = self._session
        if not self.running:
            raise StreamCorrupt("`Finish` came before the container runs")
        base = RUN / "sessions" / begun.session
        if self._held:
            self._held.forget()
        self.network.finish()
        try:
            filled = self.incoming.filled()
            self._refuse_ended()
            self._last.run()
            return filled
        finally:
            self._close()
            self.incoming.release()
            if base.is_dir():
                os.rmdir(base)
            journal.close(finished=True)
            self.journal = None

    def _refuse_ended(self) -> None:
        """A `docker start` that fails although the container runs has it ended by Docker."""
        if not self._start_failed:
            return
        anew = "start it anew there (docker start)"
        try:
            state = self.docker.inspect_container(self.container)["State"]
        except ContainerNotFound:  # it was run with --rm
            state, anew = {}, "run it anew there"
        except Failure as unknown:
            raise AgentFailed(
                f"it came to run at the destination, and whether it still does is not known: "
                f"{self._start_failed}; {unknown.message}",
                "look there (docker ps); its copy here is gone",
            ) from unknown
        if not state.get("Running"):
            raise MemoryLost(
                f"it ran at the destination, and Docker ended it there: {self._start_failed}",
                f"what was in its memory is lost: {anew}",
            )

    # -- undo ----------------------------------------------------------------------------------

    def log_lines(self) -> str:
        """What CRIU's restore log says that matters, for the source's eyes."""
        if not self.begun:
            return ""
        log = RUN / "sessions" / self.begun.session / "work" / "restore.log"
        try:
            return "\n".join(interesting_lines(log.read_text(errors="replace"))[-40:])
        except OSError:
            return ""

    def rollback(self) -> None:
        """Undo everything. Raises AgentFailed when something could not be undone.

        Never once the container runs here: the source ends its own copy then, and the container
        would be lost.
        """
        if self.running:
            raise AgentFailed(
                "the container runs at the destination already and stays there",
                "`migrate recover` there tidies up",
            )
        journal, self.journal = self.journal, None
        self._close()
        if self._held:
            self._held.close()
        if journal:
            failed = journal.rollback()
            self.remains = any(isinstance(s, RemoveContainer | EndPending) for s in journal.steps)
            journal.close(finished=not failed)
            if failed:
                raise AgentFailed("the destination could not undo everything: " + "; ".join(failed))

    def _close(self) -> None:
        for part in (self._applier, self._incoming, self._cache, self._network):
            if part:
                part.close()
