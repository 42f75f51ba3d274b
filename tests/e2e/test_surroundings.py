"""What is around a container: volumes, sysctls, ports, disks of both hosts, and its own end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.test_bad_input import COUNTER, failing_restore, refused, undisturbed
from tests.e2e.world import World, assert_continuous, eventually, numbers
from tests.lab.host import LabHost

pytestmark = pytest.mark.parametrize("world", ["docker28"], indirect=True)

MOUNTPOINT = "docker volume inspect -f {{{{.Mountpoint}}}} {}"
JOURNAL = "/var/lib/migrate/journal"


@contextmanager
def unchanged(world: World) -> Iterator[None]:
    """No container, network, volume or image comes to B or goes from it; `app` on A runs on."""
    world.have_image(world.b)
    listing = "docker volume ls -q; docker images -q"
    before = world.b.sh(listing)
    with undisturbed(world):
        yield
    assert world.b.sh(listing) == before


def goes_on(world: World, name: str) -> None:
    """It runs on at A and has not missed anything."""
    world.wait_for_output(world.a, name)
    assert_continuous(numbers(world.logs(world.a, name)))


# -- volumes --------------------------------------------------------------------------------------


def test_a_volume_with_content_at_the_destination(world: World) -> None:
    world.b.sh(f"docker volume create kept; echo mine > $({MOUNTPOINT.format('kept')})/file")
    with unchanged(world):
        world.start(world.a, "vol", COUNTER, "-v", "kept:/kept")
        refused(world, 42, "`kept`", name="vol")
        goes_on(world, "vol")
    assert world.b.sh(f"cat $({MOUNTPOINT.format('kept')})/file").strip() == "mine"


def test_a_failed_move_leaves_no_volume_and_takes_none(world: World) -> None:
    world.b.sh("docker volume create there")
    with unchanged(world), failing_restore(world.b):
        volumes = ["-v", "fresh:/fresh", "-v", "there:/there", "-v", "/anonymous"]
        world.start(world.a, "vol", COUNTER, *volumes)
        refused(world, 54, name="vol")
        goes_on(world, "vol")


def test_a_volume_that_is_filled_on_the_way(world: World) -> None:
    with unchanged(world):
        world.start(world.a, "vol", COUNTER, "-v", "late:/late")
        fill = f"prepare=echo late > $({MOUNTPOINT.format('late')})/file"
        refused(world, 12, "volume", name="vol", options=("--hook", fill))
        goes_on(world, "vol")
        assert world.a.run(["docker", "exec", "vol", "cat", "/late/file"]).stdout == "late\n"


# -- sysctls --------------------------------------------------------------------------------------

SYSCTLS = {
    "net.core.somaxconn": "1234",
    "net.ipv4.ip_unprivileged_port_start": "81",
    "net.ipv4.tcp_keepalive_time": "77",
    "kernel.msgmax": "9000",
}
DEFAULTS = ("net.ipv4.ping_group_range", "net.ipv4.ip_unprivileged_port_start")  # Docker's own


@pytest.mark.parametrize("asked", [SYSCTLS, {}])
def test_sysctls_are_what_they_were(world: World, asked: dict[str, str]) -> None:
    def read(host: LabHost) -> dict[str, list[str]]:
        names = sorted({*asked, *DEFAULTS})
        files = ["/proc/sys/" + name.replace(".", "/") for name in names]
        said = host.run(["docker", "exec", "tuned", "cat", *files]).stdout.splitlines()
        return dict(zip(names, (line.split() for line in said), strict=True))

    options = [word for name, value in asked.items() for word in ("--sysctl", f"{name}={value}")]
    world.start(world.a, "tuned", COUNTER, *options)
    before = read(world.a)
    assert {name: [value] for name, value in asked.items()}.items() <= before.items()
    for source, target in ((world.a, world.b), (world.b, world.a)):
        world.migrate(source, "tuned", target)
        world.wait_for_output(target, "tuned")
        assert read(target) == before


# -- its end --------------------------------------------------------------------------------------


def test_a_container_that_ends_while_its_files_are_sent(world: World) -> None:
    with unchanged(world):
        script = (
            "dd if=/dev/urandom of=/big bs=1M count=12 2>/dev/null; trap 'exit 7' USR1; echo 1;"
            " while :; do sleep 0.1; done"
        )
        world.start(world.a, "brief", ["sh", "-c", script])
        eventually(lambda: world.logs(world.a, "brief") == ["1"], "the workload does not start")
        # Two seconds from the moment on at which the files begin to go, of the ten that they take.
        end = "prepare=(sleep 2; docker kill -s USR1 brief) >/dev/null 2>&1 &"
        world.lab.switch.rate("a", world.a.netns, 10)
        try:
            refused(world, 11, "`brief` has ended", name="brief", options=("--hook", end))
        finally:
            world.lab.switch.heal("a", world.a.netns)
        assert world.inspect(world.a, "brief")["State"]["ExitCode"] == 7


@pytest.mark.parametrize("options", [[], ["--rm"], ["--restart", "always"]])
def test_a_container_that_ends_just_before_pre_copy(world: World, options: list[str]) -> None:
    with unchanged(world):
        world.start(world.a, "brief", COUNTER, *options)
        # The init itself: what `docker kill` ends is not brought up again by the policy.
        end = "prepare=kill -9 $(docker inspect -f {{.State.Pid}} brief)"
        refused(world, 11, "`brief` has ended", name="brief", options=("--hook", end))
        if "always" in options:
            assert (
                world.inspect(world.a, "brief")["HostConfig"]["RestartPolicy"]["Name"] == "always"
            )
            eventually(lambda: world.state(world.a, "brief") == "running", "not brought up again")


# -- disks ----------------------------------------------------------------------------------------


@contextmanager
def no_room(host: LabHost, folder: str) -> Iterator[None]:
    """A folder is a file system of its own, and full."""
    host.sh(f"mkdir -p {folder}; mount -t tmpfs -o size=64k,mode=0700 full {folder};"
            f" dd if=/dev/zero of={folder}/filler bs=4k count=99 2>/dev/null || true")  # fmt: skip
    try:
        yield
    finally:
        host.sh(f"umount {folder}")


@pytest.mark.parametrize(("which", "said"), [("a", "this host"), ("b", "the destination")])
def test_no_room_for_the_journal(world: World, which: str, said: str) -> None:
    with unchanged(world), no_room(world.lab[which], JOURNAL):
        refused(world, 41, said, f"{JOURNAL}: 0 MiB free")


# -- the other host -------------------------------------------------------------------------------


def test_to_the_host_itself(world: World) -> None:
    with unchanged(world):
        refused(world, 2, "`a` is the host on which", to="a")
        fetched = world.a.run(["migrate", "fetch", "app", "a", "--json"], check=False)
        assert fetched.returncode == 2, fetched.stderr
        assert "`a` is the host on which" in json.loads(fetched.stdout)["message"]


HOLDER = (
    "import socket, sys, time; family, kind, address, port = sys.argv[1:];"
    "s = socket.socket(getattr(socket, family), getattr(socket, kind));"
    "s.bind((address, int(port))); listen = kind == 'SOCK_STREAM' and port != '18083';"
    "listen and s.listen(); print('held', flush=True); time.sleep(600)"
)


@pytest.mark.parametrize(
    ("publish", "family", "kind", "address", "port"),
    [
        ("18080:80", "AF_INET", "SOCK_STREAM", "127.0.0.1", "18080"),
        ("0.0.0.0:18081:80", "AF_INET6", "SOCK_STREAM", "::", "18081"),
        ("18082:80/udp", "AF_INET", "SOCK_DGRAM", "0.0.0.0", "18082"),
        ("18083:80", "AF_INET", "SOCK_STREAM", "0.0.0.0", "18083"),  # does not listen
    ],
)
def test_a_port_that_a_program_has(
    world: World, publish: str, family: str, kind: str, address: str, port: str
) -> None:
    log = f"holder-{port}"
    holder = world.b.spawn(["python3", "-c", HOLDER, family, kind, address, port], log)
    try:
        eventually(lambda: "held" in world.b.log(log), "nobody holds the port")
        with unchanged(world):
            world.start(world.a, "ported", COUNTER, "-p", publish)
            refused(world, 42, f"{port}/", "in use by a program", name="ported")
            goes_on(world, "ported")
    finally:
        holder.terminate()
        holder.wait(timeout=60)


def test_a_port_at_an_address_of_this_host_alone(world: World) -> None:
    with unchanged(world):
        world.start(world.a, "ported", COUNTER, "-p", f"{world.a.address}:18084:80")
        refused(world, 42, world.a.address, "no address of the destination", name="ported")
        goes_on(world, "ported")
