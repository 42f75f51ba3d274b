"""examples.quake.web over HTTP: who may move the server, and that texts of others stay texts."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.web import Application, Request

from examples.quake.web import (
    FILES,
    TYPES,
    CannotListen,
    Page,
    address,
    from_the_page,
    known_host,
    listen,
)
from examples.quake.web_state import Player, Seen
from examples.quake.web_world import Place, World

Client = TestClient[Request, Application]
MIGRATE = """
import json, os, sys, time
while os.path.exists(sys.argv[2] + ".held"):
    time.sleep(0.02)
print(json.dumps({"phase": "freeze", "total": None}), file=sys.stderr, flush=True)
open(sys.argv[2], "w").write(sys.argv[1])
print(json.dumps({"downtime": 0.4, "total": 3.0}))
"""


class Hosts:
    """Two hosts whose docker and migrate are a file that says where the server is."""

    def __init__(self, folder: Path) -> None:
        self.where = folder / "where"
        self.where.write_text("a")
        self.moves = 0
        self.fails: str | None = None

    def world(self) -> World:
        places = [Place(name, "10.77.0.1", self._enter(name)) for name in ("a", "b")]
        return World(places, "quake", ["sh", "-c", "echo '{\"gamestates\": 1}'; cat"])

    def _enter(self, name: str) -> Callable[..., list[str]]:
        def enter(argv: list[str]) -> list[str]:
            if argv[0] == "docker":
                test = f'test "$(cat {self.where})" = {name} && echo running; true'
                return ["sh", "-c", test]
            assert argv == ["migrate", "quake", argv[2], "--json", "--progress-json"]
            self.moves += 1
            if self.fails is not None:
                return ["sh", "-c", f"echo '{self.fails}'; exit 30"]
            return [sys.executable, "-c", MIGRATE, argv[2], str(self.where)]

        return enter


def visit(world: World, visitor: Callable[[Client], Awaitable[None]], alive: bool = True) -> None:
    async def run() -> None:
        async with TestClient(TestServer(Page(world, "127.0.0.1").app())) as client:
            if not alive:
                await visitor(client)
                return
            async with world.alive():
                async with asyncio.timeout(60):
                    while world.state.where is None or world.state.seen is None:
                        await asyncio.sleep(0.01)
                await visitor(client)

    asyncio.run(run())


async def token_of(client: Client) -> str:
    found = re.search(r'name="page-token" content="([^"]+)"', await (await client.get("/")).text())
    assert found
    return found[1]


def origin(client: Client) -> str:
    return str(client.make_url("/")).rstrip("/")


def test_the_page_itself_moves_the_server(tmp_path: Path) -> None:
    hosts = Hosts(tmp_path)
    world = hosts.world()

    async def visitor(client: Client) -> None:
        headers = {"Origin": origin(client), "X-Page-Token": await token_of(client)}
        held = hosts.where.with_name("where.held")
        held.touch()
        assert (await client.post("/move", json={"to": "b"}, headers=headers)).status == 202
        again = await client.post("/move", json={"to": "b"}, headers=headers)
        assert (again.status, await again.text()) == (409, "a migration is running")
        held.unlink()
        async with asyncio.timeout(60):
            while not (world.state.move and world.state.move.settled):
                await asyncio.sleep(0.02)
        for bad in (b"", b"[]", b'{"to": 1}', b'{"from": "a"}'):
            assert (await client.post("/move", data=bad, headers=headers)).status == 400

    visit(world, visitor)
    move = world.state.move
    assert move is not None
    assert (hosts.moves, world.state.where, move.phase) == (1, "b", "freeze")
    assert (move.running, move.error, move.downtime, move.gap) == (False, None, 400.0, None)


def test_a_migration_that_fails_is_told_and_another_one_may_follow(tmp_path: Path) -> None:
    hosts = Hosts(tmp_path)
    hosts.fails = '{"message": "b lacks it", "remedy": "give it"}'
    world = hosts.world()

    async def visitor(_: Client) -> None:
        assert world.move("b") is None
        async with asyncio.timeout(60):
            while not (world.state.move and world.state.move.settled):
                await asyncio.sleep(0.02)

    visit(world, visitor)
    assert world.state.move is not None
    assert world.state.move.error == "b lacks it. give it"
    assert (world.state.where, world.state.moves, world.state.refuse("b")) == ("a", 0, None)


def test_a_host_that_cannot_be_reached_is_down(tmp_path: Path) -> None:
    places = [Place("a", "x", Hosts(tmp_path)._enter("a")), Place("b", "y", lambda _: ["false"])]
    world = World(places, "quake", ["sh", "-c", "echo '{}'; cat"])

    async def visitor(_: Client) -> None:
        assert [host.up for host in world.state.hosts] == [True, False]

    visit(world, visitor)


@pytest.mark.parametrize("wrong", ["origin", "no origin", "token", "no token", "cross-site"])
def test_nobody_else_does(tmp_path: Path, wrong: str) -> None:
    hosts = Hosts(tmp_path)

    async def visitor(client: Client) -> None:
        headers = {"Origin": origin(client), "X-Page-Token": await token_of(client)}
        if wrong == "origin":
            headers["Origin"] = "http://evil.example"
        elif wrong == "no origin":
            del headers["Origin"]
        elif wrong == "token":
            headers["X-Page-Token"] += "x"
        elif wrong == "no token":
            del headers["X-Page-Token"]
        else:
            headers["Sec-Fetch-Site"] = "cross-site"
        assert (await client.post("/move", json={"to": "b"}, headers=headers)).status == 403

    visit(hosts.world(), visitor)
    assert hosts.moves == 0


@pytest.mark.parametrize("path", ["/", "/events", "/page.js"])
def test_a_name_of_somebody_elses_dns_gets_nothing(tmp_path: Path, path: str) -> None:
    async def visitor(client: Client) -> None:
        answer = await client.get(path, headers={"Host": "evil.example:8015"})
        assert answer.status == 421
        assert "page-token" not in await answer.text()

    visit(Hosts(tmp_path).world(), visitor, alive=False)


def test_names_of_players_reach_the_page_as_data(tmp_path: Path) -> None:
    evil = '</script><img src=x onerror="alert(1)">'
    world = Hosts(tmp_path).world()
    world.state.seen = Seen(players=[Player(1, 48, evil)])

    async def visitor(client: Client) -> None:
        assert evil not in await (await client.get("/")).text()
        answer = await client.get("/events")
        assert answer.content_type == "text/event-stream"
        line = await answer.content.readline()
        told = json.loads(line.removeprefix(b"data: "))
        assert told["seen"]["players"][0]["name"] == evil
        answer.close()

    visit(world, visitor, alive=False)


def test_no_foreign_or_inline_script_may_run(tmp_path: Path) -> None:
    async def visitor(client: Client) -> None:
        for path in ("/", *TYPES, "/nothing", "/..%2fweb.py"):
            answer = await client.get(path)
            assert answer.status == (200 if path == "/" or path in TYPES else 404)
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy

    visit(Hosts(tmp_path).world(), visitor, alive=False)
    scripts = "".join((FILES / name).read_text() for name in TYPES if name.endswith(".js"))
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", scripts)
    html = (FILES / "page.html").read_text()
    assert not re.search(r"<style|style=|\son\w+=|https?://|<script(?! src=)", html)


@pytest.mark.parametrize(
    ("header", "own", "known"),
    [
        ("127.0.0.1:8015", "127.0.0.1", True),
        ("localhost:8015", "127.0.0.1", True),
        ("[::1]:8015", "::1", True),
        ("192.0.2.7:80", "0.0.0.0", True),
        ("Lab.example:80", "lab.example", True),
        ("lab.example.evil.example", "lab.example", False),
        ("127.0.0.1.evil.example", "127.0.0.1", False),
        ("evil.example", "127.0.0.1", False),
        ("user@evil.example", "127.0.0.1", False),
        ("", "", False),
        ("[::1", "::1", False),
    ],
)
def test_names_that_are_let_in(header: str, own: str, known: bool) -> None:
    assert known_host(header, own) is known


def test_a_token_that_is_not_ascii_is_only_wrong() -> None:
    headers = {"origin": "http://h", "host": "h", "x-page-token": "ä"}
    assert not from_the_page(headers, "token")
    assert from_the_page({**headers, "x-page-token": "token"}, "token")


def test_addresses() -> None:
    assert address("0.0.0.0:80") == ("0.0.0.0", 80)
    assert address("[::1]:0") == ("::1", 0)
    assert address("8080") == ("127.0.0.1", 8080)
    for wrong in ("", "host", "host:x", "host:70000", "host:-1"):
        with pytest.raises(ValueError, match=r"port|invalid"):
            address(wrong)


def test_a_port_that_is_taken_is_a_message() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(CannotListen, match=f"127.0.0.1, port {port}: "):
            listen("127.0.0.1", port)
