"""`migrate-runc` by itself: `docker start` of a pending restore, and all the ways it can fail.

No agent takes part: the checkpoint is made on host a, copied by hand, and left for the runtime.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.world import World, assert_continuous, eventually, numbers
from tests.lab.host import LabHost

COUNTER = ["sh", "/workloads/counter.sh"]
IMAGES, WORK = "/var/tmp/images", "/var/tmp/work"
DUMP = f"""
import sys
from pathlib import Path
import json
from migrate.criu import Dumper
from migrate.docker_host import DockerHost
from migrate.source_view import look
from migrate.std_streams import find_streams, parent_of
from migrate.undo import freeze, thaw
for name in ("{IMAGES}", "{WORK}"):
    Path(name).mkdir(parents=True, exist_ok=True)
view = look(DockerHost(), sys.argv[1])
streams = find_streams(view.target.pid, parent_of(view.target.pid))
Path("{IMAGES}", "descriptors.json").write_text(json.dumps(streams.links))
dumper = Dumper(
    view.target, Path("{IMAGES}"), Path("{WORK}"), tcp="established", streams=streams
)
dumper.start()
dumper._options.lazy_pages = False  # with its memory: no agent brings it
freeze(view.target.freezer)
dumper.dump()
dumper.finish()
dumper.close()
thaw(view.target.freezer)
"""


def checkpoint(world: World, host: LabHost) -> list[int]:
    """Dump the container `app` and end it; gives the numbers it had printed."""
    world.start(host, "app", COUNTER)
    world.wait_for_output(host, "app")
    host.sh(f"rm -rf {IMAGES} {WORK}")
    host.write("/root/dump.py", DUMP)
    host.run(["/opt/migrate/bin/python3", "/root/dump.py", "app"])
    host.run(["docker", "kill", "app"])
    return numbers(world.logs(host, "app"))


def pend(world: World, host: LabHost, **settings: object) -> str:
    """Create the container `again` from the same image, with a pending restore. Gives its id."""
    host.sh("docker commit app again-image >/dev/null")
    made = host.run(["docker", "create", "--name", "again", "--runtime", "migrate",
                     "--hostname", world.inspect(host, "app")["Config"]["Hostname"],
                     "again-image", *COUNTER]).stdout.strip()  # fmt: skip
    pending = {"images": IMAGES, "work": WORK, "criu_options": ["file-locks"], **settings}
    host.sh(f"mkdir -p -m 700 /run/migrate/pending/{made}")
    host.write(f"/run/migrate/pending/{made}/pending.json", json.dumps(pending))
    return made


@pytest.fixture
def host(world: World) -> LabHost:
    return world.b


def fails(world: World, host: LabHost, *words: str) -> None:
    """`docker start again` fails with these words, and leaves nothing running or mounted."""
    started = host.run(["docker", "start", "again"], check=False)
    assert started.returncode != 0
    for word in words:
        assert word in started.stderr, started.stderr
    assert world.state(host, "again") in ("created", "exited")
    host.run(["docker", "rm", "-f", "again"])
    world.assert_clean()
    names = "ps -eo args | grep -E 'counter[.]sh|criu|migrate[.]runtime' | grep -v grep"
    eventually(lambda: host.sh(names, check=False) == "", "it runs",
               lambda: host.sh(names, check=False))  # fmt: skip
    # The host is as good as new: an ordinary container starts, with the same runtime, too.
    assert host.sh("docker run --rm --runtime migrate workloads echo well") == "well"


def test_restored_by_docker_start(world: World, host: LabHost) -> None:
    before = checkpoint(world, host)
    pend(world, host)
    host.run(["docker", "start", "again"])
    world.wait_for_output(host, "again")
    host.run(["docker", "stop", "-t", "30", "again"])
    after = numbers(world.logs(host, "again"))
    assert 0 <= before[-1] - after[0] + 1 <= before[-1], "it went on, and did not begin anew"
    assert after[0] > 1
    assert_continuous(after)
    world.assert_clean()
    # Once restored it is an ordinary container: a second start begins anew.
    host.run(["docker", "start", "again"])
    eventually(lambda: 1 in numbers(world.logs(host, "again"))[len(after) :], "no fresh start")


def test_damaged_image(world: World, host: LabHost) -> None:
    checkpoint(world, host)
    pend(world, host)
    host.sh(f"echo garbage > {IMAGES}/core-1.img")
    fails(world, host, "CRIU cannot restore", "core")


def test_missing_image(world: World, host: LabHost) -> None:
    checkpoint(world, host)
    pend(world, host)
    host.sh(f"rm {IMAGES}/pages-1.img")
    fails(world, host, "CRIU cannot restore")


def test_missing_file_of_the_container(world: World, host: LabHost) -> None:
    checkpoint(world, host)
    host.sh("docker start app; docker exec app rm /workloads/counter.sh; docker kill app")
    pend(world, host)
    fails(world, host, "counter.sh")


def test_full_disk(world: World, host: LabHost) -> None:
    """No room for what the runtime itself must write (a file system without a free inode)."""
    checkpoint(world, host)
    pending = "/run/migrate/pending"
    host.sh(f"mkdir -p {pending}; mount -t tmpfs -o nr_inodes=4 tmpfs {pending}")
    try:
        pend(world, host)
        started = host.run(["docker", "start", "again"], check=False)
        assert "No space left" in started.stderr
        host.run(["docker", "rm", "-f", "again"])
    finally:
        host.sh(f"umount -l {pending}")
    assert started.returncode != 0
    world.assert_clean()


@contextmanager
def slow_criu(host: LabHost) -> Iterator[None]:
    """A CRIU that hangs when it is to restore."""
    script = (
        '#!/bin/sh\n[ "$1" = swrk ] && [ -e /tmp/hang ] && exec sleep 1000\n'
        'exec /usr/sbin/criu.real "$@"\n'
    )
    host.sh("mv /usr/sbin/criu /usr/sbin/criu.real")
    host.write("/usr/sbin/criu", script, mode=0o755)
    host.sh("touch /tmp/hang")
    try:
        yield
    finally:
        host.sh("mv /usr/sbin/criu.real /usr/sbin/criu; rm -f /tmp/hang")
        host.sh("pkill -KILL -f 'sleep 100[0]'", check=False)  # else the next test takes it for its


def hangs(world: World, host: LabHost) -> None:
    """Wait until CRIU is to restore, and hangs: all that is before it runs then."""
    world.eventually(
        lambda: host.sh("pgrep -f 'sleep 100[0]'", check=False) != "", "nothing is restored"
    )


def test_timeout(world: World, host: LabHost) -> None:
    checkpoint(world, host)
    pend(world, host, restore_timeout=2)
    with slow_criu(host):
        began = time.monotonic()
        started = host.run(["docker", "start", "again"], check=False)
        assert started.returncode != 0
        assert "within 2 s" in started.stderr
        assert time.monotonic() - began < 60
    host.run(["docker", "rm", "-f", "again"])
    world.assert_clean()


@pytest.mark.parametrize("victim", ["runc[ ].*restore", "migrate.runtim[e]"])
def test_death_in_the_middle(world: World, host: LabHost, victim: str) -> None:
    checkpoint(world, host)
    pend(world, host)
    with slow_criu(host):
        starting = host.popen(["docker", "start", "again"])
        hangs(world, host)
        host.run(["pkill", "-KILL", "-f", victim])
        _, err = starting.communicate(timeout=120)
        assert starting.returncode != 0, err
    host.run(["docker", "rm", "-f", "again"])
    world.assert_clean()


def test_removal_while_it_is_pending(world: World, host: LabHost) -> None:
    """Docker lets `rm` wait for the start under way, which ends with its time limit."""
    checkpoint(world, host)
    pend(world, host, restore_timeout=4)
    with slow_criu(host):
        starting = host.popen(["docker", "start", "again"])
        hangs(world, host)
        host.run(["docker", "rm", "-f", "again"])
        starting.communicate(timeout=120)
    world.assert_clean()
