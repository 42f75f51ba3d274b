"""Fixtures of the tests in virtual machines. They need root and QEMU (`./bootstrap.sh vm`)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.vm.pair import pair
from tests.vm.world import VmWorld

HERE = Path(__file__).parent
TIMEOUT = 900  # seconds for one test: for one that hangs, not for one that is slow


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(TIMEOUT))


@pytest.fixture(scope="session")
def booted() -> Iterator[VmWorld]:
    """Booting takes longer than most tests, so that all of them share one pair.

    Both machines get the image: to send it takes minutes here, and shows nothing that the lab does
    not show.
    """
    with pair("e2e") as made:
        world = VmWorld(made)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(world.have_image, (world.a, world.b)))
        yield world


@pytest.fixture
def world(booted: VmWorld) -> Iterator[VmWorld]:
    """Machines a and b, and a client; what a test has left on them is removed after it."""
    yield booted
    for host in (booted.a, booted.b):
        host.sh(
            "docker ps -aq | xargs -r docker rm -f >/dev/null 2>&1;"
            " rm -rf /var/lib/migrate/journal/* /run/migrate/pending/*",
            check=False,
        )
