"""`./demo --web`: a page with the hosts on a world map, and a button per host that moves the game.

Whoever can open the page can move the server, so it is served to this machine only unless told
otherwise. What other web sites could do through the visitor's browser is refused: a POST must come
from the page (its origin, and a token that only the page has), and a name that leads here by
somebody else's DNS is no way in (the Host header). Texts of others, such as names of players, reach
the page as JSON and are put in as text; and no script or style runs there but the page's own files.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import secrets
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from aiohttp import web

from examples.quake.web_world import Place, World
from tests.e2e.quake_world import NAME, SCRIPT, QuakeWorld

FILES = Path(__file__).with_name("page")
TYPES = {
    "page.js": "text/javascript",
    "land.js": "text/javascript",
    "page.css": "text/css",
    "icon.svg": "image/svg+xml",
}
DEFAULT = "127.0.0.1:8015"
TOKEN = "X-Page-Token"
KEEP_ALIVE = 15.0  # seconds: an empty event shows that a browser is gone
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def address(text: str) -> tuple[str, int]:
    """ADDRESS:PORT, [ADDRESS]:PORT or PORT. Raises ValueError."""
    host, _, port = text.rpartition(":")
    number = int(port)
    if not 0 <= number < 1 << 16:
        raise ValueError(f"there is no port {number}")
    return host.strip("[]") or "127.0.0.1", number


class CannotListen(Exception):
    """The address is not this machine's, or the port is taken."""


def listen(own: str, port: int) -> socket.socket:
    """Where the page will be; port 0: any. Before the hosts are made, since it may fail."""
    family = socket.AF_INET6 if ":" in own else socket.AF_INET
    try:
        return socket.create_server((own, port), family=family)
    except OSError as failure:
        raise CannotListen(f"no page at {own}, port {port}: {failure.strerror}") from failure


def known_host(header: str, own: str) -> bool:
    """May a request with this Host header come in, at a server that was told to bind to `own`?

    An address may: DNS rebinding needs a name. Of names only localhost and the own one.
    """
    try:
        name = urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return False
    if name in ("localhost", own.lower()):
        return bool(name)
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def from_the_page(headers: dict[str, str], token: str) -> bool:
    """Does a POST with these headers (names in lower case) come from the page itself?"""
    origin, host = headers.get("origin", ""), headers.get("host", "")
    given = headers.get(TOKEN.lower(), "")
    return (
        bool(host)
        and origin.lower() == f"http://{host.lower()}"
        and headers.get("sec-fetch-site", "same-origin") == "same-origin"
        and hmac.compare_digest(given.encode(), token.encode())
    )


class Page:
    """The web application; `own`: the address or name that it is bound to."""

    def __init__(self, world: World, own: str) -> None:
        self._world = world
        self._own = own
        self._token = secrets.token_urlsafe(32)

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._guard], client_max_size=4096)
        app.router.add_get("/", self._page)
        app.router.add_get("/events", self._events)
        app.router.add_post("/move", self._move)
        app.router.add_get("/{name}", self._file)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        if not known_host(headers.get("host", ""), self._own):
            return web.Response(status=421, text="This is no host name of this page.\n")
        if request.method == "POST" and not from_the_page(headers, self._token):
            return web.Response(status=403, text="Only the page itself may do that.\n")
        try:
            response = await handler(request)
        except web.HTTPException as error:
            error.headers.update(HEADERS)
            raise
        if not response.prepared:
            response.headers.update(HEADERS)
        return response

    async def _page(self, _: web.Request) -> web.Response:
        text = (FILES / "page.html").read_text().replace("{token}", self._token)
        return web.Response(text=text, content_type="text/html")

    async def _file(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in TYPES:
            raise web.HTTPNotFound
        return web.Response(text=(FILES / name).read_text(), content_type=TYPES[name])

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """The state, at once and at every change (server-sent events)."""
        response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
        await response.prepare(request)
        with self._world.listening() as changed, suppress(ConnectionError):
            while True:
                try:
                    async with asyncio.timeout(KEEP_ALIVE):
                        await changed.wait()
                except TimeoutError:
                    await response.write(b":\n\n")
                    continue
                changed.clear()
                state = msgspec.json.encode(self._world.state)
                await response.write(b"data: " + state + b"\n\n")
        return response

    async def _move(self, request: web.Request) -> web.Response:
        try:
            to = msgspec.json.decode(await request.read(), type=dict[str, str])["to"]
        except (msgspec.DecodeError, KeyError):
            raise web.HTTPBadRequest from None
        why = self._world.move(to)
        return web.Response(status=409 if why else 202, text=why or "")


async def serve(
    world: World,
    own: str,
    listener: socket.socket,
    started: Callable[[str], None],
    stop: asyncio.Event,
) -> None:
    """The page, until `stop`. `started` is told its URL."""
    runner = web.AppRunner(Page(world, own).app(), access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        async with world.alive():
            port = listener.getsockname()[1]
            started(f"http://{f'[{own}]' if ':' in own else own}:{port}/")
            await stop.wait()
    finally:
        await runner.cleanup()


def of_lab(quake: QuakeWorld) -> World:
    """The hosts of the demo, with a player on its third one."""
    places = [Place(host.name, host.address, host.enter) for host in (quake.a, quake.b)]
    watcher = ["python3", str(Path(SCRIPT).with_name("q3watch.py")), quake.server]
    return World(places, NAME, quake.player_host.enter(watcher))


async def _until_signal(
    quake: QuakeWorld, own: str, listener: socket.socket, started: Callable[[str], None]
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await serve(of_lab(quake), own, listener, started, stop)


def show(quake: QuakeWorld, own: str, listener: socket.socket, say: Callable[[str], None]) -> None:
    """The page for the demo's hosts, until Ctrl-C."""

    def started(url: str) -> None:
        say(f"The page: {url}  (Ctrl-C ends it, and the hosts)")

    asyncio.run(_until_signal(quake, own, listener, started))
