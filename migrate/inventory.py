"""Which hosts there are to go to: names from several places, and what each host says of itself.

Whoever cannot be reached, or cannot take in any container of this host, is left out, with a reason.
"""

from __future__ import annotations

import json
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import TypeVar

from migrate.agent_link import AgentLink
from migrate.candidates import name_of
from migrate.errors import BadPlan, CommandFailed
from migrate.host_facts import HostFacts
from migrate.messages import HostPort, Offer, Survey
from migrate.pairing import Host, refuse_pair, refuse_probe, same_host
from migrate.plan import LeftOut
from migrate.protocol import call
from migrate.run import run
from transport.errors import BadTarget, Failure
from transport.ssh_config import config_lines
from transport.target import parse_target

ANSWER = 60.0
AT_ONCE = 8  # hosts that are asked at the same time
SSH, DOCKER = "ssh", "docker"
_T = TypeVar("_T")
_HOST = re.compile(r"\s*Host(?:\s*=\s*|\s+)(.+?)\s*$", re.IGNORECASE)


def names(given: Sequence[str], inventories: Sequence[str]) -> tuple[list[str], list[LeftOut]]:
    """The hosts named on the command line and in the inventories, each once, in that order; and
    what of the inventories names no host, with where it stands and why.

    An inventory is `ssh` (~/.ssh/config), `docker` (its contexts), or a file. Raises BadPlan when
    one cannot be read or no host is left, BadTarget for a word of the command line that is no host.
    """
    for name in given:
        parse_target(name)
    found = list(given)
    left_out: list[LeftOut] = []
    for inventory in inventories:
        for name, where in _listed(inventory):
            try:
                parse_target(name)
            except BadTarget as failure:
                left_out.append(LeftOut(name, f"{where}: {failure.message}", failure.remedy))
            else:
                found.append(name)
    if not found:
        why = "; ".join(one.why for one in left_out)
        raise BadPlan(
            "no host is named to go to" + (f": {why}" if why else ""),
            "name one, or give --inventory",
        )
    return list(dict.fromkeys(found)), left_out


def _listed(inventory: str) -> list[tuple[str, str]]:
    """What an inventory names, and where each stands, as a person would look for it."""
    if inventory == SSH:
        names_ = of_ssh_config(config_lines(Path.home() / ".ssh" / "config"))
        return [(name, "~/.ssh/config") for name in names_]
    if inventory == DOCKER:
        return [(name, "a context of Docker") for name in of_contexts(_contexts())]
    lines = of_file(_text(Path(inventory)))
    return [(name, f"{inventory}, line {number}") for number, name in lines]


def of_ssh_config(lines: Iterable[str]) -> list[str]:
    """The hosts of an ssh config that are named, not matched by a pattern."""
    found = []
    for line in lines:
        match = _HOST.match(line.partition("#")[0])
        for word in match[1].replace('"', " ").split() if match else ():
            if not set(word) & set("*?!"):
                found.append(word)
    return found


def of_contexts(text: str) -> list[str]:
    """The hosts of `docker context ls --format json`, of the endpoints that are reached by ssh."""
    found = []
    for line in text.splitlines():
        try:
            entry = json.loads(line)
            endpoint = str(entry.get("DockerEndpoint") or "")
        except (ValueError, AttributeError):
            continue
        scheme, separator, rest = endpoint.partition("://")
        if separator and scheme == "ssh":
            found.append(rest.partition("/")[0])
    return found


def of_file(text: str) -> list[tuple[int, str]]:
    """The number of a line, from 1, and its host: one per line; `#` begins a comment."""
    lines = (line.partition("#")[0].split() for line in text.split("\n"))
    return [(number, words[0]) for number, words in enumerate(lines, 1) if words]


def _contexts() -> str:
    try:
        return run(["docker", "context", "ls", "--format", "{{json .}}"], timeout=20).stdout
    except CommandFailed as failure:
        raise BadPlan(f"Docker's contexts cannot be listed: {failure.message}") from failure


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")  # what is no text is no host either
    except OSError as error:
        raise BadPlan(f"the inventory {path} cannot be read: {error}") from error


def ask(
    hosts: Sequence[str], here: HostFacts, own_id: str, parallel: int,
    ports: Iterable[HostPort] = (),
) -> tuple[list[Host], list[LeftOut]]:  # fmt: skip
    """Ask all of them what they could take in; who does not answer, or cannot, is left out.

    Changes nothing there. `ports`: all that the containers publish, which are tried; `own_id`: this
    host's, which may be among them, "" when it was never made.
    """
    survey = Survey(tuple(dict.fromkeys(ports)))
    answers = ask_all(hosts, lambda name: _ask(name, here, parallel, survey))
    return sort_out(answers, here, own_id)


def ask_all(hosts: Sequence[str], ask_one: Callable[[str], _T]) -> list[_T]:
    """Call it for each host, `AT_ONCE` at the same time; gives the answers in the hosts' order.

    A signal ends the wait at once, however long a host lets us wait: the threads that ask are
    daemons and end with this process, which to the hosts is a link that breaks.
    """
    futures: list[Future[_T]] = [Future() for _ in hosts]
    todo = deque(zip(futures, hosts, strict=True))

    def work() -> None:
        while True:
            try:
                future, host = todo.popleft()
            except IndexError:
                return
            try:
                future.set_result(ask_one(host))
            except BaseException as why:  # noqa: BLE001 - raised where it is waited for
                future.set_exception(why)

    for _ in range(min(AT_ONCE, len(hosts))):
        Thread(target=work, daemon=True).start()
    return [future.result() for future in futures]


def sort_out(
    answers: Sequence[Host | LeftOut], here: HostFacts, own_id: str
) -> tuple[list[Host], list[LeftOut]]:
    """Leave out this host, and all names of one host but the first."""
    hosts: list[Host] = []
    left_out: list[LeftOut] = []
    for answer in answers:
        if isinstance(answer, LeftOut):
            left_out.append(answer)
        elif same_host(here, own_id, answer.facts, answer.host_id):
            left_out.append(LeftOut(answer.name, "it is this host"))
        elif twin := next((one for one in hosts if _same(one, answer)), None):
            left_out.append(LeftOut(answer.name, f"it is the same host as {twin.name}"))
        else:
            hosts.append(answer)
    return hosts, left_out


def _same(one: Host, other: Host) -> bool:
    return same_host(one.facts, one.host_id, other.facts, other.host_id)


def containers_at(name: str) -> dict[str, bool]:
    """Whether each container at a host runs, by its name and by its ids; changes nothing there.

    Raises what connecting raises, and DockerUnavailable.
    """
    with AgentLink(name) as link:
        link.greet(looks=True)
        offer = call(link.channel, Survey(heirs=True), Offer, ANSWER)
    found: dict[str, bool] = {}
    for item in offer.view.containers:
        runs = item.get("State") in ("running", "paused", "restarting")
        found[name_of(item)] = found[str(item["Id"])] = runs
    for old, new in offer.heirs.items():
        found.setdefault(old, found.get(new, False))
    return found


def _ask(name: str, here: HostFacts, parallel: int, survey: Survey) -> Host | LeftOut:
    try:
        with AgentLink(name) as link:
            greeting = link.greet(looks=True)
            skew = greeting.facts.wall_clock - time.time()
            refuse_pair(here, greeting.facts)
            offer = call(link.channel, survey, Offer, ANSWER)
            refuse_probe(offer.probe)
    except Failure as failure:
        return LeftOut(name, failure.message, failure.remedy)
    return Host(
        name=name, facts=greeting.facts, view=offer.view, refused=offer.refused,
        load=offer.load, skew=skew, host_id=greeting.host_id, parallel=parallel,
    )  # fmt: skip
