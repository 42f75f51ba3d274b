"""migrate.pairing: a host as it will be, and whether the next container fits in then."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings

from migrate.container_spec import ContainerSpec
from migrate.errors import CriuUnfit, HostUnfit, NameTaken, NoSpace, PlacementFailed
from migrate.host_facts import DockerFacts
from migrate.messages import HostPort, PortRefused
from migrate.pairing import Candidate, Host, fit, refuse_pair, refuse_probe, same_host, take_in
from migrate.placement import place
from tests.unit.migrate import fleet
from tests.unit.migrate.fleet import FACTS, MIB, app_network, candidate, host
from transport.errors import Failure


def put(one: Candidate, there: Host) -> Host:
    return take_in(one, there, fit(FACTS, one, there).placement)


@pytest.mark.parametrize(
    ("first", "second", "failure"),
    [
        (candidate("a"), candidate("a"), NameTaken),
        (candidate("a", port=80), candidate("b", port=80), PlacementFailed),
        (candidate("a", network=app_network(), address="172.30.0.5"),
         candidate("b", network=app_network(), address="172.30.0.5"), PlacementFailed),
        (candidate("a", network=app_network()),
         candidate("b", network=app_network("x", "172.30.0.0/25")), PlacementFailed),
        (candidate("a", memory=300), candidate("b", memory=400), NoSpace),
        (candidate("a", files=700), candidate("b", files=400), NoSpace),
        (candidate("a", image=600), candidate("b", image=600, of_image="db"), NoSpace),
    ],
)  # fmt: skip
def test_one_that_came_before_is_in_the_way(
    first: Candidate, second: Candidate, failure: type[Failure]
) -> None:
    there = host("h", memory=1000)
    fit(FACTS, second, there)  # alone it fits
    with pytest.raises(failure):
        fit(FACTS, second, put(first, there))


def test_an_image_that_came_before_is_there() -> None:
    there = put(candidate("a", image=600), host("h"))
    assert not fit(FACTS, candidate("b", image=600), there).placement.image.send
    assert put(candidate("b", image=600), there).free_disk() == 400 * MIB


def test_a_network_that_came_before_is_there() -> None:
    there = put(candidate("a", network=app_network(), address="172.30.0.5"), host("h"))
    placed = fit(FACTS, candidate("b", network=app_network(), address="172.30.0.6"), there)
    assert placed.placement.networks == ()


@pytest.mark.parametrize(("parallel", "left"), [(1, 1000 - 30 - 200), (2, 1000 - 30 - 300)])
def test_only_the_checkpoints_of_those_at_once_count(parallel: int, left: int) -> None:
    """Three of 10 MiB, with checkpoints of 100, 200 and 50: then one more of which has none."""
    there = host("h", parallel=parallel)
    for name, images in (("a", 100), ("b", 200), ("c", 50)):
        there = put(candidate(name, memory=10, images=images), there)
    assert there.free_memory(candidate("d", memory=10, images=0)) == left * MIB


def test_what_is_unknown_is_not_judged() -> None:
    facts = msgspec.structs.replace(FACTS, free_memory=None, free_disk=None)
    there = replace(host("h"), facts=facts)
    put(candidate("a", memory=10**6, files=10**6), there)


@pytest.mark.parametrize(
    ("port", "free"),
    [
        (HostPort("tcp", "", 80), False),
        (HostPort("udp", "", 80), True),
        (HostPort("tcp", "", 81), True),
        (HostPort("tcp", "10.0.0.1", 80), True),
    ],
)
def test_a_port_that_was_tried_there_in_vain(port: HostPort, free: bool) -> None:
    refused = PortRefused(port, "the port 80/tcp is in use", "stop it")
    there = replace(host("h"), refused=(refused,))
    if free:
        fit(FACTS, candidate("a", port=80), there)
        return
    with pytest.raises(PlacementFailed, match="80/tcp"):
        fit(FACTS, candidate("a", port=80), there)


def test_a_port_that_docker_picks_is_in_nobodys_way() -> None:
    spec: ContainerSpec = msgspec.structs.replace(
        candidate("a").spec,
        host_config={"PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": ""}]}},
    )
    there = put(replace(candidate("a"), spec=spec), host("h"))
    assert there.view.containers[0]["Ports"] == []


DOCKER = DockerFacts(
    version="28.5.2", api_version="1.51", storage_driver="overlay2", containerd_snapshotter=False,
    cgroup_driver="systemd", cgroup_version="2", default_runtime="runc", runtimes={}, root_dir="/",
)  # fmt: skip


def fit_facts(cgroup: str = "2") -> object:
    return msgspec.structs.replace(
        FACTS, docker=msgspec.structs.replace(DOCKER, cgroup_version=cgroup),
        criu_path="/usr/sbin/criu", criu_version=(4, 2), runc_version=(1, 3),
        kernel_options={"CHECKPOINT_RESTORE": "y"}, runtime_path="/r", runtime_runs=True,
    )  # fmt: skip


def test_pairs_of_hosts() -> None:
    good = fit_facts()
    refuse_pair(good, good)  # type: ignore[arg-type]
    with pytest.raises(HostUnfit, match="cgroup v1, the source v2"):
        refuse_pair(good, fit_facts("1"))  # type: ignore[arg-type]
    with pytest.raises(Failure, match="at the destination"):
        refuse_pair(good, FACTS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host_id", "boot", "ident", "same"),
    [
        ("one", "boot", "docker", True),
        ("other", "boot", "docker", False),  # namespaces of one machine
        ("one", "other", "docker", False),  # a clone
        ("one", "boot", "other", False),
    ],
)
def test_a_host_knows_itself(host_id: str, boot: str, ident: str, same: bool) -> None:
    docker = msgspec.structs.replace(DOCKER, ident="docker")
    here = msgspec.structs.replace(FACTS, boot_id="boot", docker=docker)
    other = msgspec.structs.replace(docker, ident=ident)
    there = msgspec.structs.replace(FACTS, boot_id=boot, docker=other)
    assert same_host(here, "one", there, host_id) is same
    silent = msgspec.structs.replace(there, docker=None)
    assert same_host(here, "one", silent, host_id) is (host_id == "one" and boot == "boot")
    # One that never made its id is known by its kernel's and dockerd's.
    unnamed = (boot, ident) == ("boot", "docker")
    assert same_host(here, "", there, "") is unnamed
    assert same_host(here, "one", there, "") is unnamed
    assert not same_host(here, "", silent, "")
    assert not same_host(FACTS, "", FACTS, "")


def test_a_probe_that_failed_is_a_reason() -> None:
    refuse_probe("")
    with pytest.raises(CriuUnfit, match="Can't get 1:16 opt"):
        refuse_probe("Can't get 1:16 opt")


@settings(max_examples=60)
@given(fleet.candidates(), fleet.hosts())
def test_the_host_as_it_will_be_is_read_as_one_that_is(
    containers: list[Candidate], there: list[Host]
) -> None:
    """What `take_in` makes of a host is understood by what reads real ones: nobody fits twice."""
    for one in there[:1]:
        for container in containers:
            try:
                one = put(container, one)
            except Failure:
                continue
            with pytest.raises(NameTaken):
                place(container.spec, one.view)
