"""What is refused, and what is not."""

from __future__ import annotations

from typing import Any

import pytest

from migrate.container_limits import obstacles, refuse, remaps_users
from migrate.container_spec import create_request, make_spec
from migrate.errors import ContainerNotRunning, Unsupported
from tests.unit.migrate import inspects
from tests.unit.migrate.inspects import APIS, ID, volume


@pytest.mark.parametrize("api", APIS)
def test_an_ordinary_container_has_no_obstacles(api: str) -> None:
    assert obstacles(inspects.container(api), [inspects.network()]) == []


HOST_OBSTACLES: list[tuple[dict[str, Any], str]] = [
    ({"Privileged": True}, "privileged"),
    ({"Devices": [{"PathOnHost": "/dev/kvm"}]}, "/dev/kvm"),
    ({"DeviceRequests": [{"Driver": "nvidia", "Count": -1}]}, "GPU"),
    ({"NetworkMode": "host"}, "network of the host"),
    ({"NetworkMode": f"container:{ID}"}, "network of another container"),
    ({"PidMode": "host"}, "--pid host"),
    ({"IpcMode": f"container:{ID}"}, "--ipc container:"),
    ({"UTSMode": "host"}, "--uts host"),
    ({"Links": ["/db:/web/db"]}, "--link): db"),
    ({"VolumesFrom": ["other"]}, "--volumes-from"),
    ({"Runtime": "io.containerd.kata.v2"}, "kata"),
    ({"Runtime": "runsc"}, "runsc"),
]
MOUNT_OBSTACLES: list[tuple[dict[str, Any], str]] = [
    ({"Type": "bind", "Source": "/srv", "Destination": "/data", "RW": True}, "/srv"),
    (volume("data", "/data"), "volume `data`"),
    (volume(inspects.VOLUME_ID, "/data"), "an anonymous volume"),
    (volume("empty", "/data") | {"Driver": "rexray"}, "rexray"),
    ({"Type": "image", "Source": "redis:7", "Destination": "/i"}, "type `image`"),
]


@pytest.mark.parametrize(("change", "says"), HOST_OBSTACLES)
def test_settings_that_are_refused(change: dict[str, Any], says: str) -> None:
    container = inspects.container("1.51")
    container["HostConfig"] |= change
    found = obstacles(container, [inspects.network()])
    assert [type(item) for item in found] == [Unsupported]
    assert says in found[0].message
    assert found[0].remedy


@pytest.mark.parametrize(("mount", "says"), MOUNT_OBSTACLES)
def test_mounts_that_are_refused(mount: dict[str, Any], says: str) -> None:
    container = inspects.container("1.51")
    container["Mounts"] = [mount]
    found = obstacles(container, [inspects.network()], empty_volumes={"empty"})
    assert [type(item) for item in found] == [Unsupported]
    assert says in found[0].message


def test_mounts_that_are_fine() -> None:
    container = inspects.container("1.51")
    container["Mounts"] = [volume("empty", "/data"), {"Type": "tmpfs", "Destination": "/tmp"}]
    assert obstacles(container, [inspects.network()], empty_volumes={"empty"}) == []


@pytest.mark.parametrize("driver", ["overlay", "weave"])
def test_other_network_drivers_are_refused(driver: str) -> None:
    found = obstacles(inspects.container("1.51"), [inspects.network(Driver=driver)])
    assert [driver in item.message for item in found] == [True]


@pytest.mark.parametrize("driver", ["macvlan", "ipvlan"])
def test_networks_on_the_hosts_ethernet_can_move(driver: str) -> None:
    assert obstacles(inspects.container("1.51"), [inspects.network(Driver=driver)]) == []


def test_no_network_at_all_is_fine() -> None:
    container = inspects.container("1.51")
    container["HostConfig"]["NetworkMode"] = "none"
    container["NetworkSettings"]["Networks"] = {"none": {"NetworkID": "n", "IPAddress": ""}}
    none = inspects.network("none") | {"Driver": "null", "IPAM": {"Driver": "default"}}
    assert obstacles(container, [none]) == []
    spec = make_spec(container, inspects.image(), [none])
    assert create_request(spec, "1.51", "x").body["HostConfig"]["NetworkMode"] == "none"
    assert not spec.address_may_change


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"Status": "paused", "Paused": True}, Unsupported, "paused"),
        ({"Status": "restarting", "Restarting": True}, Unsupported, "restarting"),
        ({"Status": "dead", "Running": False, "Dead": True}, Unsupported, "dead"),
        ({"Status": "exited", "Running": False}, ContainerNotRunning, "exited"),
    ],
)
def test_states_that_are_refused(change: dict[str, Any], kind: type, says: str) -> None:
    container = inspects.container("1.51")
    container["State"] |= change
    found = obstacles(container, [inspects.network()])
    assert [type(item) for item in found] == [kind]
    assert says in found[0].message


def test_shareable_shm_is_refused_only_with_something_in_it() -> None:
    container = inspects.container("1.51")
    assert obstacles(container, [inspects.network()], shm_used=4096) == []
    container["HostConfig"]["IpcMode"] = "shareable"
    assert obstacles(container, [inspects.network()], shm_used=0) == []
    found = obstacles(container, [inspects.network()], shm_used=4096)
    assert "4096 bytes" in found[0].message


def test_remapped_users_are_refused_unless_the_container_is_not() -> None:
    container = inspects.container("1.51")
    found = obstacles(container, [inspects.network()], userns_remap=True)
    assert "userns-remap" in found[0].message
    container["HostConfig"]["UsernsMode"] = "host"
    assert obstacles(container, [inspects.network()], userns_remap=True) == []


def test_all_obstacles_are_found_and_counted() -> None:
    container = inspects.container("1.51")
    container["Config"] |= {"Tty": True, "Labels": {"com.docker.swarm.service.id": "s"}}
    container["ExecIDs"] = ["e1"]
    found = obstacles(container, [inspects.network()])
    assert [next(iter(item.remedy.split())) for item in found] == ["end", "let", "create"]
    with pytest.raises(Unsupported, match=r"docker exec.*\(and 2 more reasons\)") as raised:
        refuse(found)
    assert raised.value.remedy == "end the docker exec sessions first"
    with pytest.raises(Unsupported, match=r"client of this host$"):
        refuse(found[:1])
    refuse([])


def test_a_running_health_check_is_named_as_a_possible_exec() -> None:
    container = inspects.container("1.51")
    container["ExecIDs"] = ["e1"]
    container["Config"]["Healthcheck"] = {"Test": ["CMD", "true"]}
    assert "health check" in obstacles(container, [inspects.network()])[0].remedy


@pytest.mark.parametrize(
    ("options", "remaps"),
    [
        (["name=seccomp,profile=builtin", "name=userns"], True),
        (["name=apparmor", "name=cgroupns"], False),
        (None, False),
    ],
)
def test_remapping_of_users_is_read_from_what_dockerd_says(
    options: list[str] | None, remaps: bool
) -> None:
    assert remaps_users({"SecurityOptions": options}) == remaps
