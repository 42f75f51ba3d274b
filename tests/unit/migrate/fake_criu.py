"""A `criu swrk` that plays a scene over a real socket, and a pycriu whose messages are JSON.

pycriu is an OS package that is not there wherever the unit tests run; what counts here is the
conversation, not protobuf.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

NOTIFY, DUMP, PRE_DUMP, SOFT, NFTABLES, VM_READ = "NOTIFY", "DUMP", "PRE_DUMP", 3, 2, 2

# Plays $HERE/scene, one act after the other; what it is told goes to $HERE/heard.
CRIU = """#!{python} -SE
import json, os, resource, socket, sys, time
here = {here!r}
assert sys.argv[1] == "swrk"
link = socket.socket(fileno=int(sys.argv[2]))
heard = open(here + "/heard", "a", buffering=1)
def hear():
    data = link.recv(1 << 16)
    if not data:
        heard.write('"the other end is closed"\\n')
        raise SystemExit(0)
    heard.write(data.decode() + "\\n")
    return json.loads(data)
request = hear()
for act in json.load(open(here + "/scene")):
    for what, value in act.items():
        if what == "stage":
            link.send(json.dumps(dict(type="NOTIFY", script=value)).encode())
            hear()
        elif what == "result":
            link.send(json.dumps(dict(type="DUMP", **value)).encode())
        elif what == "log":
            fd = request["opts"]["work_dir_fd"]
            path = "/proc/%d/fd/%d/%s" % (os.getppid(), fd, request["opts"]["log_file"])
            open(path, "w").write(value)
        elif what == "image":
            fd = request["opts"]["images_dir_fd"]
            open("/proc/%d/fd/%d/%s" % (os.getppid(), fd, value), "w").close()
        elif what == "limits":
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            heard.write(json.dumps(limits) + "\\n")
        elif what == "sleep":
            time.sleep(value)
        elif what == "close":
            link.close()
heard.write('"done"\\n')
"""


class Options:
    """criu_opts: fields that were set, and nothing else."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)
        self.ext_mnt = Mounts()

    def shown(self) -> dict[str, Any]:
        return {**vars(self), "ext_mnt": self.ext_mnt.found}


class Mounts:
    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def add(self, key: str, val: str) -> None:
        self.found[key] = val


class Request:
    def __init__(self, **fields: Any) -> None:
        if "opts" in fields:
            fields["opts"] = fields["opts"].shown()
        self._fields = fields

    def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's name
        return json.dumps(self._fields).encode()


class Response:
    type = ""
    success = False
    cr_errmsg = ""
    cr_errno = 0

    def ParseFromString(self, data: bytes) -> None:  # noqa: N802 - protobuf's name
        for name, value in json.loads(data).items():
            setattr(self, name, value)

    @property
    def notify(self) -> Any:
        return self


class Stage:
    """The scene, and what criu heard in it."""

    def __init__(self, here: Path) -> None:
        self._here = here
        self.play()

    def play(self, *acts: dict[str, Any]) -> None:
        (self._here / "scene").write_text(json.dumps(acts))

    def heard(self) -> list[Any]:
        path = self._here / "heard"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def install(monkeypatch: pytest.MonkeyPatch, here: Path) -> Stage:
    """Put both in the place of the real ones. `here`: an empty directory."""
    path = here / "criu"
    path.write_text(CRIU.format(python=sys.executable, here=str(here)))
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{here}:/usr/bin:/bin")
    module: Any = ModuleType("pycriu")
    rpc: Any = ModuleType("pycriu.rpc_pb2")
    rpc.NOTIFY, rpc.DUMP, rpc.PRE_DUMP = NOTIFY, DUMP, PRE_DUMP
    rpc.SOFT, rpc.NFTABLES, rpc.VM_READ = SOFT, NFTABLES, VM_READ
    rpc.criu_opts, rpc.criu_req, rpc.criu_resp = Options, Request, Response
    module.rpc_pb2 = rpc
    monkeypatch.setitem(sys.modules, "pycriu", module)
    monkeypatch.setitem(sys.modules, "pycriu.rpc_pb2", rpc)
    return Stage(here)
