"""The live side of the page of `./demo --web`: asks hosts and player, moves the server.

Hosts are reached by command lines only (`Place.enter`), so that it is all the same what they are.
"""

from __future__ import annotations

import asyncio
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from examples.quake.web_state import (
    Host,
    Move,
    State,
    ended,
    find,
    heard,
    longest_gap,
    progressed,
)

POLL = 1.0  # seconds between two looks at the hosts
PATIENCE = 10.0  # seconds that a host may take to answer
END = 60.0  # seconds that a migration under way has when the page is ended
GRACE = 2.0  # seconds after a migration until the player has told of all of it


@dataclass(frozen=True)
class Place:
    """A host: `enter` gives the command line that runs a program on it."""

    name: str
    address: str
    enter: Callable[[Sequence[str]], list[str]]


class World:
    """The hosts, the container `name` on one of them, and the player's command line `watcher`."""

    def __init__(self, places: Sequence[Place], name: str, watcher: Sequence[str]) -> None:
        self._places = {place.name: place for place in places}
        self._name = name
        self._watcher = watcher
        self._listeners: set[asyncio.Event] = set()
        self._moving: asyncio.Task[None] | None = None
        self._player: Process | None = None
        self._ended = asyncio.Event()
        self.state = State([Host(place.name, place.address) for place in places])

    @contextmanager
    def listening(self) -> Iterator[asyncio.Event]:
        """An event that is set at every change; whoever waits for it clears it."""
        event = asyncio.Event()
        event.set()
        self._listeners.add(event)
        try:
            yield event
        finally:
            self._listeners.discard(event)

    def _change(self, **what: Any) -> None:
        changed = msgspec.structs.replace(self.state, **what)
        if changed != self.state:
            self.state = changed
            for event in self._listeners:
                event.set()

    @asynccontextmanager
    async def alive(self) -> AsyncIterator[None]:
        """Follows what goes on, for the length of an `async with` block."""
        tasks = [asyncio.create_task(self._follow_hosts()), asyncio.create_task(self._watch())]
        try:
            yield
        finally:
            # No migration is killed half-way. Ctrl-C it gets from the terminal, and undoes all.
            if self._moving is not None:
                await asyncio.wait([self._moving], timeout=END)
            # Nor is a program: it would stay in its host, with our pipes.
            self._ended.set()
            if self._player is not None:
                _dismiss(self._player)
            _, late = await asyncio.wait(tasks, timeout=PATIENCE)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL):
                await self._ended.wait()

    # -- where the server is ---------------------------------------------------------------------

    async def _follow_hosts(self) -> None:
        while not self._ended.is_set():
            await self._look()
            await self._pause()

    async def _look(self) -> None:
        answers = await asyncio.gather(*map(self._ask, self._places.values()))
        states = dict(zip(self._places, answers, strict=True))
        hosts = [
            msgspec.structs.replace(host, up=states[host.name] is not None)
            for host in self.state.hosts
        ]
        there = {name: state for name, state in states.items() if state}
        self._change(hosts=hosts, where=find(there, self.state.where))

    async def _ask(self, place: Place) -> str | None:
        """What Docker calls the container's state; "": it has none; None: no answer."""
        argv = [
            "docker",
            "ps",
            "-a",
            "--filter",
            f"name=^/?{self._name}$",
            "--format",
            "{{.State}}",
        ]
        try:
            process = await _start(place.enter(argv), stderr=DEVNULL)
        except (OSError, RuntimeError):  # RuntimeError: a lab host that is not running
            return None
        try:
            async with asyncio.timeout(PATIENCE):
                out, _ = await process.communicate()
        except TimeoutError:
            return None
        finally:
            _kill(process)
        return out.decode(errors="replace").strip() if process.returncode == 0 else None

    # -- what the player sees --------------------------------------------------------------------

    async def _watch(self) -> None:
        """Reads what the player says; one that could not join, or was thrown out, is followed by
        another one, whose count of gamestates begins anew: that it is another is to be seen."""
        while not self._ended.is_set():
            process = self._player = await _start(self._watcher, stdin=PIPE, stderr=DEVNULL)
            assert process.stdout is not None
            try:
                async for line in process.stdout:
                    if (seen := heard(line.decode(errors="replace"))) is not None:
                        self._change(seen=seen)
                await process.wait()
            finally:
                self._player = None
                _kill(process)
            self._change(seen=None)
            await self._pause()

    # -- moving it -------------------------------------------------------------------------------

    def move(self, to: str) -> str | None:
        """Begin to move the server. Gives why that cannot be; None: it is under way."""
        why = self.state.refuse(to)
        if why is None:
            assert self.state.where is not None
            self._change(move=Move(self.state.where, to))
            self._moving = asyncio.create_task(self._migrate(self.state.where, to))
        return why

    async def _migrate(self, source: str, to: str) -> None:
        before = self.state.seen
        try:
            code, output = await self._run_tool(source, to)
        except (OSError, RuntimeError) as failure:  # RuntimeError: as above
            code, output = 1, str(failure)
        await self._look()
        # Its buttons come back after the look: not for the host that it has just come to.
        done = ended(self._current(), code, output)
        self._change(move=done, moves=self.state.moves + (code == 0))
        await asyncio.sleep(GRACE)
        if self.state.move == done:  # else another one has begun meanwhile
            gap = self.state.seen and longest_gap(before, self.state.seen)
            self._change(move=msgspec.structs.replace(done, gap=gap, settled=True))

    async def _run_tool(self, source: str, to: str) -> tuple[int, str]:
        """The tool on the source, to its end; gives its exit code and what it printed."""
        argv = ["migrate", self._name, to, "--json", "--progress-json"]
        process = await _start(self._places[source].enter(argv), stderr=PIPE)
        assert process.stdout is not None
        assert process.stderr is not None
        output = asyncio.create_task(process.stdout.read())
        async for line in process.stderr:
            self._change(move=progressed(self._current(), line.decode(errors="replace")))
        return await process.wait(), (await output).decode(errors="replace")

    def _current(self) -> Move:
        assert self.state.move is not None
        return self.state.move


async def _start(argv: Sequence[str], *, stdin: int = DEVNULL, stderr: int) -> Process:
    return await asyncio.create_subprocess_exec(*argv, stdin=stdin, stdout=PIPE, stderr=stderr)


def _dismiss(player: Process) -> None:
    """The end of its standard input is the end of the player; it says goodbye to the server."""
    assert player.stdin is not None
    player.stdin.close()


def _kill(process: Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
