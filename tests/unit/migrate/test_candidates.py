"""migrate.candidates: who is meant, and what compose says of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.candidates import Wish, choose, cpu_ticks, dependencies, name_of

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
    ours = cpu_ticks(Path("/proc/self/stat"))
    spent = (os.times().user + os.times().system) * os.sysconf("SC_CLK_TCK")
    assert abs(ours - spent) <= 3
    assert cpu_ticks(tmp_path / "gone") == 0
    (tmp_path / "stat").write_text("1 (a) b) (c) S " + " ".join(map(str, range(1, 30))))
    assert cpu_ticks(tmp_path / "stat") == 11 + 12
