"""The real client, ioquake3 with OpenArena's data, on a screen that nobody has to look at.

It runs on a lab host of flavour `player` (tests/lab/tree.py: 0.4 GB of Debian packages, downloaded
once), draws by Mesa's software renderer into an X server that draws into memory, and watches a bot
over its shoulder. It is there to be looked at, and to be a second witness: its console says whether
the connection was ever broken. The gap is measured by q3player, which looks at each datagram and
not only when a picture is due.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from examples.quake.client_log import Connection, read_log
from tests.lab.host import LabHost

FLAVOUR = "player"
NAME = "Spectator"
WIDTH, HEIGHT = 512, 384
FPS = 10  # frames per second: a tenth of a core here, and enough to see the game stop
PATIENCE = 60.0  # seconds that it may take to load the game; 5 are usual here
CHANGE = 1.5  # seconds from leaving the game to being a spectator
TIMEOUT = 10  # seconds of silence after which the client gives up (200 by default)

SCREEN = "/run/screen"
HOME = "/root/.openarena"
LOG = "client"
PID_FILE = "/run/client.pid"
PIPE = f"{HOME}/baseoa/orders"

# As Debian's /usr/games/openarena calls the engine.
SETTINGS = {
    "com_basegame": "baseoa",
    "fs_basepath": "/usr/lib/openarena",
    "com_homepath": Path(HOME).name,
    "com_legacyprotocol": "71",
    "com_protocol": "71",
    # Nobody is to be asked for servers or news: there is no way out of the lab.
    "sv_master1": "",
    "cl_motd": "0",
    "s_initsound": "0",
    "r_mode": "-1",
    "r_customwidth": str(WIDTH),
    "r_customheight": str(HEIGHT),
    "r_fullscreen": "0",
    "r_picmip": "0",
    "com_maxfps": str(FPS),
    "com_introplayed": "1",
    "com_pipefile": Path(PIPE).name,
    "cl_timeout": str(TIMEOUT),
    "cg_drawFPS": "0",
    "name": NAME,
}


class ClientFailed(Exception):
    """The client does not come up, or not into the game; the text is the end of its console."""


@dataclass(frozen=True)
class Frame:
    """What the screen showed at a time of time.monotonic(), as Xvfb keeps it (screen.py)."""

    at: float
    dump: bytes


class RealClient:
    """The client in the game on `server` (address:port); made by the constructor."""

    def __init__(self, host: LabHost, server: str) -> None:
        """Raises ClientFailed when it is not in the game after PATIENCE seconds."""
        self._host = host
        self._ended = threading.Event()
        self._watcher: threading.Thread | None = None
        self._frames: list[Frame] = []
        # What an earlier client said on this host is not what this one says.
        (host.state / "log" / LOG).unlink(missing_ok=True)
        if not host.path(SCREEN).exists():
            host.sh(f"mkdir {SCREEN}")
            host.spawn(["Xvfb", ":0", "-screen", "0", f"{WIDTH}x{HEIGHT}x24", "-fbdir", SCREEN,
                        "-nolisten", "tcp"], "xvfb")  # fmt: skip
        self._wait("the X server", lambda: host.path("/tmp/.X11-unix/X0").exists())
        words = [word for pair in SETTINGS.items() for word in ("+set", *pair)]
        # nice: it must not slow down what it looks at. The pid file: nsenter forks.
        start = (
            f"echo $$ > {PID_FILE}; exec nice -n 15 env DISPLAY=:0 LIBGL_ALWAYS_SOFTWARE=1 "
            '/usr/lib/ioquake3/ioquake3 "$@"'
        )
        host.spawn(["sh", "-c", start, "client", *words, "+connect", server], LOG)
        self._wait("the game", lambda: "entered the game" in self.console())
        # A spectator: nobody shoots at it, and there is more to see over a bot's shoulder.
        self.order("team spectator")
        for _ in range(2):  # who is still changing sides cannot follow anyone
            time.sleep(CHANGE)
            self.order("follownext")

    def console(self) -> str:
        """All that its console has printed."""
        try:
            return (self._host.state / "log" / LOG).read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def connection(self) -> Connection:
        return read_log(self.console())

    def alive(self) -> bool:
        """Whether the program that was started still runs."""
        return self._host.sh(f"kill -0 $(cat {PID_FILE}) 2>&1 && echo yes", check=False) == "yes"

    def order(self, command: str) -> None:
        """Have its console carry out a command, such as `say hello`."""
        self._host.run(["sh", "-c", f'printf "%s\\n" "$1" > {PIPE}', "order", command])

    # -- pictures --------------------------------------------------------------------------------

    def frame(self) -> Frame:
        """The screen now."""
        return Frame(time.monotonic(), self._host.path(f"{SCREEN}/Xvfb_screen0").read_bytes())

    def watch(self) -> None:
        """Keep every new frame from now on, until `watched`."""
        self._ended.clear()
        self._frames = []
        self._watcher = threading.Thread(target=self._look, daemon=True)
        self._watcher.start()

    def watching(self) -> list[Frame]:
        """The frames so far."""
        return list(self._frames)

    def watched(self) -> list[Frame]:
        """Stop watching; gives the frames."""
        self._ended.set()
        if self._watcher is not None:
            self._watcher.join()
            self._watcher = None
        return self._frames

    def _look(self) -> None:
        while not self._ended.wait(1 / FPS):
            frame = self.frame()
            if not self._frames or self._frames[-1].dump != frame.dump:
                self._frames.append(frame)

    # -- its life --------------------------------------------------------------------------------

    def stop(self) -> None:
        """End the client; the X server ends with its host, and serves the next client."""
        self.watched()
        self._host.sh(f"kill -KILL $(cat {PID_FILE})", check=False)

    def _wait(self, what: str, there: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not there():
            if time.monotonic() > deadline:
                raise ClientFailed(f"{what} is not there: {self._host.log(LOG)[-500:]}")
            time.sleep(0.1)
