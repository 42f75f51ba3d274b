"""Fixtures of the end-to-end tests. They need root and the lab (tests/lab)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.world import PAIRS, World
from tests.e2e.world import world as make_world

HERE = Path(__file__).parent
TIMEOUT = 400  # seconds for one test and its hosts' making: for one that hangs, not for a slow one


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(TIMEOUT))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--pair", choices=sorted(PAIRS), default=None,
        help="run every end-to-end test on this pair of Docker flavours",
    )  # fmt: skip


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Hosts a and b, and a client. The pair: --pair, else the module's parameter, else mixed."""
    pair = request.config.getoption("--pair") or getattr(request, "param", None) or "mixed"
    with make_world("e2e", pair) as made:
        yield made


@pytest.fixture(autouse=True)
def _clean(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test leaves anything behind on the hosts; containers of tests are removed here."""
    yield
    if "world" not in request.fixturenames:
        return
    made: World = request.getfixturevalue("world")
    for host in (made.a, made.b):
        host.sh("docker ps -aq | xargs -r docker rm -f >/dev/null 2>&1", check=False)
        # What a failed test left must not fail the next one.
        host.sh("rm -rf /var/lib/migrate/journal/* /run/migrate/pending/*", check=False)
