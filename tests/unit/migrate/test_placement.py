"""Whether and how a container fits in at the destination."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from migrate.container_spec import ContainerSpec, ImageSpec, make_spec
from migrate.errors import NameTaken, PlacementFailed
from migrate.placement import (
    DestinationView,
    ImageView,
    Placement,
    find_image,
    normal_reference,
    place,
    plan_image,
)
from tests.unit.migrate import inspects
from tests.unit.migrate.inspects import APIS, LAYERS, listed, network

BRIDGE = network("bridge", "172.17.0.0/16")
HERE = ImageView(id=inspects.IMAGE_ID, layers=LAYERS, repo_tags=("redis:7",))


def spec(api: str = "1.51", **host_config: Any) -> ContainerSpec:
    container = inspects.container(api)
    container["HostConfig"] |= host_config
    return make_spec(container, inspects.image(), [network()])


def view(*containers: dict[str, Any], **more: Any) -> DestinationView:
    values: dict[str, Any] = {"networks": (BRIDGE,), "images": (HERE,), **more}
    return DestinationView(containers=containers, **values)


def in_network(name: str, address: str, state: str = "running") -> dict[str, Any]:
    endpoint = {"IPAddress": address, "NetworkID": inspects.NETWORK_ID}
    return listed(name, state, NetworkSettings={"Networks": {"app": endpoint}})


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("api", APIS)
def test_an_empty_host_gets_the_network(api: str) -> None:
    wanted = spec(api)
    placed = place(wanted, view())
    assert placed == Placement(remove=(), networks=wanted.networks, image=placed.image)
    assert placed.image.create_from == "redis:7"


@pytest.mark.parametrize("state", ["created", "exited", "dead"])
def test_a_stopped_namesake_goes_only_by_force(state: str) -> None:
    there = view(listed("web", state))
    with pytest.raises(NameTaken, match="stopped container `web`") as raised:
        place(spec(), there)
    assert "--force" in raised.value.remedy
    assert place(spec(), there, force=True).remove == ("id-of-web",)


@pytest.mark.parametrize("state", ["running", "paused", "restarting"])
@pytest.mark.parametrize("force", [False, True])
def test_a_running_namesake_never_goes(state: str, force: bool) -> None:
    with pytest.raises(NameTaken, match=state) as raised:
        place(spec(), view(listed("web", state)), force=force)
    assert "--force never replaces" in raised.value.remedy


def test_a_similar_name_and_a_link_are_no_namesakes() -> None:
    other = listed("web2") | {"Names": ["/web2", "/proxy/web"]}
    assert place(spec(), view(other)).remove == ()


# -- volumes --------------------------------------------------------------------------------------

VOLUMES = [
    {"Type": "volume", "Target": "/data", "Source": "data"},
    {"Type": "volume", "Target": "/anonymous"},
    {"Type": "tmpfs", "Target": "/tmp"},
]


def with_volumes() -> ContainerSpec:
    return msgspec.structs.replace(spec(), host_config=spec().host_config | {"Mounts": VOLUMES})


def test_a_volume_that_is_not_there_will_be_made() -> None:
    assert place(with_volumes(), view()).volumes == ("data",)
    assert place(with_volumes(), view(volumes={"other": False})).volumes == ("data",)


def test_an_empty_one_is_used_and_never_removed() -> None:
    assert place(with_volumes(), view(volumes={"data": True})).volumes == ()


def test_one_with_something_in_it_is_not_shown_to_the_container() -> None:
    with pytest.raises(PlacementFailed, match="volume `data` with something in it") as raised:
        place(with_volumes(), view(volumes={"data": False}))
    assert "docker volume rm data" in raised.value.remedy


# -- networks -------------------------------------------------------------------------------------


def test_the_same_network_is_used() -> None:
    placed = place(spec(), view(networks=(BRIDGE, network())))
    assert placed.networks == ()
    assert placed.renewable == ("app",)


def test_a_network_in_use_is_not_renewable() -> None:
    for state in ("running", "exited"):
        user = in_network("db", "172.30.0.9", state)
        assert place(spec(), view(user, networks=(BRIDGE, network()))).renewable == ()


def test_another_subnet_under_the_same_name_is_refused() -> None:
    with pytest.raises(PlacementFailed, match=r"172\.31\.0\.0/24 at .* 172\.30\.0\.0/24 here"):
        place(spec(), view(networks=(BRIDGE, network("app", "172.31.0.0/24"))))


def test_another_driver_under_the_same_name_is_refused() -> None:
    with pytest.raises(PlacementFailed, match="`macvlan`"):
        place(spec(), view(networks=(BRIDGE, network(Driver="macvlan"))))


def test_an_overlapping_subnet_is_refused() -> None:
    with pytest.raises(PlacementFailed, match=r"172\.30\.0\.0/24 .* 172\.30\.0\.0/16 .*`big`"):
        place(spec(), view(networks=(BRIDGE, network("big", "172.30.0.0/16"))))


def test_the_default_bridge_is_taken_as_it_is() -> None:
    container = inspects.container("1.51")
    container["NetworkSettings"]["Networks"] = {"bridge": {"IPAddress": "172.17.0.2"}}
    container["HostConfig"]["NetworkMode"] = "bridge"
    wanted = make_spec(container, inspects.image(), [BRIDGE])
    placed = place(wanted, view(networks=(network("bridge", "192.168.9.0/24"),)))
    assert (placed.networks, placed.renewable) == ((), ())
    with pytest.raises(PlacementFailed, match="no network `bridge`"):
        place(wanted, view(networks=()))


def test_an_address_in_use_is_refused() -> None:
    there = (BRIDGE, network())
    with pytest.raises(PlacementFailed, match=r"172\.30\.0\.5 .*`db`"):
        place(spec(), view(in_network("db", "172.30.0.5"), networks=there))
    place(spec(), view(in_network("db", "172.30.0.6"), networks=there))


# -- ports and settings ---------------------------------------------------------------------------


def publishing(address: str, port: int, protocol: str) -> dict[str, Any]:
    used = {"IP": address, "PrivatePort": 1, "PublicPort": port, "Type": protocol}
    return listed("other", Ports=[{"PrivatePort": 1, "Type": "tcp"}, used])


@pytest.mark.parametrize(
    ("ours", "theirs", "meets"),
    [
        (("", 8080, "tcp"), ("0.0.0.0", 8080, "tcp"), True),
        (("", 8080, "tcp"), ("::", 8080, "tcp"), True),
        (("127.0.0.1", 8080, "tcp"), ("0.0.0.0", 8080, "tcp"), True),
        (("0.0.0.0", 8080, "tcp"), ("127.0.0.1", 8080, "tcp"), True),
        (("127.0.0.1", 8080, "tcp"), ("127.0.0.1", 8080, "tcp"), True),
        (("127.0.0.1", 8080, "tcp"), ("192.0.2.1", 8080, "tcp"), False),
        (("127.0.0.1", 8080, "tcp"), ("::", 8080, "tcp"), False),
        (("", 8080, "tcp"), ("0.0.0.0", 8080, "udp"), False),
        (("", 8080, "tcp"), ("0.0.0.0", 8081, "tcp"), False),
    ],
)
def test_published_ports_in_use(
    ours: tuple[str, int, str], theirs: tuple[str, int, str], meets: bool
) -> None:
    address, port, protocol = ours
    container = inspects.container("1.51")
    binding = [{"HostIp": address, "HostPort": str(port)}]
    container["HostConfig"]["PortBindings"] = {f"80/{protocol}": binding}
    container["NetworkSettings"]["Ports"] = {f"80/{protocol}": binding}
    wanted = make_spec(container, inspects.image(), [network()])
    if meets:
        with pytest.raises(PlacementFailed, match=r"8080/tcp .*`other`"):
            place(wanted, view(publishing(*theirs)))
    else:
        assert place(wanted, view(publishing(*theirs))).remove == ()


def test_more_cpus_than_there_are_is_refused() -> None:
    wanted = spec(NanoCpus=2_500_000_000)
    with pytest.raises(PlacementFailed, match=r"2\.5 CPUs and the destination has 2"):
        place(wanted, view(cpus=2))
    for cpus in (3, 0):
        assert place(wanted, view(cpus=cpus)).remove == ()


def test_remapped_users_there_are_refused() -> None:
    with pytest.raises(PlacementFailed, match="userns-remap"):
        place(spec(), view(userns_remap=True))


# -- images ---------------------------------------------------------------------------------------

WANTED = ImageSpec("redis:7", inspects.IMAGE_ID, LAYERS, "amd64", "linux", repo_tags=("redis:7",))
OTHER_ID = "sha256:" + "1" * 64


def test_an_image_of_another_store_is_known_by_its_layers() -> None:
    there = ImageView(id=OTHER_ID, layers=LAYERS, repo_tags=("docker.io/library/redis:7",))
    plan, warnings = plan_image(WANTED, [there])
    assert (plan.create_from, plan.send, warnings) == ("redis:7", False, ())


def test_an_untagged_image_is_used_by_its_id() -> None:
    plan, warnings = plan_image(WANTED, [ImageView(id=OTHER_ID, layers=LAYERS)])
    assert (plan.create_from, plan.send, warnings) == (OTHER_ID, False, ())


def test_the_same_id_wins_over_the_same_layers() -> None:
    images = [ImageView(OTHER_ID, LAYERS), ImageView(inspects.IMAGE_ID, LAYERS)]
    assert find_image(WANTED, images) == inspects.IMAGE_ID


def test_a_missing_image_is_sent_by_its_tag() -> None:
    plan, warnings = plan_image(WANTED, [ImageView(OTHER_ID, ("sha256:x",))])
    assert (plan.create_from, plan.send, plan.save, warnings) == ("", True, "redis:7", ())


def test_a_tag_in_use_there_is_not_moved() -> None:
    squatter = ImageView(OTHER_ID, ("sha256:x",), repo_tags=("redis:7",))
    plan, warnings = plan_image(WANTED, [squatter])
    assert (plan.send, plan.save) == (True, inspects.IMAGE_ID)
    assert "`redis:7` is another image" in warnings[0]
    loaded = ImageView(inspects.IMAGE_ID, LAYERS)
    plan, warnings = plan_image(WANTED, [squatter, loaded])
    assert (plan.send, plan.create_from, len(warnings)) == (False, inspects.IMAGE_ID, 1)


def test_a_tag_that_moved_on_at_the_source_is_not_saved_by_name() -> None:
    # The container runs redis:7 of last month: the tag means another image now.
    old = ImageSpec("redis:7", inspects.IMAGE_ID, LAYERS, "amd64", "linux", repo_tags=())
    assert plan_image(old, [])[0].save == inspects.IMAGE_ID


def test_images_without_layers_are_not_all_the_same() -> None:
    empty = ImageSpec("nothing", inspects.IMAGE_ID, (), "amd64", "linux")
    assert find_image(empty, [ImageView(OTHER_ID, ())]) is None


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("redis", "docker.io/library/redis:latest"),
        ("redis:7", "docker.io/library/redis:7"),
        ("user/app", "docker.io/user/app:latest"),
        ("index.docker.io/library/redis", "docker.io/library/redis:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("host:5000/app", "host:5000/app:latest"),
        ("host:5000/a/b:1", "host:5000/a/b:1"),
        ("redis@sha256:cccc", "docker.io/library/redis@sha256:cccc"),
        ("sha256:abc", "sha256:abc"),
    ],
)
def test_references_in_full(short: str, full: str) -> None:
    assert normal_reference(short) == full
    assert normal_reference(full) == full
