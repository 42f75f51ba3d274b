"""Inspects to specs, specs to create bodies."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from migrate.container_spec import ContainerSpec, create_request, make_spec, port_bindings
from migrate.errors import Unsupported
from tests.unit.migrate import inspects
from tests.unit.migrate.inspects import APIS, ID, volume


def spec_of(container: dict[str, Any], *networks: dict[str, Any], **more: Any) -> ContainerSpec:
    return make_spec(container, inspects.image(), networks or (inspects.network(),), **more)


def empty_values(value: object, path: str = "") -> list[str]:
    """Paths of null and "" in a body, which daemons read differently from one version to another"""
    if isinstance(value, dict):
        return [bad for key, item in value.items() for bad in empty_values(item, f"{path}/{key}")]
    return [path] if value is None or value == "" else []


# -- the body -------------------------------------------------------------------------------------


def test_the_whole_body_for_docker_28() -> None:
    spec = spec_of(inspects.container("1.51"))
    assert create_request(spec, "1.51", "redis:7").body == {
        "Hostname": ID[:12],
        "Image": "redis:7",
        "ExposedPorts": {"53/udp": {}, "80/tcp": {}},
        "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "MODE=test"],
        "Cmd": ["redis-server"],
        "Entrypoint": ["docker-entrypoint.sh"],
        "WorkingDir": "/data",
        "Labels": {"team": "game"},
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "HostConfig": {
            "LogConfig": {"Type": "json-file", "Config": {}},
            "NetworkMode": "app",
            "PortBindings": {
                "53/udp": [{"HostIp": "", "HostPort": "32768"}],
                "80/tcp": [{"HostIp": "", "HostPort": "8080"}],
            },
            "RestartPolicy": {"Name": "unless-stopped"},
            "CapDrop": ["NET_RAW"],
            "CgroupnsMode": "private",
            "IpcMode": "private",
            "ShmSize": 67108864,
            "Runtime": "migrate",
            "Memory": 268435456,
            "MemorySwap": 536870912,
            "MaskedPaths": ["/proc/kcore", "/sys/firmware"],
            "ReadonlyPaths": ["/proc/sys"],
        },
        "NetworkingConfig": {
            "EndpointsConfig": {
                "app": {
                    "IPAMConfig": {"IPv4Address": "172.30.0.5"},
                    "Aliases": ["cache"],
                    "MacAddress": "f2:0a:11:22:33:44",
                }
            }
        },
    }


@pytest.mark.parametrize("destination", APIS)
@pytest.mark.parametrize("source", APIS)
def test_every_version_gives_a_body_for_every_other(source: str, destination: str) -> None:
    container = inspects.container(source)
    container["HostConfig"]["Annotations"] = {"a": "b"}
    body = create_request(spec_of(container), destination, "redis:7").body
    host, endpoint = body["HostConfig"], body["NetworkingConfig"]["EndpointsConfig"]["app"]
    mac = container["NetworkSettings"]["Networks"]["app"]["MacAddress"]
    # Until 1.44 the address stands in Config, from then on at the endpoint.
    if destination == "1.41":
        assert body["MacAddress"] == mac
        assert "MacAddress" not in endpoint
        assert "Annotations" not in host
    else:
        assert "MacAddress" not in body
        assert endpoint["MacAddress"] == mac
        assert host["Annotations"] == {"a": "b"}
    assert "KernelMemory" not in host
    assert "ConsoleSize" not in host
    assert empty_values(body) == []
    assert empty_values({"HostConfig": {"Isolation": ""}}) == ["/HostConfig/Isolation"]


def test_a_spec_survives_the_wire() -> None:
    spec = spec_of(inspects.container("1.51"))
    wire = msgspec.msgpack.encode(spec)
    assert msgspec.msgpack.decode(wire, type=ContainerSpec) == spec


def test_what_the_caller_reads_from_a_spec() -> None:
    container = inspects.container("1.41")
    container["State"]["Health"] = {"Status": "healthy", "FailingStreak": 0, "Log": []}
    spec = spec_of(container)
    assert spec.name == "web"
    assert spec.health == "healthy"
    assert spec.restart_policy == {"Name": "always"}
    assert spec.image.reference == "redis:7"
    assert spec.image.layers == inspects.LAYERS


@pytest.mark.parametrize("entrypoint", [None, []])
def test_no_entrypoint_is_not_the_images_entrypoint(entrypoint: list[str] | None) -> None:
    container = inspects.container("1.51")
    container["Config"]["Entrypoint"] = entrypoint
    body = create_request(spec_of(container), "1.51", "redis:7").body
    assert body["Entrypoint"] == [""]


@pytest.mark.parametrize(("seconds", "kept"), [(0, True), (7, True), (None, False)])
def test_a_stop_timeout_of_nothing_is_kept(seconds: int | None, kept: bool) -> None:
    container = inspects.container("1.51")
    container["Config"]["StopTimeout"] = seconds
    body = create_request(spec_of(container), "1.51", "redis:7").body
    assert ("StopTimeout" in body, body.get("StopTimeout")) == (kept, seconds)


def test_unmasked_paths_stay_unmasked() -> None:
    container = inspects.container("1.51")
    container["HostConfig"] |= {"MaskedPaths": [], "ReadonlyPaths": None}
    host = create_request(spec_of(container), "1.51", "redis:7").body["HostConfig"]
    assert host["MaskedPaths"] == []
    assert "ReadonlyPaths" not in host


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ({"Memory": 0, "MemorySwap": 5}, {}),
        ({"Memory": 0, "MemorySwap": -1}, {"MemorySwap": -1}),
        ({"Memory": 7, "MemorySwap": 9}, {"Memory": 7, "MemorySwap": 9}),
        ({"Memory": 0, "MemorySwap": 0, "MemorySwappiness": -1}, {}),
        ({"Memory": 0, "MemorySwap": 0, "MemorySwappiness": 0}, {"MemorySwappiness": 0}),
    ],
)
def test_memory_limits_that_create_takes(was: dict[str, int], becomes: dict[str, int]) -> None:
    container = inspects.container("1.41")
    container["HostConfig"] |= was
    host = create_request(spec_of(container), "1.41", "redis:7").body["HostConfig"]
    assert {key: host[key] for key in host if key.startswith("Memory")} == becomes


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ({"Name": "", "MaximumRetryCount": 0}, {"Name": "no"}),
        ({"Name": "always", "MaximumRetryCount": 3}, {"Name": "always"}),
        (
            {"Name": "on-failure", "MaximumRetryCount": 3},
            {"Name": "on-failure", "MaximumRetryCount": 3},
        ),
    ],
)
def test_restart_policies_that_create_takes(was: dict[str, Any], becomes: dict[str, Any]) -> None:
    container = inspects.container("1.41")
    container["HostConfig"]["RestartPolicy"] = was
    assert spec_of(container).host_config["RestartPolicy"] == becomes


def test_start_interval_needs_1_44() -> None:
    container = inspects.container("1.51")
    check = {"Test": ["CMD", "true"], "StartInterval": 5_000_000_000}
    container["Config"]["Healthcheck"] = check
    spec = spec_of(container)
    assert create_request(spec, "1.51", "x").body["Healthcheck"] == check
    assert create_request(spec, "1.41", "x").body["Healthcheck"] == {"Test": ["CMD", "true"]}


@pytest.mark.parametrize(("api", "moved"), [("1.45", False), ("1.51", True)])
def test_sysctls_of_an_interface_move_to_the_endpoint(api: str, moved: bool) -> None:
    container = inspects.container("1.45")
    sysctls = {"net.ipv4.conf.eth0.forwarding": "1", "net.core.somaxconn": "99"}
    container["HostConfig"]["Sysctls"] = sysctls
    spec = spec_of(container)
    body = create_request(spec, api, "x").body
    options = body["NetworkingConfig"]["EndpointsConfig"]["app"].get("DriverOpts", {})
    if moved:
        assert body["HostConfig"]["Sysctls"] == {"net.core.somaxconn": "99"}
        assert options == {
            "com.docker.network.endpoint.sysctls": "net.ipv4.conf.IFNAME.forwarding=1"
        }
    else:
        assert body["HostConfig"]["Sysctls"] == sysctls
        assert options == {}
    assert spec.host_config["Sysctls"] == sysctls


# -- ports ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked_ip", "actual", "expected"),
    [
        ("127.0.0.1", ["127.0.0.1"], ["127.0.0.1"]),
        ("0.0.0.0", ["0.0.0.0"], ["0.0.0.0"]),
        ("", ["0.0.0.0"], [""]),
        ("", ["0.0.0.0", "::"], [""]),
        ("::", ["::"], ["::"]),
    ],
)
def test_host_addresses_of_ports(asked_ip: str, actual: list[str], expected: list[str]) -> None:
    container = inspects.container("1.51")
    container["HostConfig"]["PortBindings"] = {"80/tcp": [{"HostIp": asked_ip, "HostPort": ""}]}
    bound = [{"HostIp": ip, "HostPort": "49153"} for ip in actual]
    container["NetworkSettings"]["Ports"] = {"80/tcp": bound}
    wanted = [{"HostIp": ip, "HostPort": "49153"} for ip in expected]
    assert port_bindings(container) == {"80/tcp": wanted}


def test_different_random_ports_of_the_families_stay_different() -> None:
    container = inspects.container("1.41")
    bound = [{"HostIp": "0.0.0.0", "HostPort": "49153"}, {"HostIp": "::", "HostPort": "49154"}]
    container["HostConfig"]["PortBindings"] = {}
    container["NetworkSettings"]["Ports"] = {"80/tcp": bound}
    assert port_bindings(container) == {
        "80/tcp": [
            {"HostIp": "", "HostPort": "49153"},
            {"HostIp": "::", "HostPort": "49154"},
        ]
    }


# -- networks -------------------------------------------------------------------------------------


def on_the_default_bridge(api: str) -> dict[str, Any]:
    container = inspects.container(api)
    endpoint = container["NetworkSettings"]["Networks"].pop("app")
    endpoint |= {"Aliases": None, "IPAddress": "172.17.0.2"}
    container["NetworkSettings"]["Networks"]["bridge"] = endpoint
    container["HostConfig"]["NetworkMode"] = "default"
    return container


@pytest.mark.parametrize("api", APIS)
def test_the_default_bridge_takes_no_wishes(api: str) -> None:
    spec = spec_of(on_the_default_bridge(api), inspects.network("bridge", "172.17.0.0/16"))
    body = create_request(spec, api, "x").body
    assert body["HostConfig"]["NetworkMode"] == "bridge"
    assert body["NetworkingConfig"]["EndpointsConfig"] == {"bridge": {}}
    assert "MacAddress" not in body
    assert spec.address_may_change
    assert spec.endpoints[0].had_ipv4 == "172.17.0.2"


def test_a_mac_address_the_user_chose_is_kept_on_the_default_bridge() -> None:
    container = on_the_default_bridge("1.51")
    container["Config"]["MacAddress"] = "02:42:00:00:00:99"
    spec = spec_of(container, inspects.network("bridge", "172.17.0.0/16"))
    body = create_request(spec, "1.51", "x").body
    endpoint = body["NetworkingConfig"]["EndpointsConfig"]["bridge"]
    assert endpoint == {"MacAddress": "02:42:00:00:00:99"}


def test_a_network_mode_by_id_becomes_the_name() -> None:
    container = inspects.container("1.45")
    container["HostConfig"]["NetworkMode"] = inspects.NETWORK_ID[:12]
    assert spec_of(container).network_mode == "app"


def test_a_second_network_is_connected_afterwards_before_1_44() -> None:
    container = inspects.container("1.45")
    second = {"IPAddress": "172.31.0.9", "MacAddress": "02:42:ac:1f:00:09", "NetworkID": "x"}
    container["NetworkSettings"]["Networks"]["aaa"] = second
    spec = spec_of(container, inspects.network("aaa", "172.31.0.0/24"), inspects.network())
    assert [endpoint.network for endpoint in spec.endpoints] == ["app", "aaa"]
    old, new = create_request(spec, "1.41", "x"), create_request(spec, "1.45", "x")
    assert list(old.body["NetworkingConfig"]["EndpointsConfig"]) == ["app"]
    assert old.connect == (("aaa", {"IPAMConfig": {"IPv4Address": "172.31.0.9"}}),)
    assert list(new.body["NetworkingConfig"]["EndpointsConfig"]) == ["app", "aaa"]
    assert new.connect == ()


@pytest.mark.parametrize(
    ("hostname", "aliases"), [("web", ("cache",)), (ID[:12], ("cache", ID[:12]))]
)
def test_the_old_short_id_stays_an_alias_only_as_the_host_name(
    hostname: str, aliases: tuple[str, ...]
) -> None:
    container = inspects.container("1.41")
    container["Config"]["Hostname"] = hostname
    assert spec_of(container).endpoints[0].aliases == aliases


def test_a_network_nobody_inspected_is_refused() -> None:
    with pytest.raises(Unsupported, match="`app`"):
        spec_of(inspects.container("1.45"), inspects.network("other"))


# -- volumes --------------------------------------------------------------------------------------


def test_empty_volumes_are_made_anew_and_stay_empty() -> None:
    container = inspects.container("1.51")
    container["Mounts"] = [volume("data", "/data"), volume(inspects.VOLUME_ID, "/cache")]
    tmpfs = {"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1048576}}
    container["HostConfig"]["Mounts"] = [tmpfs]
    spec = spec_of(container, empty_volumes={"data", inspects.VOLUME_ID})
    assert spec.host_config["Mounts"] == [
        tmpfs,
        {
            "Type": "volume",
            "Target": "/data",
            "VolumeOptions": {"NoCopy": True},
            "Source": "data",
            "ReadOnly": False,
        },
        {"Type": "volume", "Target": "/cache", "VolumeOptions": {"NoCopy": True}},
    ]
