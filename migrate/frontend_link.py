"""The source's part in a move behind a front end: it has it lead to the destination in time.

The connection stands since preflight, the programs at the front end wait since the freeze began.
It is switched when all is restored and held, before commit: should that fail, all is undone, and
no packet has come to a container that does not run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from migrate import conntrack
from migrate.agent_link import AgentLink
from migrate.conntrack import Entry
from migrate.container_spec import ContainerSpec
from migrate.errors import CommandFailed, FrontendUnfit, FrontendUnreachable
from migrate.forward_record import published, way_endpoint
from migrate.frontend_record import Lead, leads, show
from migrate.journal import Journal
from migrate.messages import AskFrontends, Done, Frontends, ReadyFrontend, SwitchFrontend
from migrate.network_facts import NetworkFacts
from migrate.protocol import call
from migrate.undo import SwitchFrontendBack
from transport.errors import Failure

ANSWER = 20.0
IN_FREEZE = 10.0
"""Seconds that a container may stand still for a front end that does not answer."""


class FrontendLink:
    """The connection to a front end's host, in the order of the methods."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.leads: tuple[Lead, ...] = ()
        self._stack = ExitStack()
        self._link: AgentLink | None = None
        self._spec: ContainerSpec | None = None

    def find(
        self, spec: ContainerSpec, here: NetworkFacts, there: NetworkFacts, there_ip: str, name: str
    ) -> str:
        """Connect, and find out what has to change; says so in a sentence. Changes nothing.

        Raises FrontendUnreachable or FrontendUnfit.
        """
        with self._asking():
            self._link = self._stack.enter_context(AgentLink(self.host))
            self._link.greet()
            there_are = call(self._link.channel, AskFrontends(), Frontends, ANSWER).frontends
        self._spec = spec
        self.leads = leads(there_are, published(spec), here, there, there_ip)
        what = ", ".join(f"{lead.name} ({show(lead.old)})" for lead in self.leads)
        return f"frontend: {self.host} leads its clients to {name} from then on: {what}"

    def ready(self, journal: Journal) -> None:
        """The freeze begins. Noted before it, so that it is undone after the thaw."""
        assert self._link
        journal.push(SwitchFrontendBack(self.host, self.leads))
        with self._asking():
            call(self._link.channel, ReadyFrontend(self.leads), Done, ANSWER)

    def connections(self) -> tuple[Entry, ...]:
        """What this host knows of the connections that come by the front end, as the destination
        is to know them, so that it gives the container's packets the port that they come from."""
        assert self._spec
        endpoint = way_endpoint(self._spec)
        if not endpoint or not endpoint.ipv4 or not conntrack.present():
            return ()
        try:
            known = conntrack.entries_of(endpoint.ipv4)
        except CommandFailed:
            return ()  # what is only for translated ports must not stop a move
        return tuple(
            entry.aimed_at(lead.new)
            for entry in known
            for lead in self.leads
            if entry.target == lead.old and entry.reply_source[0] == endpoint.ipv4
        )

    def switch(self) -> None:
        """Clients get to the destination from now on. Raises FrontendUnreachable: then nobody knows
        which way they go, and what `ready` has noted leads them here."""
        assert self._link
        with self._asking():
            call(self._link.channel, SwitchFrontend(self.leads), Done, IN_FREEZE)

    def close(self) -> None:
        self._stack.close()

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """What the front end's host says is not the destination's word: a failure of our own."""
        try:
            yield
        except FrontendUnfit as failure:
            raise FrontendUnfit(f"{self.host}: {failure.message}", failure.remedy) from failure
        except Failure as failure:
            raise FrontendUnreachable(
                f"the front end {self.host} cannot be used: {failure.message}",
                failure.remedy or None,
            ) from failure
        except TimeoutError as failure:
            raise FrontendUnreachable(f"the front end {self.host} does not answer") from failure
