"""Two hosts and a container: what is wrong, and how wrong."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import msgspec
import pytest

from migrate.container_spec import ContainerSpec, make_spec
from migrate.errors import CriuUnfit, HostUnfit, NoSpace
from migrate.preflight import Problem, Usage, check
from tests.unit.migrate import inspects
from transport.errors import Failure

MIB = 2**20
SMALL = Usage(memory=100 * MIB)


@dataclass(frozen=True)
class Host:
    """What `migrate.host_facts` would know."""

    arch: str = "x86_64"
    cpu_flags: frozenset[str] = field(
        default_factory=lambda: frozenset({"sse4_2", "avx", "avx2", "erms", "vmx"})
    )
    kernel: str = "6.12.48+deb13-amd64"
    criu_version: tuple[int, ...] | None = (4, 2, 1)
    free_memory: int | None = 1024 * MIB
    free_disk: int | None = 1024 * MIB
    docker_init: str = ""


HOST = Host()


def spec(memory_limit: int = 0) -> ContainerSpec:
    container = inspects.container("1.51")
    container["HostConfig"] |= {"Memory": memory_limit, "MemorySwap": -1}
    return make_spec(container, inspects.image(), [inspects.network()])


def problems(source: Host, destination: Host, usage: Usage = SMALL) -> list[Problem]:
    return check(source, destination, spec(), usage)


def seen(found: list[Problem]) -> list[tuple[type[Failure], bool]]:
    return [(item.failure, item.warning) for item in found]


def test_twins_have_no_problems() -> None:
    assert problems(HOST, HOST) == []


def test_another_architecture_is_the_only_problem_told() -> None:
    other = Host(arch="aarch64", cpu_flags=frozenset({"fp"}), free_memory=0)
    found = problems(HOST, other)
    assert seen(found) == [(HostUnfit, False)]
    assert "aarch64" in found[0].message
    failure = found[0].as_failure()
    assert isinstance(failure, HostUnfit)
    assert failure.remedy == found[0].remedy


@pytest.mark.parametrize(
    ("here", "there", "init", "fits"),
    [
        ("one", "other", True, False),
        ("one", "one", True, True),
        ("one", "other", False, True),
        ("one", "", True, True),  # not found: CRIU will say
        ("", "other", None, True),
    ],
)
def test_docker_s_init_must_be_the_same_program(
    here: str, there: str, init: bool | None, fits: bool
) -> None:
    wanted = msgspec.structs.replace(spec(), host_config={"Init": init})
    source, destination = replace(HOST, docker_init=here), replace(HOST, docker_init=there)
    found = check(source, destination, wanted, SMALL)
    assert seen(found) == ([] if fits else [(HostUnfit, False)])


@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        ("avx2", [(HostUnfit, False)]),
        ("erms", [(HostUnfit, True)]),
        ("vmx", []),
    ],
)
def test_cpu_flags_that_are_missing(lost: str, expected: list[tuple[type, bool]]) -> None:
    found = problems(HOST, replace(HOST, cpu_flags=HOST.cpu_flags - {lost}))
    assert seen(found) == expected
    assert all(lost in item.message for item in found)


def test_only_a_few_missing_flags_are_named() -> None:
    many = frozenset(
        "avx512f avx512bw avx512cd avx512dq avx512vl gfni sha_ni vaes vpclmulqdq".split()
    )
    found = problems(replace(HOST, cpu_flags=HOST.cpu_flags | many), HOST)
    assert seen(found) == [(HostUnfit, False)]
    assert "avx512bw, avx512cd, avx512dq, avx512f, avx512vl, gfni and 3 more" in found[0].message


def test_a_larger_cpu_is_a_warning_only_if_its_state_is_larger() -> None:
    assert problems(HOST, replace(HOST, cpu_flags=HOST.cpu_flags | {"sha_ni"})) == []
    found = problems(HOST, replace(HOST, cpu_flags=HOST.cpu_flags | {"avx512f"}))
    assert seen(found) == [(HostUnfit, True)]
    assert "avx512f" in found[0].message


def test_all_features_of_arm_count_but_for_hints() -> None:
    source = Host(arch="aarch64", cpu_flags=frozenset({"fp", "atomics", "evtstrm"}))
    assert problems(source, replace(source, cpu_flags=frozenset({"fp", "atomics"}))) == []
    found = problems(source, replace(source, cpu_flags=frozenset({"fp", "evtstrm"})))
    assert seen(found) == [(HostUnfit, False)]


@pytest.mark.parametrize(
    ("here", "there", "expected"),
    [
        ((4, 2, 1), (4, 2, 1), []),
        ((4, 1, 1), (4, 2), []),
        ((4, 2), (4, 2, 0), []),
        ((4, 2, 1), (4, 2), [(CriuUnfit, True)]),
        ((4, 2, 1), (4, 1, 9), [(CriuUnfit, False)]),
        ((4, 0), (3, 19), [(CriuUnfit, False)]),
        ((4, 9), (4, 10), []),
    ],
)
def test_criu_versions(
    here: tuple[int, ...], there: tuple[int, ...], expected: list[tuple[type, bool]]
) -> None:
    found = problems(replace(HOST, criu_version=here), replace(HOST, criu_version=there))
    assert seen(found) == expected


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ("6.1.0-9-amd64", [(HostUnfit, True)]),
        ("6.12.1", []),
        ("6.18.0", []),
    ],
)
def test_an_older_kernel_is_a_warning(there: str, expected: list[tuple[type, bool]]) -> None:
    assert seen(problems(HOST, replace(HOST, kernel=there))) == expected


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (Usage(memory=1024 * MIB), []),
        (Usage(memory=1024 * MIB + 1), [(NoSpace, False)]),
        (Usage(memory=500 * MIB, swapped=100 * MIB, images=500 * MIB), [(NoSpace, False)]),
        (Usage(memory=0, files=1024 * MIB), []),
        (Usage(memory=0, files=1000 * MIB, image=100 * MIB), [(NoSpace, False)]),
    ],
)
def test_space(usage: Usage, expected: list[tuple[type, bool]]) -> None:
    assert seen(problems(HOST, HOST, usage)) == expected


def test_more_than_the_memory_limit_in_swap_is_a_warning() -> None:
    usage = Usage(memory=90 * MIB, swapped=20 * MIB)
    assert seen(check(HOST, HOST, spec(100 * MIB), usage)) == [(NoSpace, True)]
    assert check(HOST, HOST, spec(110 * MIB), usage) == []


@pytest.mark.parametrize(
    ("skew", "expected"),
    [(-0.9, []), (-1.5, [(HostUnfit, True)]), (5.0, [])],
)
def test_a_clock_behind_is_a_warning(skew: float, expected: list[tuple[type, bool]]) -> None:
    assert seen(check(HOST, HOST, spec(), SMALL, clock_skew=skew)) == expected


def test_what_is_unknown_is_not_judged() -> None:
    unknown = replace(HOST, criu_version=None, free_memory=None, free_disk=None)
    assert problems(HOST, unknown, Usage(memory=2**50, files=2**50)) == []
