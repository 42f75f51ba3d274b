"""What the Vagrantfile does in its machines, on two hosts of the lab: one command moves the server.

Not seen here: Vagrant itself, its box, and the downloads of packages, which the hosts have.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.quake.build_image import DEFAULT_CACHE, PORT, build
from tests.e2e.world import eventually
from tests.lab.host import HostSpec, LabHost
from tests.lab.lab import Lab
from tests.lab.tool import REPO, SHIPPED, wheel

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the lab needs root")

NAMES = ("hostA", "hostB")
CHECKOUT = "/vagrant"
KEYS = "/tmp/migrate-keys"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two hosts with Docker and without the tool, which do not know each other; a player."""
    scratch = tmp_path_factory.mktemp("provision")
    build(scratch / "quake.tar")  # into the cache: the hosts have no network to download from
    built, keys = wheel(scratch), make_keys(scratch)
    bare = [HostSpec(name, tool=False) for name in NAMES]
    made = Lab.up("e2eprov", [*bare, HostSpec("player", docker=False, tool=False)])
    try:
        for name in (*NAMES, "player"):
            copy_checkout(made[name])
        for name in NAMES:
            host = made[name]
            host.sh("rm -rf /root/.ssh")
            shutil.copy(built, host.path(CHECKOUT))
            shutil.copytree(DEFAULT_CACHE, host.path("/root/.cache/migrate-quake"),
                            ignore=shutil.ignore_patterns("debs"))  # fmt: skip
            provision(made, name, keys, built.name)
        yield made
    finally:
        made.down()


def make_keys(scratch: Path) -> Path:
    keys = scratch / "keys"
    keys.mkdir()
    for name in ("root", *NAMES):
        subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", keys / name], check=True)
    return keys


def copy_checkout(host: LabHost) -> None:
    inside = host.path(CHECKOUT)
    for name in (*SHIPPED, "examples"):
        source = REPO / name
        if source.is_dir():
            shutil.copytree(source, inside / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            inside.mkdir(exist_ok=True)
            shutil.copy(source, inside)


def provision(lab: Lab, name: str, keys: Path, built: str) -> None:
    """As the Vagrantfile calls it, but for the wheel."""
    shutil.copytree(keys, lab[name].path(KEYS))
    first = ["--quake"] if name == "hostA" else []
    hosts = [f"{other}={lab[other].address}" for other in NAMES]
    lab[name].run(
        ["sh", f"{CHECKOUT}/examples/vagrant/provision.sh", *first, *hosts, KEYS,
         f"{CHECKOUT}/{built}"],
        timeout=300,
    )  # fmt: skip


def running(host: LabHost) -> str:
    return host.sh("docker ps --format '{{.Names}}'")


def answers(lab: Lab) -> bool:
    """Whether the game is there for a player who knows host A's address."""
    script = f"{CHECKOUT}/examples/quake/q3.py"
    server = f"{lab['hostA'].address}:{PORT}"
    return lab["player"].run(["python3", script, "status", server], check=False).ok


def test_one_command_moves_the_server(lab: Lab, tmp_path: Path) -> None:
    a, b = lab["hostA"], lab["hostB"]
    assert (running(a), running(b)) == ("quake", "")
    for host in (a, b):
        assert not host.path(KEYS).exists()
    there = json.loads(a.run(["migrate", "quake", "hostB", "--json"]).stdout)
    assert there["network"] == "forward"
    assert (running(a), running(b)) == ("", "quake")
    eventually(lambda: answers(lab), "the game does not answer")
    # Once more, as by `vagrant provision`, with new keys: no second server, and the way back works.
    keys = make_keys(tmp_path)
    for name in NAMES:
        provision(lab, name, keys, next(a.path(CHECKOUT).glob("*.whl")).name)
    assert (running(a), running(b)) == ("", "quake")
    home = json.loads(b.run(["migrate", "quake", "hostA", "--json"]).stdout)
    assert home["network"] == "home"
    assert (running(a), running(b)) == ("quake", "")
    eventually(lambda: answers(lab), "the game does not answer")
