"""Bad input: each with its own message and exit code, and nothing changed anywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.e2e.world import (
    NETWORK,
    SUBNET,
    World,
    assert_continuous,
    eventually,
    numbers,
)
from tests.lab.host import LabHost

COUNTER = ["sh", "/workloads/counter.sh"]


@contextmanager
def undisturbed(world: World) -> Iterator[None]:
    """The counter on A runs on, without a skip, and no container or network appears on B."""
    world.start(world.a, "app", COUNTER)
    listing = (
        "docker ps -a --no-trunc --format '{{.ID}} {{.Names}} {{.State}}'; docker network ls -q"
    )
    before = world.b.sh(listing)
    yield
    assert world.b.sh(listing) == before
    world.wait_for_output(world.a, "app")
    assert_continuous(numbers(world.logs(world.a, "app")))
    world.assert_clean()


def refused(world: World, code: int, *words: str, name: str = "app", to: str = "b",
            options: tuple[str, ...] = ()) -> dict[str, Any]:  # fmt: skip
    """The migration is refused with that exit code, and the message has these words."""
    result = world.try_migrate(world.a, name, to, *options)
    assert result.returncode == code, f"{result.stdout}\n{result.stderr}"
    said: dict[str, Any] = json.loads(result.stdout)
    assert said["exit_code"] == code
    for word in words:
        assert word in said["message"], said
    assert said["remedy"] or code == 41, said
    return said


def test_unknown_container(world: World) -> None:
    with undisturbed(world):
        refused(world, 10, "nosuch", name="nosuch")


def test_a_short_start_of_an_id(world: World) -> None:
    """`migrate db` must not move another container whose id begins with it when `db` is gone."""
    with undisturbed(world):
        ident = world.inspect(world.a, "app")["Id"]
        refused(world, 10, ident[:4], name=ident[:4])
        refused(world, 20, "nowhere", name=ident[:12], to="nowhere")


def test_stopped_container(world: World) -> None:
    with undisturbed(world):
        world.a.run(["docker", "create", "--name", "still", "workloads", *COUNTER])
        refused(world, 11, "still", name="still")


def test_paused_container(world: World) -> None:
    with undisturbed(world):
        world.start(world.a, "paused", COUNTER)
        world.a.run(["docker", "pause", "paused"])
        refused(world, 12, "paused", name="paused")
        assert world.state(world.a, "paused") == "paused"


def test_not_a_host(world: World) -> None:
    with undisturbed(world):
        refused(world, 2, to="b:99999")


def test_unknown_host(world: World) -> None:
    with undisturbed(world):
        refused(world, 20, "nowhere", to="nowhere")


def test_host_that_does_not_listen(world: World) -> None:
    with undisturbed(world):
        refused(world, 20, to="b:2222")


@contextmanager
def changed(host: LabHost, path: str, text: str) -> Iterator[None]:
    """A file of a host has another content for a while."""
    before = host.path(path).read_text()
    host.path(path).write_text(text)
    try:
        yield
    finally:
        host.path(path).write_text(before)


def test_unknown_host_key(world: World) -> None:
    with undisturbed(world), changed(world.a, "/root/.ssh/known_hosts", ""):
        refused(world, 21, "b")


def test_wrong_host_key(world: World) -> None:
    known = world.a.path("/root/.ssh/known_hosts").read_text()
    key_of_a = next(line for line in known.splitlines() if line.startswith("a,")).split()[2]
    wrong = f"b,{world.b.address} ssh-ed25519 {key_of_a}\n"
    with undisturbed(world), changed(world.a, "/root/.ssh/known_hosts", wrong):
        refused(world, 21, "b")


def test_key_not_accepted(world: World) -> None:
    with undisturbed(world), changed(world.b, "/root/.ssh/authorized_keys", ""):
        refused(world, 22)


@contextmanager
def moved_away(host: LabHost, path: str) -> Iterator[None]:
    host.sh(f"mv {path} {path}.away")
    try:
        yield
    finally:
        host.sh(f"mv {path}.away {path}")


def test_host_without_the_tool(world: World) -> None:
    with undisturbed(world), moved_away(world.b, "/usr/local/bin/migrate"):
        refused(world, 23, "not installed")


def test_another_version_of_the_protocol(world: World) -> None:
    file = "/opt/migrate/lib/python3*/site-packages/migrate/protocol.py"
    with undisturbed(world):
        world.b.sh(f"sed -i.keep 's/^PROTOCOL_VERSION = .*/PROTOCOL_VERSION = 999/' {file}")
        try:
            refused(world, 24, "999")
        finally:
            world.b.sh(f"for f in {file}; do mv $f.keep $f; done")


def test_host_without_the_runtime(world: World) -> None:
    with undisturbed(world):
        world.b.run(["migrate", "setup", "--undo"])
        try:
            refused(world, 31)
        finally:
            world.b.run(["migrate", "setup"])


@contextmanager
def broken_criu(host: LabHost) -> Iterator[None]:
    """A CRIU that says its version, but cannot restore: as Debian 13's own on this kernel."""
    script = (
        '#!/bin/sh\ncase "$*" in *restore*) for w; do last=$d; d=$w; done;'
        " echo '(00.1) Error (criu/vdso.c:381): vdso: Unexpected rt vDSO area bounds'"
        ' > restore.log; exit 1;; esac\nexec /usr/sbin/criu.real "$@"\n'
    )
    host.sh("mv /usr/sbin/criu /usr/sbin/criu.real; mv /var/lib/migrate/criu-probe.json /tmp/")
    host.write("/usr/sbin/criu", script, mode=0o755)
    try:
        yield
    finally:
        host.sh("mv /usr/sbin/criu.real /usr/sbin/criu; mv /tmp/criu-probe.json /var/lib/migrate/")


def test_host_with_a_criu_that_cannot_restore(world: World) -> None:
    with undisturbed(world), broken_criu(world.b):
        refused(world, 32, "CRIU")


def test_dockerd_is_down(world: World) -> None:
    with undisturbed(world), moved_away(world.b, "/var/run/docker.sock"):
        refused(world, 33)


def test_name_taken_by_a_running_container(world: World) -> None:
    world.start(world.b, "app", COUNTER)
    with undisturbed(world):
        refused(world, 40, "app")
        refused(world, 40, "app", options=("--force",))


def test_name_taken_by_a_stopped_container(world: World) -> None:
    world.have_image(world.b)
    old = world.b.run(["docker", "create", "--name", "app", "workloads", "true"]).stdout.strip()
    with undisturbed(world):
        refused(world, 40, "app")
    world.migrate(world.a, "app", world.b, "--force")
    assert world.inspect(world.b, "app")["Id"] != old
    assert not world.b.run(["docker", "inspect", old], check=False).ok
    world.wait_for_output(world.b, "app")


def test_a_replaced_container_comes_back_when_the_migration_fails(world: World) -> None:
    world.have_image(world.b)
    old = world.b.run(["docker", "create", "--name", "app", "workloads", "true"]).stdout.strip()
    with undisturbed(world), failing_restore(world.b):
        refused(world, 54, "CRIU", options=("--force",))
    assert world.inspect(world.b, "app")["Id"] == old


@contextmanager
def failing_restore(host: LabHost) -> Iterator[None]:
    """CRIU passes its probe, but fails on the container: its images are damaged on the way in."""
    script = (
        '#!/bin/sh\n[ "$1" = swrk ] && for f in /run/migrate/sessions/*/images/core-1.img; do'
        ' [ -e "$f" ] && echo garbage > "$f"; done\nexec /usr/sbin/criu.real "$@"\n'
    )
    host.sh("migrate check >/dev/null; cp /var/lib/migrate/criu-probe.json /tmp/keep.json")
    host.sh("mv /usr/sbin/criu /usr/sbin/criu.real")
    host.write("/usr/sbin/criu", script, mode=0o755)
    try:
        yield
    finally:
        host.sh("mv /usr/sbin/criu.real /usr/sbin/criu; cp /tmp/keep.json /var/lib/migrate/"
                "criu-probe.json")  # fmt: skip


def test_a_damaged_checkpoint_is_said_in_criu_s_words(world: World) -> None:
    with undisturbed(world), failing_restore(world.b):
        said = refused(world, 54, "CRIU cannot restore")
        log = world.a.run(["cat", f"{said['logs']}/restore.log"]).stdout
        assert "Error (criu/" in log, "CRIU's own words are kept, and it is said where"
        assert "Dumping task" in world.a.run(["cat", f"{said['logs']}/dump.log"]).stdout


def test_network_with_another_subnet(world: World) -> None:
    other = SUBNET.replace("10.99.0", "10.98.0")
    world.b.run(["docker", "network", "create", "--subnet", other, NETWORK])
    try:
        with undisturbed(world):
            world.a.run(["docker", "network", "create", "--subnet", SUBNET, NETWORK])
            world.start(world.a, "netted", COUNTER, "--network", NETWORK)
            refused(world, 42, SUBNET, name="netted")
    finally:
        world.a.sh(f"docker rm -f netted; docker network rm {NETWORK}")
        world.b.run(["docker", "network", "rm", NETWORK])


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["-v", "/tmp:/host"], "/host"),
        (["--network", "host"], "network"),
        (["--privileged"], "privileged"),
        (["--pid", "host"], "process"),
        (["-t"], "terminal"),
        (["-v", "full:/full"], "full"),
    ],
)
def test_what_cannot_be_moved(world: World, options: list[str], word: str) -> None:
    with undisturbed(world):
        world.start(world.a, "odd", ["sh", "-c", "echo x > /full/x; while :; do sleep 1; done"],
                    *options)  # fmt: skip
        refused(world, 12, word, name="odd")
        world.a.run(["docker", "rm", "-f", "odd"])


def test_an_empty_volume_is_made_anew(world: World) -> None:
    before = world.a.sh("docker volume ls -q").split()
    world.start(world.a, "vol", COUNTER, "-v", "empty:/empty", "-v", "/anonymous")
    world.migrate(world.a, "vol", world.b)
    world.wait_for_output(world.b, "vol")
    assert world.b.sh("docker exec vol ls /empty") == ""
    there = {m["Destination"]: m["Name"] for m in world.inspect(world.b, "vol")["Mounts"]}
    assert there["/empty"] == "empty"
    assert len(there["/anonymous"]) == 64
    # A volume without a name goes with its container.
    assert set(world.a.sh("docker volume ls -q").split()) == {*before, "empty"}


def test_usage_errors(world: World) -> None:
    assert world.a.run(["migrate"], check=False).returncode == 2
    assert world.a.run(["migrate", "app"], check=False).returncode == 2
    assert world.a.run(["migrate", "app", "b", "--nonsense"], check=False).returncode == 2


def test_open_connections_on_the_default_bridge(world: World) -> None:
    """There it cannot keep its address: said beforehand, not found out by a failed restore."""
    with undisturbed(world):
        script = f"import socket, time; s = socket.create_connection(('{world.b.address}', 22));"
        world.start(world.a, "talks", ["python3", "-c", f"{script} time.sleep(1000)"])
        eventually(
            lambda: "0016" in world.a.sh("docker exec talks cat /proc/net/tcp"), "not connected"
        )
        refused(world, 12, "open TCP connections", name="talks")
        world.a.run(["docker", "rm", "-f", "talks"])
