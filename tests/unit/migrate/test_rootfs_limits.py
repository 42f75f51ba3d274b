"""migrate.rootfs_limits: the paths of a container that stay with their host."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from migrate.container_spec import ContainerSpec, make_spec
from migrate.rootfs_limits import DOCKERS_OWN, MOUNT_POINTS, kept_paths
from tests.unit.migrate import inspects


def spec(config: dict[str, Any] | None = None, host: dict[str, Any] | None = None) -> ContainerSpec:
    plain = make_spec(inspects.container("1.51"), inspects.image(), [inspects.network()])
    return msgspec.structs.replace(plain, config=config or {}, host_config=host or {})


OWN = (*DOCKERS_OWN, *MOUNT_POINTS)


def test_a_plain_container_keeps_what_every_one_has() -> None:
    assert kept_paths(spec()) == OWN
    assert {"/etc/hosts", "/etc/resolv.conf", "/proc", "/sys", "/dev"} <= set(OWN)


@pytest.mark.parametrize(
    ("config", "host"),
    [
        ({}, {"Mounts": [{"Type": "volume", "Target": "/data"}]}),
        ({}, {"Mounts": [{"Type": "tmpfs", "Target": "/data/"}]}),
        ({}, {"Tmpfs": {"/data": "size=1m"}}),
        ({"Volumes": {"/data": {}}}, {}),
        (
            {"Volumes": {"/data": {}}},
            {"Tmpfs": {"/data/": ""}, "Mounts": [{"Target": "/data"}]},
        ),
    ],
)
def test_where_something_is_mounted_nothing_is_sent(
    config: dict[str, Any], host: dict[str, Any]
) -> None:
    assert kept_paths(spec(config, host)) == (*OWN, "/data")


@pytest.mark.parametrize("nothing", [None, [], {}])
def test_fields_that_say_nothing(nothing: Any) -> None:
    assert kept_paths(spec({"Volumes": nothing}, {"Mounts": nothing, "Tmpfs": nothing})) == OWN


def test_the_root_itself_is_never_kept() -> None:
    # It would keep everything from being sent.
    assert kept_paths(spec({}, {"Tmpfs": {"/": "", "": ""}})) == OWN
