"""The lab itself: what it makes is real, can be bent, and leaves nothing behind."""

from __future__ import annotations

import time
from pathlib import Path

from migrate.run import run
from tests.lab.host import HostSpec
from tests.lab.lab import PREFIX, STATE, Lab, lab

NAME = "e2elab"


def traces() -> list[str]:
    """Everything on this machine that belongs to the lab."""
    found = [line for line in run(["ip", "netns"]).stdout.split() if f"{PREFIX}-{NAME}" in line]
    found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/{PREFIX}-{NAME}*")]
    found += [
        line for line in Path("/proc/self/mountinfo").read_text().splitlines() if NAME in line
    ]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if f"/{NAME}/hosts/".encode() in words:
            found.append(f"{process.name} {words!r}")
    found += [str(path) for path in (STATE / NAME, *STATE.glob(f"{NAME}*")) if path.exists()]
    return found


def test_a_lab_leaves_nothing_behind() -> None:
    with lab(NAME, HostSpec("a"), HostSpec("b", "forky")) as made:
        a, b = made["a"], made["b"]
        assert traces()
        assert "26." in a.sh("docker version --format '{{.Server.Version}}'")
        assert "28." in b.sh("docker version --format '{{.Server.Version}}'")
        assert a.sh("ssh b hostname") == "b"
        # A frozen container and a program in the background are the hard cases.
        a.sh("mkdir /tmp/i; cp /bin/busybox /tmp/i/sh; tar -C /tmp/i -c . | docker import - i")
        a.sh("docker run -d --name frozen i /sh -c 'while :; do :; done'; docker pause frozen")
        a.spawn(["sleep", "1000"], "sleep")
        made.switch.cut("b")
        assert not a.run(["ping", "-c1", "-W1", "b"], check=False).ok or not a.run(
            ["ssh", "-o", "ConnectTimeout=1", "b", "true"], check=False).ok  # fmt: skip
        made.switch.heal("b", b.netns)
        assert a.sh("ssh b hostname") == "b"
    assert not traces()


def test_a_link_has_the_bandwidth_that_it_is_given() -> None:
    with lab(NAME, HostSpec("a", docker=False), HostSpec("b", docker=False)) as made:
        a, b = made["a"], made["b"]
        copy = "head -c 4000000 /dev/urandom | ssh b 'cat > /dev/null'"

        def seconds() -> float:
            begun = time.monotonic()
            a.sh(copy)
            return time.monotonic() - begun

        free = seconds()
        made.switch.rate("b", b.netns, 10)
        assert seconds() > max(2.5, free), "4 MB take 3.2 s at 10 Mbit/s"
        made.switch.rate("b", b.netns, None)
        made.switch.loss(b.netns, 100)
        assert not a.run(["ssh", "-o", "ConnectTimeout=2", "b", "true"], check=False).ok
        made.switch.loss(b.netns, None)
        assert a.run(["ssh", "b", "true"]).ok


def test_another_process_can_use_and_end_a_lab() -> None:
    with lab(NAME, HostSpec("a", docker=False)):
        again = Lab.open(NAME)
        assert again["a"].sh("hostname") == "a"
        again.down()
        assert not traces()
    assert not traces()
