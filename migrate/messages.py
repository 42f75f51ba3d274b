"""The messages of the protocol (migrate/protocol.py): what the source asks, what the destination
answers. Each docstring says what it means and what it is answered by."""

from __future__ import annotations

import msgspec

from migrate.conntrack import Entry
from migrate.container_spec import ContainerSpec
from migrate.docker_files import Written
from migrate.forward_record import Forward
from migrate.frontend_record import Frontend, Lead
from migrate.host_facts import HostFacts
from migrate.placement import DestinationView
from migrate.preflight import Usage


class Message(msgspec.Struct, tag=True):
    """Base of all messages; its class name travels as the tag."""


# -- from the source --------------------------------------------------------------------------


class Hello(Message):
    """The first message. The versions are compared before anything else is understood.

    `looks`: nothing will be asked for that changes anything, so not even our folders are made.
    """

    protocol: int
    version: str
    looks: bool = False


class Begin(Message):
    """What is to come. Answered by `Welcome` when it can be done; nothing is changed yet.

    `tcp`: `established` or `close`; `force`: replace a stopped container of that name;
    `connections`: open TCP connections that the container is to keep.
    """

    session: str
    spec: ContainerSpec
    source: HostFacts
    usage: Usage
    tcp: str
    force: bool
    connections: int = 0


class Prepare(Message):
    """Make networks and container, call `docker start`, which is held. Answered by `Prepared`.

    `descriptors`: the links of the container's first three descriptors (migrate/criu.py); `seed`:
    of the digests of pages in this session; `lazy`: memory is filled in after the restore.
    """

    descriptors: list[str]
    seed: int
    lazy: bool


class AskCache(Message):
    """Which pages does the cache of an earlier migration hold? Answered by `CacheDigests`, one
    after the other, until an empty one."""


class AskTurn(Message):
    """May this container be frozen, as far as the other migrations of the destination go? Answered
    by `TurnGiven`; see migrate/freeze_turn.py."""


class MemoryObject(Message):
    """An address space or a shared memory segment, from now on called by its number. `name`: as in
    the names of CRIU's pagemap images."""

    number: int
    name: str


class DropObjects(Message):
    """These are gone: what was kept of them is not needed."""

    numbers: list[int]


class MemoryRound(Message):
    """The batches of one round were sent. Answered by `Done` when they are stored."""


class RootfsPass(Message):
    """The items of one pass were sent. Answered by `Done` when they are applied."""


class OpenFile(Message):
    """A file of the checkpoint begins; its pieces carry `number` as their stream."""

    number: int
    name: str


class CloseFile(Message):
    """That file is complete. `digest`: xxh3_64 of its content."""

    number: int
    size: int
    digest: int


class SmallFile(msgspec.Struct):
    name: str
    content: bytes


class SmallFiles(Message):
    """Whole checkpoint files: CRIU writes dozens of some hundred bytes, not worth frames each."""

    files: list[SmallFile]


class Restore(Message):
    """Checkpoint and files are complete. Answered by `Ready`: restored, and held.

    `network`: whether its sockets can only be restored once Docker has plugged the network in.
    `written`: what the container has in files that Docker makes.
    """

    files: int
    network: bool = True
    written: Written = Written()


class Commit(Message):
    """From here on the destination owns the container. Answered by `Running`, as soon as it does,
    and then by `Done`, when that is on its disk; a `Failed` between the two undoes nothing."""


class Abandon(Message):
    """Undo everything. Answered by `Done`."""


class Finish(Message):
    """The source has stopped its copy; forget the session. Answered by `Filled`, when all memory is
    in its place, or after `AskOutcome` by `Done`."""


class SetForward(Message):
    """After `Prepared`: the destination is to be the target of this forward. Answered by `Done`."""

    forward: Forward


class HomeForward(Message):
    """After `Prepared`: the destination is the anchor of this forward, and the container comes
    home to it. Answered by `Done`."""

    ident: str


class TakeAddresses(Message):
    """After `Prepared`: the container's addresses move to the destination. `holders`: its hardware
    address in each network, where it must be heard. Answered by `Done`."""

    holders: dict[str, str]


class EndForward(Message):
    """Outside of a session: that forward has ended at the other host. Answered by `Done`."""

    ident: str


class FollowForward(Message):
    """To the anchor, from a target of which the container moves on: lay `forward` beside `old`.
    Nothing takes it yet. Answered by `Done`."""

    old: str
    forward: Forward


class SwitchForward(Message):
    """To the anchor: the container runs at the new target; `old` ends. Answered by `Done`."""

    old: str
    new: str


class AdoptConnections(Message):
    """After `Ready`: connections that come by a front end, as the destination is to know them
    before the container speaks. Answered by `Done`."""

    entries: tuple[Entry, ...]


class AskFrontends(Message):
    """To a front end's host: what does it lead where? Answered by `Frontends`."""


class ReadyFrontend(Message):
    """To a front end's host: `SwitchFrontend` comes soon, and is urgent. Answered by `Done`."""

    leads: tuple[Lead, ...]


class SwitchFrontend(Message):
    """To a front end's host: lead there from now on. Answered by `Done` as soon as it does."""

    leads: tuple[Lead, ...]


class HostPort(msgspec.Struct, frozen=True):
    """A port of a host's address, "" for all of both families. `protocol`: `tcp`, `udp`, ..."""

    protocol: str
    address: str
    port: int


class Survey(Message):
    """What could this host take in? Changes nothing. `ports`: that containers would publish here;
    they are tried; `heirs`: whether those are to be told. Answered by `Offer`."""

    ports: tuple[HostPort, ...] = ()
    heirs: bool = False


class AskOutcome(Message):
    """After a broken link: who owns the container of that session? Answered by `Outcome`."""

    session: str


# -- from the destination ---------------------------------------------------------------------


class Greeting(Message):
    """`host_id`: tells this host from any other that might answer under its name later; "" for who
    only looks, when it was never made."""

    protocol: int
    version: str
    facts: HostFacts
    host_id: str = ""


class PortRefused(msgspec.Struct, frozen=True):
    """A port that a container could not have at that host."""

    port: HostPort
    why: str
    remedy: str


class Offer(Message):
    """What there is at a host beside its facts, which `Greeting` has. `load`: of the last minute;
    `probe`: why CRIU cannot restore there, "" when it can; `refused`: of the ports of `Survey`;
    `heirs`: former ids of its containers, as in `migrate.lineage`."""

    view: DestinationView
    load: float
    probe: str = ""
    refused: tuple[PortRefused, ...] = ()
    heirs: dict[str, str] = {}


class Frontends(Message):
    """All front ends of that host."""

    frontends: tuple[Frontend, ...]


class Welcome(Message):
    """It can be done. `save`: what to give to `docker save`, or '' when the image is here."""

    save: str
    warnings: tuple[str, ...]


class Prepared(Message):
    """The container is there, its `docker start` held. `seconds` the parts of preparing took."""

    container: str
    seconds: float


class CacheDigests(Message):
    """Digests of pages, 16 bytes each, at most 64 Ki of them; none: that was all."""

    digests: bytes


class Done(Message):
    pass


class Filled(Message):
    """All memory is in its place. `pages` were filled in after the restore, in `seconds`."""

    pages: int
    seconds: float


class Ready(Message):
    """Restored up to the last step. `timing`: seconds since `Restore` came in, by step."""

    timing: dict[str, float]
    log: tuple[str, ...] = ()


class Running(Message):
    """It runs. `timing` as in `Ready`, since `Commit` came in."""

    container: str
    timing: dict[str, float]


class TurnGiven(Message):
    """`ours`: no other container may be frozen on its way here until this migration has ended, or
    come to its commit."""

    ours: bool


class Outcome(Message):
    """`owner`: `destination` (it runs or ran here), `source` (rolled back here), or `busy`."""

    owner: str
    container: str = ""


class Failed(Message):
    """The request failed; the destination has undone what it had done for this session."""

    code: str
    message: str
    remedy: str
    log: str = ""


Request = (
    Hello
    | Begin
    | Prepare
    | AskCache
    | AskTurn
    | MemoryObject
    | DropObjects
    | MemoryRound
    | RootfsPass
    | OpenFile
    | CloseFile
    | SmallFiles
    | Restore
    | Commit
    | Abandon
    | Finish
    | AskOutcome
    | SetForward
    | HomeForward
    | TakeAddresses
    | EndForward
    | FollowForward
    | SwitchForward
    | AdoptConnections
    | AskFrontends
    | ReadyFrontend
    | SwitchFrontend
    | Survey
)
Reply = (
    Greeting
    | Offer
    | Frontends
    | Welcome
    | Prepared
    | CacheDigests
    | TurnGiven
    | Done
    | Filled
    | Ready
    | Running
    | Outcome
    | Failed
)
