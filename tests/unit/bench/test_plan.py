"""What is measured, and in which order."""

from __future__ import annotations

from itertools import pairwise

from tests.bench import plan
from tests.bench.measure import missing, reason, time_limit
from tests.bench.plan import LINKS, PEERS, STANDARD, WORKLOADS, Cell, cells, order, seconds


def names(found: list[Cell]) -> set[str]:
    return {cell.name for cell in found}


def test_names_are_unique() -> None:
    for things in (WORKLOADS, LINKS, PEERS):
        found = [one.name for one in things]
        assert len(found) == len(set(found))


def test_every_line_of_the_standard_run_chooses_something() -> None:
    for line in (*STANDARD, *plan.QUICK):
        assert cells([line]), line


def test_the_standard_run_has_the_rows_of_the_aims() -> None:
    found = names(cells(STANDARD))
    for workload in ("16-10-random", "1024-10-random", "4096-10-random", "1024-0-random"):
        assert f"{workload} unshaped migrate" in found
    assert "16-10-random unshaped bare" in found
    assert "1024-10-random unshaped docker" in found
    assert "1024-0-random unshaped migrate-back" in found


def test_filters_narrow_it() -> None:
    found = cells([("*", "*")], ["16-*", "redis"], ["1gbit"], ["runc", "mig*-back"])
    assert {cell.link.name for cell in found} == {"1gbit"}
    assert {cell.peer.name for cell in found} == {"runc", "migrate-back"}
    assert {cell.workload.mib for cell in found} == {16, 320}


def test_bare_criu_is_measured_once_and_only_with_the_heart() -> None:
    found = names(cells([("*", "*")], peers=["bare", "limit"]))
    assert "16-0-text unshaped bare" in found
    assert "16-0-text 1gbit limit" in found
    assert "16-0-text 1gbit bare" not in found
    assert not any(name.startswith(("redis", "quake")) for name in found)


def test_a_cell_comes_once_however_many_lines_choose_it() -> None:
    assert len(
        cells([("16-0-text", "*"), ("16-*", "unshaped")], ["16-0-text"], ["unshaped"])
    ) == len(PEERS)


def test_peers_alternate_and_a_link_is_set_once() -> None:
    chosen = cells([("*", "*")], ["16-0-*"], ["*bit"], ["docker", "runc"])
    found = [(c.link.name, c.workload.name, c.peer.name, n) for c, n in order(chosen, 2)]
    assert found[:4] == [
        ("1gbit", "16-0-random", "docker", 1),
        ("1gbit", "16-0-random", "runc", 1),
        ("1gbit", "16-0-random", "docker", 2),
        ("1gbit", "16-0-random", "runc", 2),
    ]
    links = [name for name, *_ in found]
    assert sum(one != other for one, other in pairwise(links)) == 1


def test_slow_links_and_ways_are_given_more_time() -> None:
    (fast,) = cells([("1024-0-random", "unshaped")], peers=["runc"])
    (slow,) = cells([("1024-0-random", "100mbit")], peers=["runc"])
    (docker,) = cells([("1024-0-random", "unshaped")], peers=["docker"])
    assert seconds(fast) < seconds(docker)
    # 1 GiB takes 86 s at 12.5 MB/s.
    assert seconds(slow) > 80 + seconds(fast) - 20
    assert time_limit(slow) > 2 * seconds(slow)


def test_variants_need_their_options_of_the_tool() -> None:
    lacking = missing(list(PEERS), {"--max-rounds", "--keep"})
    assert set(lacking) == {"migrate-eager", "migrate-lazy"}
    assert "--restore" in lacking["migrate-lazy"]


def test_a_reason_leaves_the_command_line_out() -> None:
    failure = Exception("`sh -c one\ntwo` failed (2): no such\nthing")
    assert reason(failure) == "failed (2): no such thing"
    assert reason(Exception("did not end within 5 s")) == "did not end within 5 s"
