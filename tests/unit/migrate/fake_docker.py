"""A small HTTP daemon on a unix socket that answers as it is told."""

from __future__ import annotations

import json
import socketserver
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from migrate.docker_host import DockerHost

Answer = tuple[int, Any]


class Chunked(bytes):
    """An answer that comes in chunks, as streams of dockerd do."""


class Daemon(socketserver.ThreadingUnixStreamServer):
    """Answers `answers["METHOD /path"]` (without the version); all else is a 404 of its own kind.

    `seen`: the calls, with decoded JSON bodies or raw bytes.
    """

    daemon_threads = True

    def __init__(self, path: Path, api: str) -> None:
        super().__init__(str(path), Handler)
        self.answers: dict[str, Answer] = {"GET /version": (200, {"ApiVersion": api})}
        self.seen: list[tuple[str, Any]] = []
        self.host: DockerHost

    def fail(self, call: str, status: int, message: str) -> None:
        self.answers[call] = (status, {"message": message})


class Handler(BaseHTTPRequestHandler):
    server: Daemon

    def answer(self) -> None:
        path, _, query = self.path.partition("?")
        if path.startswith("/v1."):
            path = "/" + path.split("/", 2)[2]
        body = self.body()
        call = f"{self.command} {path}"
        if call != "GET /version":
            self.server.seen.append((call + (f"?{query}" if query else ""), body))
        status, content = self.server.answers.get(
            call, (404, {"message": f"page not found: {call}"})
        )
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        if status == 204:
            data = b""
        chunked = isinstance(content, Chunked)
        if chunked:
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)
        self.send_response(status)
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(data)

    def body(self) -> Any:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline() or b"0", 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            return data
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return json.loads(data) if data else None

    do_GET = do_POST = do_DELETE = answer  # noqa: N815

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: Any) -> None:
        pass
