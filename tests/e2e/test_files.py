"""The writable layer arrives as the container left it, with an image the destination lacked."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.world import IMAGE, Hosts, World, eventually

WORK = "/data"
FILES = ["python3", "/workloads/files.py", WORK, "/workloads"]


def states(lines: list[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in lines if line.startswith("{")]


def test_files_are_as_the_program_left_them(world: World) -> None:
    to_and_fro(world, 4)


def to_and_fro(world: Hosts[Any], hops: int, *, sends_image: bool = True) -> None:
    """The program says what it believes, and finds it so, before and after each move.

    `sends_image`: the other host has none, and gets it with the first move.
    """
    world.start(world.a, "files", FILES)
    world.eventually(lambda: len(world.logs(world.a, "files")) > 3, "the workload does not start")
    here, there = world.a, world.b
    if sends_image:
        there.run(["docker", "rmi", "-f", IMAGE], check=False)
    for number in range(hops):
        summary = world.migrate(here, "files", there)
        first = sends_image and number == 0
        assert summary["image_sent"] == first, "the image goes once, and is kept there"
        here, there = there, here
        world.wait_for_output(here, "files")
        seen = states(world.logs(here, "files"))
        assert all(state["believed"] == state["actual"] for state in seen)
        assert not [state for state in seen if state["broken"]]
    last = states(world.logs(here, "files"))[-1]
    assert last["believed"] == last["actual"]
    world.assert_clean()


def test_a_changed_file_is_noticed(world: World) -> None:
    """The negative control: the program complains when its files are not as it left them."""
    world.start(world.a, "files", FILES)
    eventually(lambda: len(world.logs(world.a, "files")) > 3, "the workload does not start")
    world.a.sh(f"docker exec files sh -c 'find {WORK} -type f -name \"*.log\" | head -1 > /tmp/f;"
               f" find {WORK} -type f | head -1 | xargs sh -c \"echo x >> \\$0\"'")  # fmt: skip
    eventually(
        lambda: any(
            state["broken"] or state["believed"] != state["actual"]
            for state in states(world.logs(world.a, "files"))
        ),
        "a changed file goes unnoticed",
    )


def test_what_it_has_written_into_dockers_own_files(world: World) -> None:
    """They are bind mounts, in neither the layer nor CRIU's images; Docker makes them anew."""
    world.start(
        world.a, "own", ["sh", "-c", "while :; do sleep 1; done"], "--add-host", "x:1.1.1.1"
    )
    write = "echo 10.9.8.7 db >> /etc/hosts; echo nameserver 10.9.8.6 > /etc/resolv.conf"
    world.a.run(["docker", "exec", "own", "sh", "-c", write])

    def words(host: Any, path: str) -> list[list[str]]:
        text = host.run(["docker", "exec", "own", "cat", path]).stdout
        return [line.split() for line in text.splitlines()]

    before = words(world.a, "/etc/hosts")
    for here, there in ((world.a, world.b), (world.b, world.a)):
        world.migrate(here, "own", there)
        now = words(there, "/etc/hosts")
        # `fe00::0` became `fe00::`, and the container's own address may be another.
        same = [line for line in before if line[0][:2] not in ("fe", "ff", "17")]
        assert [line for line in now if line[0][:2] not in ("fe", "ff", "17")] == same
        assert now.count(["10.9.8.7", "db"]) == now.count(["1.1.1.1", "x"]) == 1
        assert words(there, "/etc/resolv.conf") == [["nameserver", "10.9.8.6"]]
    world.assert_clean()


@pytest.mark.parametrize("size", [8, 64])
def test_a_writable_layer_of_many_megabytes(world: World, size: int) -> None:
    """What was written long ago goes before the freeze; deletions and links arrive, too."""
    world.start(world.a, "layer", ["sh", "-c", "while :; do sleep 1; done"])
    world.a.sh(
        f"docker exec layer sh -c 'dd if=/dev/urandom of=/big bs=1M count={size} 2>/dev/null;"
        " rm -rf /usr/lib/python3*/json /workloads/family.sh; mkdir /usr/lib/python3.13/json;"
        " echo new > /usr/lib/python3.13/json/only; ln /big /hard; ln -s /big /soft;"
        " chmod 4755 /usr/bin/busybox; touch -d 2001-02-03 /hard; mkfifo /pipe; printf x > /tmp/a'"
    )
    listing = "find / -xdev ! -path '/proc*' ! -path '/sys*' ! -path '/dev*' ! -path '/etc/*'"
    hashes = "md5sum /big /hard /soft /usr/bin/busybox /usr/lib/python3.13/json/only /tmp/a"
    script = f"{listing} | sort | md5sum; {hashes}; stat -c '%n %h %a %u %Y' /big /hard /pipe"
    before = world.a.run(["docker", "exec", "layer", "sh", "-c", script]).stdout
    summary = world.migrate(world.a, "layer", world.b)
    after = world.b.run(["docker", "exec", "layer", "sh", "-c", script]).stdout
    assert after == before
    assert summary["raw"] > size << 20
    assert summary["memory"] < 8 << 20, "the layer went before the freeze"
    world.assert_clean()
