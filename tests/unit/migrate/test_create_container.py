"""migrate.create_container: what is noted before `docker create`, and how it is undone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from migrate.create_container import create
from migrate.errors import DockerUnavailable, NameTaken, PlacementFailed
from migrate.journal import Header, Journal
from migrate.placement import ImagePlan, Placement
from migrate.undo import RemoveContainer, RemoveUnborn, RemoveVolume
from tests.unit.migrate.fleet import candidate
from transport.errors import Failure

NAMES = ("first", "second")


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal.create(Header("a" * 16, "destination", "c" * 64, "app", "hosta", 0.0), tmp_path)


def begun() -> Any:
    spec = candidate("app").spec
    mounts = [{"Type": "volume", "Target": f"/{name}", "Source": name} for name in NAMES]
    spec = msgspec.structs.replace(
        spec, host_config={"Mounts": mounts}, restart_policy={"Name": "always"}
    )
    return SimpleNamespace(spec=spec, connections=0)


def placed() -> Placement:
    return Placement(remove=(), networks=(), image=ImagePlan("app:1", send=False), volumes=NAMES)


def test_all_is_noted_before_it_is_made(journal: Journal) -> None:
    before = []
    bodies = []

    def make(body: dict[str, Any], name: str) -> str:
        before.extend(journal.steps)
        bodies.append((body, name))
        return "new"

    docker: Any = SimpleNamespace(api_version="1.51", create_container=make)
    assert create(docker, journal, begun(), placed(), "app:1") == "new"
    volumes = [RemoveVolume(name) for name in NAMES]
    assert before[:-1] == volumes
    assert isinstance(before[-1], RemoveUnborn)
    # The container goes first when it is undone, and with it what holds the volumes.
    assert journal.steps == [*volumes, RemoveContainer("new")]
    ((body, name),) = bodies
    assert name == "app"
    assert body["HostConfig"]["RestartPolicy"] == {"Name": "no"}


def test_volumes_of_a_create_that_failed_are_noted(journal: Journal) -> None:
    def make(body: dict[str, Any], name: str) -> str:
        raise PlacementFailed("no")

    docker: Any = SimpleNamespace(api_version="1.51", create_container=make)
    with pytest.raises(PlacementFailed):
        create(docker, journal, begun(), placed(), "app:1")
    assert [step for step in journal.steps if isinstance(step, RemoveVolume)] == [
        RemoveVolume(name) for name in NAMES
    ]


@pytest.mark.parametrize(
    ("failure", "noted"),
    [(NameTaken("no"), 0), (PlacementFailed("no"), 0), (DockerUnavailable("?"), 1)],
)
def test_the_container_of_another_migration_is_not_removed(
    journal: Journal, failure: Failure, noted: int
) -> None:
    """Both have the name, both are of our runtime and just made; only one who does not know whether
    it has made one may look for it."""

    def make(body: dict[str, Any], name: str) -> str:
        raise failure

    docker: Any = SimpleNamespace(api_version="1.51", create_container=make)
    with pytest.raises(type(failure)):
        create(docker, journal, begun(), placed(), "app:1")
    assert sum(isinstance(step, RemoveUnborn) for step in journal.steps) == noted


def test_an_image_that_is_not_there(journal: Journal) -> None:
    with pytest.raises(PlacementFailed, match="image"):
        create(SimpleNamespace(), journal, begun(), placed(), "")  # type: ignore[arg-type]
    assert journal.steps == []
