"""migrate.sysctls: set in the container's network namespace and nowhere else."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrate.sysctls import of_network, set_within

RANGE = "net.ipv4.ip_local_port_range"


def test_only_those_of_the_network() -> None:
    asked = {RANGE: "1 2", "kernel.shmmax": "3", "network": "4", "net.core.somaxconn": 5}
    assert of_network({"linux": {"sysctl": asked}}) == {RANGE: "1 2", "net.core.somaxconn": "5"}
    assert of_network({"linux": {"sysctl": None}}) == of_network({}) == {}


@pytest.fixture
def other() -> Iterator[int]:
    """A process with a network namespace of its own."""
    if os.geteuid() != 0:
        pytest.skip("a network namespace needs root")
    process = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo up; exec sleep 100"], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def within(pid: int, name: str) -> str:
    path = "/proc/sys/" + name.replace(".", "/")
    return subprocess.run(
        ["nsenter", f"--net=/proc/{pid}/ns/net", "cat", path],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip


def test_they_are_set_there_and_not_here(other: int) -> None:
    here = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    missing = set_within(other, {
        RANGE: "20000\t20100", "net.core.somaxconn": "77", "net.ipv4.conf.eth7.rp_filter": "2",
    })  # fmt: skip
    assert within(other, RANGE).split() == ["20000", "20100"]
    assert within(other, "net.core.somaxconn") == "77"
    assert Path("/proc/sys/net/ipv4/ip_local_port_range").read_text() == here
    # Its interface may come later.
    assert missing == {"net.ipv4.conf.eth7.rp_filter": "2"}
    subprocess.run(
        ["nsenter", f"--net=/proc/{other}/ns/net", "ip", "link", "add", "eth7", "type", "bridge"],
        check=True,
    )
    assert set_within(other, missing) == {}
    assert within(other, "net.ipv4.conf.eth7.rp_filter") == "2"


def test_what_the_kernel_refuses_is_said(other: int) -> None:
    with pytest.raises(OSError, match=r"Invalid argument for net\.core\.somaxconn=lots"):
        set_within(other, {"net.core.somaxconn": "lots"})


def test_a_process_that_is_gone(other: int) -> None:
    assert set_within(2**22 + 1, {}) == {}
    with pytest.raises(FileNotFoundError):
        set_within(2**22 + 1, {RANGE: "1 2"})
