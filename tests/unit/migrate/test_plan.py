"""migrate.plan: everybody is placed, nobody where there is no room, and for a reason."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate.candidates import Immovable
from migrate.errors import ContainerNotFound, Unsupported
from migrate.pairing import Candidate, Host, fit, take_in
from migrate.plan import Move, Plan, Planner, in_order, without_circles
from migrate.run_report import of_jobs
from tests.unit.migrate import fleet
from tests.unit.migrate.fleet import FACTS, app_network, candidate, host
from transport.errors import Failure


def plan(
    hosts: list[Host], containers: list[Candidate], immovable: tuple[Immovable, ...] = (),
    *, split: bool = False,
) -> Plan:  # fmt: skip
    return Planner(FACTS, hosts, containers, immovable, split=split).plan()


def where(made: Plan) -> dict[str, str]:
    return {move.name: move.host for move in made.moves}


SMALLER = settings(max_examples=120, deadline=None)


@SMALLER
@given(fleet.hosts(), fleet.candidates(), st.booleans())
def test_everybody_moves_or_stays_once(
    hosts: list[Host], containers: list[Candidate], split: bool
) -> None:
    made = plan(hosts, containers, split=split)
    names = [move.name for move in made.moves] + [stay.name for stay in made.stays]
    assert sorted(names) == sorted(one.name for one in containers)
    assert all(move.why for move in made.moves)
    assert all(stay.why for stay in made.stays)


@SMALLER
@given(fleet.hosts(), fleet.candidates(), st.booleans(), st.randoms())
def test_they_fit_in_whatever_the_order_of_arrival(
    hosts: list[Host], containers: list[Candidate], split: bool, order: random.Random
) -> None:
    made = plan(hosts, containers, split=split)
    there = {one.name: one for one in hosts}
    by_name = {one.name: one for one in containers}
    moves = list(made.moves)
    order.shuffle(moves)
    for move in moves:
        one = by_name[move.name]
        placed = fit(FACTS, one, there[move.host])  # raises when there is no room
        there[move.host] = take_in(one, there[move.host], placed.placement)


@SMALLER
@given(fleet.hosts(), fleet.candidates())
def test_who_stays_really_has_nowhere_to_go(hosts: list[Host], containers: list[Candidate]) -> None:
    planner = Planner(FACTS, hosts, containers)
    made = planner.plan()
    projects = defaultdict(list)
    for one in containers:
        projects[one.project or one.name].append(one.name)
    for names in projects.values():
        if names[0] in {stay.name for stay in made.stays}:
            assert planner.place(names)[0] == []


@SMALLER
@given(fleet.hosts(), fleet.candidates())
def test_projects_stay_together(hosts: list[Host], containers: list[Candidate]) -> None:
    places = where(plan(hosts, containers))
    for project in ("shop", "blog"):
        members = [one.name for one in containers if one.project == project]
        assert len({places.get(name, "here") for name in members}) <= 1


@SMALLER
@given(fleet.hosts(), fleet.candidates(), st.booleans())
def test_dependencies_come_first_and_are_waited_for(
    hosts: list[Host], containers: list[Candidate], split: bool
) -> None:
    made = plan(hosts, containers, split=split)
    by_name = {one.name: one for one in containers}
    before: set[str] = set()
    moving = {move.name for move in made.moves}
    for move in made.moves:
        assert set(move.after) & moving <= before
        assert {by_name[name].service for name in move.after} <= set(by_name[move.name].depends_on)
        before.add(move.name)


@SMALLER
@given(fleet.hosts(), fleet.candidates(), st.randoms())
def test_the_order_of_what_is_given_means_nothing(
    hosts: list[Host], containers: list[Candidate], order: random.Random
) -> None:
    first = plan(hosts, containers)
    hosts, containers = list(hosts), list(containers)
    order.shuffle(hosts)
    order.shuffle(containers)
    assert plan(hosts, containers) == first


@SMALLER
@given(fleet.hosts(), fleet.candidates(), st.randoms())
def test_what_is_taken_back_is_free_again(
    hosts: list[Host], containers: list[Candidate], order: random.Random
) -> None:
    """After all have been taken back, in any order, the same plan can be made once more."""
    planner = Planner(FACTS, hosts, containers)
    first = planner.plan()
    moves = list(first.moves)
    order.shuffle(moves)
    for move in moves:
        planner.take_back(move.name, move.host)
    assert where(planner.plan()) == where(first)


# -- examples -------------------------------------------------------------------------------------


def test_two_of_one_port_go_to_two_hosts_and_the_third_stays() -> None:
    three = [candidate(name, port=80) for name in "abc"]
    made = plan([host("x"), host("y")], three)
    assert sorted(where(made).values()) == ["x", "y"]
    (stay,) = made.stays
    assert "80/tcp" in stay.why
    assert set(stay.refused) == {"x", "y"}


def test_they_are_spread() -> None:
    made = plan([host("x"), host("y"), host("z")], [candidate(f"c{n}") for n in range(12)])
    placed = list(where(made).values())
    assert [placed.count(name) for name in "xyz"] == [4, 4, 4]


def test_a_busy_host_gets_less() -> None:
    hosts = [host("busy", cpus=4, load=3.0), host("idle", cpus=4)]
    made = plan(hosts, [candidate(f"c{n}", cpu=0.5) for n in range(4)])
    placed = list(where(made).values())
    assert placed.count("idle") > placed.count("busy")


def test_a_host_with_the_image_comes_first_among_equals() -> None:
    made = plan([host("a"), host("b", images=("app",))], [candidate("c", image=100)])
    (move,) = made.moves
    assert move.host == "b"
    assert "has the image" in move.why
    assert move.refused == {"a": "less is left over than on b"}


def test_the_smallest_moves_first() -> None:
    sizes = {"big": 300, "small": 1, "middle": 50}
    made = plan([host("x", memory=5000)], [candidate(n, memory=m) for n, m in sizes.items()])
    assert [move.name for move in made.moves] == ["small", "middle", "big"]


def shop(**sizes: int) -> list[Candidate]:
    needs = {"db": (), "cache": (), "web": ("db", "cache"), "proxy": ("web",)}
    return [
        candidate(f"shop-{name}", memory=sizes.get(name, 10), project="shop", service=name,
                  depends_on=needs[name], network=app_network())
        for name in needs
    ]  # fmt: skip


def test_a_project_moves_in_its_order_even_when_its_base_is_the_largest() -> None:
    made = plan([host("x")], shop(db=200))
    names = [move.name for move in made.moves]
    assert names == ["shop-cache", "shop-db", "shop-web", "shop-proxy"]


def test_a_project_that_fits_only_in_parts_stays_unless_it_may_be_split() -> None:
    hosts = [host("x", memory=450), host("y", memory=450)]
    containers = shop(db=200, web=200)
    whole = plan(hosts, containers)
    assert whole.moves == ()
    assert all("MiB" in stay.why for stay in whole.stays)
    assert len(plan(hosts, containers, split=True).moves) == 4


def test_a_project_with_one_that_cannot_move_stays_unless_it_may_be_split() -> None:
    stuck = Immovable("shop-files", Unsupported("it has a bind mount"), "shop")
    other = candidate("other")
    made = plan([host("x")], [*shop(), other], (stuck,))
    assert where(made) == {"other": "x"}
    assert {stay.name for stay in made.stays} == {"shop-files", *(one.name for one in shop())}
    assert all("shop-files" in s.why or "bind mount" in s.why for s in made.stays)
    assert len(plan([host("x")], [*shop(), other], (stuck,), split=True).moves) == 5


def test_without_hosts_everybody_stays() -> None:
    made = plan([], [candidate("a")])
    assert [stay.why for stay in made.stays] == ["there is no host for it"]


def test_a_circle_of_dependencies_is_cut() -> None:
    pair = [
        candidate("a", project="p", service="a", depends_on=("b",)),
        candidate("b", project="p", service="b", depends_on=("a",)),
        candidate("c", project="p", service="c", depends_on=("c",)),
    ]
    made = plan([host("x")], pair)
    assert [move.name for move in made.moves] == ["a", "b", "c"]


def test_among_and_without() -> None:
    planner = Planner(FACTS, [host("x"), host("y"), host("z")], [candidate("a")])
    assert planner.place(["a"], without=["x", "y"])[0][0].host == "z"
    planner.take_back("a", "z")
    assert planner.place(["a"], among=["y"])[0][0].host == "y"
    planner.take_back("a", "y")
    assert planner.place(["a"], among=["y"], without=["y"]) == ([], {})


def test_a_failure_of_one_of_a_group_leaves_the_host_as_it_was() -> None:
    planner = Planner(FACTS, [host("x", memory=100)], shop(db=10, proxy=400))
    assert planner.place([one.name for one in shop()])[0] == []
    with pytest.raises(Failure):
        fit(FACTS, candidate("big", memory=60), host("x", memory=100))
    assert planner.place(["shop-db"])[0][0].host == "x"


@given(
    st.dictionaries(
        st.sampled_from("abcdef"),
        st.tuples(st.lists(st.sampled_from("abcdefx")), st.integers(0, 3)),
    )
)
def test_any_dependencies_come_to_an_order(wanted: dict[str, tuple[list[str], int]]) -> None:
    moves = [Move(name, "h", "", tuple(on), size=size) for name, (on, size) in wanted.items()]
    ordered = in_order(moves)
    assert sorted(one.name for one in ordered) == sorted(wanted)
    straight, circular = without_circles(ordered)
    assert [one.name for one in straight] == [one.name for one in ordered]
    for at, one in enumerate(straight):
        assert not set(one.after) & {later.name for later in straight[at:]}
        if one.name not in circular:
            assert one.after == tuple(wanted[one.name][0])


def rest_of_shop() -> list[Candidate]:
    return [candidate("web", project="p", memory=50), candidate("alone", memory=10)]


def test_the_rest_of_a_project_follows_those_that_went_before() -> None:
    hosts = [host("x", memory=900), host("y", memory=200)]
    made = Planner(FACTS, hosts, rest_of_shop(), before={"p": {"y", "nowhere"}}).plan()
    assert where(made) == {"web": "y", "alone": "x"}
    assert {m.name: m.why for m in made.moves}["web"].startswith("others of its project are there,")
    assert "project" not in {m.name: m.why for m in made.moves}["alone"]
    assert where(plan(hosts, rest_of_shop()))["web"] == "x"


def test_where_it_does_not_fit_it_goes_elsewhere_and_says_so() -> None:
    hosts = [host("x", memory=900), host("y", memory=20)]
    made = Planner(FACTS, hosts, rest_of_shop(), before={"p": {"y"}}).plan()
    (web,) = [move for move in made.moves if move.name == "web"]
    assert web.host == "x"
    assert web.why.startswith("others of its project are on y, where it does not fit, ")
    assert "memory" in web.refused["y"]


def test_split_does_not_ask_where_the_others_are() -> None:
    hosts = [host("x", memory=900), host("y", memory=200)]
    made = Planner(FACTS, hosts, rest_of_shop(), split=True, before={"p": {"y"}}).plan()
    assert where(made)["web"] == "x"


@SMALLER
@given(fleet.hosts(), fleet.candidates(), st.sets(st.sampled_from(["h0", "h1", "h7"])))
def test_a_wish_costs_nobody_a_place(
    hosts: list[Host], containers: list[Candidate], before: set[str]
) -> None:
    made = Planner(FACTS, hosts, containers, before={"shop": before}).plan()
    for move in made.moves:
        if move.project == "shop" and move.host not in before & {one.name for one in hosts}:
            assert "are there" not in move.why
    assert len(made.moves) + len(made.stays) == len(containers)


def test_one_that_has_gone_holds_nobody_back() -> None:
    """It is reported, as gone; its project moves without it."""
    gone = Immovable("old", ContainerNotFound("`old` was removed meanwhile"), "p", gone=True)
    made = plan([host("x")], [candidate("db", project="p", service="db")], (gone,))
    assert where(made) == {"db": "x"}
    report = of_jobs("evacuate", made, [], 0.0)
    (line,) = report.containers
    assert (line.container, line.outcome, line.error) == ("old", "gone", "ContainerNotFound")
    assert report.exit_code == 0
