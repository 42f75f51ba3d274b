"""migrate.candidates: who is meant, and what compose says of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate import candidates
from migrate.candidates import Wish, choose, cpu_ticks, dependencies, look_at, name_of, unmatched
from migrate.errors import (
    ContainerNotFound,
    ContainerNotRunning,
    DockerUnavailable,
    PlacementFailed,
    Unsupported,
)
from tests.unit.migrate.fleet import FACTS

LABELS = "com.docker.compose."


def listed(name: str, state: str = "running", **labels: str) -> dict[str, Any]:
    return {"Id": f"id-{name}", "Names": [f"/{name}"], "State": state, "Labels": labels or None}


ALL = [
    listed("web", **{LABELS + "project": "shop", "tier": "front"}),
    listed("db", **{LABELS + "project": "shop", "tier": "back"}),
    listed("blog", **{LABELS + "project": "blog", "tier": ""}),
    listed("alone"),
    listed("paused", "paused"),
    listed("old", "exited"),
    listed("new", "created"),
]


@pytest.mark.parametrize(
    ("wish", "names"),
    [
        (Wish(), ["alone", "blog", "db", "paused", "web"]),
        (Wish(names=("w*", "db")), ["db", "web"]),
        (Wish(names=("[!a]*",), exclude=("p*", "db")), ["blog", "web"]),
        (Wish(labels=("tier",)), ["blog", "db", "web"]),
        (Wish(labels=("tier=front", "tier=back")), ["db", "web"]),
        (Wish(labels=("tier=",)), ["blog"]),
        (Wish(projects=("shop", "none")), ["db", "web"]),
        (Wish(projects=("shop",), names=("w*",), labels=("tier=front",)), ["web"]),
        (Wish(projects=("shop",), exclude=("*",)), []),
        (Wish(names=("old", "new")), []),
    ],
)
def test_who_is_meant(wish: Wish, names: list[str]) -> None:
    assert choose(ALL, wish) == names


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (Wish(), []), (Wish(names=("w*",)), []),
        (Wish(names=("w*", "wbe*")), ["--name wbe*"]),
        (Wish(names=("old",)), ["--name old"]),  # it does not run
        (Wish(labels=("tier=fornt", "tier")), ["--label tier=fornt"]),
        (Wish(projects=("shpo",), labels=("x",)), ["--label x", "--project shpo"]),
        (Wish(projects=("shop",), names=("blog",)), ["left by --name, --project together"]),
        (Wish(names=("w*",), exclude=("web",)), ["left by --name, --exclude together"]),
        (Wish(exclude=("*",)), []), (Wish(projects=("shop",), names=("w*",)), []),
    ],
)  # fmt: skip
def test_what_matches_nothing_is_said(wish: Wish, said: list[str]) -> None:
    found = unmatched(ALL, wish)
    assert len(found) == len(said)
    for sentence, words in zip(found, said, strict=True):
        assert sentence.startswith("no running container ")
        assert sentence.endswith(words)


@given(st.permutations(ALL))
def test_the_order_of_docker_means_nothing(items: list[dict[str, Any]]) -> None:
    assert choose(items, Wish()) == choose(ALL, Wish())


def test_a_link_is_not_a_name() -> None:
    assert name_of({"Id": "x", "Names": ["/proxy/web", "/web"]}) == "web"
    assert name_of({"Id": "x", "Names": None}) == "x"


@pytest.mark.parametrize(
    ("label", "services"),
    [
        ("", ()), ("db:service_started:false", ("db",)),
        ("db:service_healthy:true,cache:service_started:false", ("cache", "db")),
        ("db", ("db",)), (" db : x , ,", ("db",)),
    ],
)  # fmt: skip
def test_dependencies(label: str, services: tuple[str, ...]) -> None:
    assert dependencies({LABELS + "depends_on": label}) == services
    assert dependencies({}) == ()


def test_ticks_are_those_of_the_kernel(tmp_path: Path) -> None:
    begun = os.times()
    while os.times().user - begun.user < 0.1:
        sum(range(1000))
    ours = cpu_ticks(os.getpid())
    spent = (os.times().user + os.times().system) * os.sysconf("SC_CLK_TCK")
    assert abs(ours - spent) <= 3
    assert cpu_ticks(4711, tmp_path) == 0
    (tmp_path / "4711").mkdir()
    (tmp_path / "4711/stat").write_text("1 (a) b) (c) S " + " ".join(map(str, range(1, 30))))
    assert cpu_ticks(4711, tmp_path) == 11 + 12


# -- those that go while they are looked at -------------------------------------------------------


class Docker:
    """Says of each container what has become of it by the end."""

    def __init__(self, **states: Any) -> None:
        self._states = states

    def inspect_container(self, name: str) -> dict[str, Any]:
        state = self._states.get(name)
        if isinstance(state, Exception):
            raise state
        if state is None:
            raise ContainerNotFound(f"no such container: {name}")
        return {"State": state, "Config": {"Labels": {LABELS + "project": "shop"}}}


def looked(
    monkeypatch: pytest.MonkeyPatch, docker: Docker, at: dict[str, Exception], where: str
) -> tuple[list[Any], dict[str, candidates.Immovable]]:
    """Look at `fine` and all of those, each of which makes that function raise its exception."""

    def at_that_point(function: str, result: Any) -> Any:
        def does(*given: Any) -> Any:
            (name,) = [one for one in given if isinstance(one, str) and one != "established"]
            if function == where and name in at:
                raise at[name]
            return name if function == "look" else result

        return does

    for function, result in (("look", ""), ("check_here", None), ("busy", 1)):
        monkeypatch.setattr(candidates, function, at_that_point(function, result))
    monkeypatch.setattr(candidates, "candidate", lambda view, cpu: view)
    monkeypatch.setattr(candidates, "SAMPLE", 0.01)
    found, immovable = look_at(docker, FACTS, [*at, "fine"], "established")  # type: ignore[arg-type]
    return found, {one.name: one for one in immovable}


@pytest.mark.parametrize("where", ["look", "check_here", "busy"])
@pytest.mark.parametrize(
    "why",
    [
        FileNotFoundError("/proc/7/mountinfo"), ProcessLookupError(3, "gone"),
        OSError(19, "no device"), ContainerNotFound("x"), ContainerNotRunning("x"),
        PlacementFailed("no such network"), IndexError("empty"),
    ],
)  # fmt: skip
def test_one_that_goes_meanwhile_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch, where: str, why: Exception
) -> None:
    docker = Docker(ended={"Running": False})
    found, immovable = looked(monkeypatch, docker, {"removed": why, "ended": why}, where)
    assert found == ["fine"]
    assert immovable["removed"].gone
    assert immovable["removed"].failure.code == "ContainerNotFound"
    assert immovable["ended"].gone
    assert immovable["ended"].failure.message == "`ended` has ended meanwhile"


def test_one_that_still_runs_stays_for_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    docker = Docker(
        odd={"Running": True}, bound={"Running": True}, mute=DockerUnavailable("no"),
        again={"Running": False, "Restarting": True},
    )  # fmt: skip
    reasons: dict[str, Exception] = {
        "odd": PermissionError(13, "not allowed"), "bound": Unsupported("a bind mount"),
        "mute": Unsupported("x"), "again": ContainerNotRunning("it restarts"),
    }  # fmt: skip
    found, immovable = looked(monkeypatch, docker, reasons, "look")
    assert found == ["fine"]
    assert not any(one.gone for one in immovable.values())
    assert "not allowed" in immovable["odd"].failure.message
    assert (immovable["bound"].failure.code, immovable["bound"].project) == ("Unsupported", "shop")
    assert immovable["mute"].failure.code == "Unsupported"
    assert immovable["again"].failure.message == "it restarts"
