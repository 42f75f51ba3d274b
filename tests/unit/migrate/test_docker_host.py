"""DockerHost: what it asks, and what failures become. The error texts are those of moby."""

from __future__ import annotations

import json
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import docker
import pytest

from migrate.docker_host import DockerHost
from migrate.errors import (
    Busy,
    ContainerNotFound,
    DockerUnavailable,
    HostUnfit,
    NameTaken,
    PlacementFailed,
    RestoreFailed,
)
from migrate.networks import network_spec
from tests.unit.migrate import inspects
from tests.unit.migrate.fake_docker import Chunked, Daemon
from transport.errors import ConnectionLost, Failure


@pytest.fixture
def daemon(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Daemon]:
    path = tmp_path / "docker.sock"
    with Daemon(path, getattr(request, "param", "1.51")) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        server.host = DockerHost(
            lambda timeout: docker.APIClient(f"unix://{path}", version="auto", timeout=5)
        )
        yield server
        server.shutdown()
        thread.join()


# -- connecting -----------------------------------------------------------------------------------


def test_no_docker_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(DockerUnavailable, match="No such file or directory") as raised:
        DockerHost()
    assert raised.value.remedy == DockerUnavailable.default_remedy


def test_a_docker_that_goes_away(daemon: Daemon) -> None:
    Path(str(daemon.server_address)).unlink()
    with pytest.raises(DockerUnavailable, match="list the containers"):
        daemon.host.containers()


def test_a_docker_that_hangs(tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    # Bound and listening, but nobody answers.
    with (
        socketserver.UnixStreamServer(str(path), socketserver.BaseRequestHandler),
        pytest.raises(DockerUnavailable, match="did not answer in time"),
    ):
        DockerHost(lambda timeout: docker.APIClient(f"unix://{path}", "auto", timeout=1))


@pytest.mark.parametrize("daemon", ["1.41", "1.45", "1.51"], indirect=True)
def test_the_daemons_own_version_is_spoken(daemon: Daemon, request: pytest.FixtureRequest) -> None:
    assert daemon.host.api_version == request.node.callspec.params["daemon"]


# -- failures -------------------------------------------------------------------------------------

NO_SUCH = "No such container: web"
CASES: list[tuple[str, int, str, Callable[[DockerHost], Any], type[Failure]]] = [
    ("GET /info", 500, "boom", lambda host: host.info(), DockerUnavailable),
    ("POST /containers/web/start", 404, NO_SUCH, lambda h: h.start("web"), ContainerNotFound),
    (
        "POST /containers/web/start",
        500,
        "failed to create task for container: OCI runtime create failed",
        lambda host: host.start("web"),
        RestoreFailed,
    ),
    (
        "DELETE /containers/web",
        409,
        "cannot remove container: container is running",
        lambda host: host.remove("web"),
        Busy,
    ),
    (
        "POST /containers/web/update",
        404,
        NO_SUCH,
        lambda host: host.set_restart_policy("web", {"Name": "no"}),
        ContainerNotFound,
    ),
    (
        "POST /containers/create",
        409,
        'Conflict. The container name "/web" is already in use',
        lambda host: host.create_container({}, "web"),
        NameTaken,
    ),
    (
        "POST /containers/create",
        404,
        "No such image: redis:7",
        lambda host: host.create_container({}, "web"),
        PlacementFailed,
    ),
    (
        "POST /containers/create",
        400,
        "invalid endpoint settings: user specified IP address is supported only when",
        lambda host: host.create_container({}, "web"),
        PlacementFailed,
    ),
    (
        "POST /networks/create",
        403,
        "invalid pool request: Pool overlaps with other one on this address space",
        lambda host: host.create_network(network_spec(inspects.network())),
        PlacementFailed,
    ),
    (
        "POST /networks/app/connect",
        404,
        "network app not found",
        lambda host: host.connect_network("web", "app", {}),
        PlacementFailed,
    ),
    (
        "DELETE /networks/app",
        403,
        "error while removing network: network app has active endpoints",
        lambda host: host.remove_network("app"),
        Busy,
    ),
    (
        "GET /networks/app",
        404,
        "network app not found",
        lambda host: host.inspect_network("app"),
        PlacementFailed,
    ),
    (
        "GET /images/redis:7/json",
        404,
        "No such image: redis:7",
        lambda host: host.inspect_image("redis:7"),
        PlacementFailed,
    ),
    (
        "GET /images/redis:7/get",
        404,
        "No such image: redis:7",
        lambda host: list(host.save_image("redis:7")),
        PlacementFailed,
    ),
    (
        "GET /volumes/data",
        404,
        "get data: no such volume",
        lambda host: host.volume_is_empty("data"),
        PlacementFailed,
    ),
]


@pytest.mark.parametrize(("call", "status", "message", "action", "kind"), CASES)
def test_what_answers_become(
    daemon: Daemon,
    call: str,
    status: int,
    message: str,
    action: Callable[[DockerHost], Any],
    kind: type[Failure],
) -> None:
    daemon.fail(call, status, message)
    with pytest.raises(kind) as raised:
        action(daemon.host)
    assert type(raised.value) is kind
    assert message in raised.value.message
    assert isinstance(raised.value.__cause__, docker.errors.APIError)


def test_what_is_gone_already_need_not_be_removed(daemon: Daemon) -> None:
    daemon.fail("DELETE /containers/web", 404, NO_SUCH)
    daemon.fail("DELETE /networks/app", 404, "network app not found")
    daemon.host.remove("web", force=True, volumes=True)
    daemon.host.remove_network("app")
    assert [call for call, _ in daemon.seen] == [
        "DELETE /containers/web?v=True&link=False&force=True",
        "DELETE /networks/app",
    ]


# -- containers -----------------------------------------------------------------------------------


def test_a_container_is_found_by_the_start_of_its_id(daemon: Daemon) -> None:
    daemon.answers["GET /containers/4fa6/json"] = (200, inspects.container("1.51"))
    assert daemon.host.inspect_container("4fa6")["Name"] == "/web"


def test_names_that_are_alike_are_suggested(daemon: Daemon) -> None:
    daemon.fail("GET /containers/quak/json", 404, "No such container: quak")
    daemon.answers["GET /containers/json"] = (
        200,
        [inspects.listed("quake", "exited"), inspects.listed("db")],
    )
    with pytest.raises(ContainerNotFound, match="No such container: quak") as raised:
        daemon.host.inspect_container("quak")
    assert raised.value.remedy == "did you mean `quake`?"
    daemon.fail("GET /containers/zzz/json", 404, "No such container: zzz")
    with pytest.raises(ContainerNotFound) as raised:
        daemon.host.inspect_container("zzz")
    assert raised.value.remedy == ContainerNotFound.default_remedy


def test_the_start_of_two_ids_is_not_found(daemon: Daemon) -> None:
    daemon.answers["GET /containers/json"] = (200, [])
    daemon.fail("GET /containers/4f/json", 400, "multiple IDs found with provided prefix: 4f")
    with pytest.raises(ContainerNotFound, match="multiple IDs"):
        daemon.host.inspect_container("4f")


def test_an_empty_name_is_not_found(daemon: Daemon) -> None:
    daemon.answers["GET /containers/json"] = (200, [])
    with pytest.raises(ContainerNotFound, match="the name is empty"):
        daemon.host.inspect_container("")


def test_create_sends_the_body_as_it_is(daemon: Daemon) -> None:
    daemon.answers["POST /containers/create"] = (201, {"Id": "new", "Warnings": []})
    body = {"Image": "redis:7", "HostConfig": {"Runtime": "migrate", "Annotations": {"a": "b"}}}
    assert daemon.host.create_container(body, "web") == "new"
    assert daemon.seen == [("POST /containers/create?name=web", body)]


def test_connect_and_update_say_everything(daemon: Daemon) -> None:
    daemon.answers["POST /networks/app/connect"] = (200, b"")
    daemon.answers["POST /containers/web/update"] = (200, {"Warnings": []})
    daemon.host.connect_network("web", "app", {"MacAddress": "02:00:00:00:00:01"})
    daemon.host.set_restart_policy("web", {"Name": "no"})
    assert [body for _, body in daemon.seen] == [
        {"Container": "web", "EndpointConfig": {"MacAddress": "02:00:00:00:00:01"}},
        {"RestartPolicy": {"Name": "no"}},
    ]


@pytest.mark.parametrize("daemon", ["1.41", "1.51"], indirect=True)
def test_a_network_is_created_as_the_version_wants_it(
    daemon: Daemon, request: pytest.FixtureRequest
) -> None:
    daemon.answers["POST /networks/create"] = (201, {"Id": "n1"})
    assert daemon.host.create_network(network_spec(inspects.network())) == "n1"
    body = daemon.seen[0][1]
    assert ("EnableIPv4" in body) == (request.node.callspec.params["daemon"] == "1.51")


# -- images and volumes ---------------------------------------------------------------------------


def test_the_view_of_images_skips_one_that_vanishes(daemon: Daemon) -> None:
    listed = [{"Id": inspects.IMAGE_ID}, {"Id": "sha256:gone"}]
    daemon.answers["GET /images/json"] = (200, listed)
    daemon.answers[f"GET /images/{inspects.IMAGE_ID}/json"] = (200, inspects.image())
    daemon.fail("GET /images/sha256:gone/json", 404, "No such image: sha256:gone")
    views = daemon.host.images_view()
    assert [(view.id, view.layers) for view in views] == [(inspects.IMAGE_ID, inspects.LAYERS)]


def test_an_image_goes_out_and_in(daemon: Daemon) -> None:
    tar = b"x" * 100_000
    daemon.answers["GET /images/redis:7/get"] = (200, tar)
    assert b"".join(daemon.host.save_image("redis:7")) == tar
    daemon.answers["POST /images/load"] = (200, b'{"stream":"Loaded image: redis:7\\n"}\n')
    assert daemon.host.load_image(iter([b"abc", b"def"])) == ("redis:7",)
    assert daemon.seen[-1] == ("POST /images/load?quiet=1", b"abcdef")


def test_an_image_that_docker_does_not_take(daemon: Daemon) -> None:
    lines = b'{"stream":"..."}\n{"errorDetail":{"message":"no space"},"error":"no space left"}\n'
    daemon.answers["POST /images/load"] = (200, lines)
    with pytest.raises(PlacementFailed, match="no space left"):
        daemon.host.load_image(iter([b"abc"]))


@pytest.mark.parametrize("error", [ConnectionLost("the link died"), OSError("the link died")])
def test_an_image_whose_source_dies(daemon: Daemon, error: Exception) -> None:
    def broken() -> Iterator[bytes]:
        yield b"abc"
        raise error

    with pytest.raises(type(error), match="the link died"):
        daemon.host.load_image(broken())


def test_volumes(daemon: Daemon, tmp_path: Path) -> None:
    def volume(driver: str, mountpoint: Path) -> None:
        content = {"Name": "data", "Driver": driver, "Mountpoint": str(mountpoint)}
        daemon.answers["GET /volumes/data"] = (200, content)

    empty, full = tmp_path / "empty", tmp_path / "full"
    empty.mkdir()
    (full / ".hidden").mkdir(parents=True)
    volume("local", empty)
    assert daemon.host.volume_is_empty("data")
    volume("local", full)
    assert not daemon.host.volume_is_empty("data")
    volume("rexray", empty)
    assert not daemon.host.volume_is_empty("data")
    volume("local", tmp_path / "missing")
    with pytest.raises(HostUnfit, match="No such file"):
        daemon.host.volume_is_empty("data")


def test_a_volume_that_is_a_mount_is_not_taken_for_empty(daemon: Daemon, tmp_path: Path) -> None:
    """Until a container uses it, its directory is an empty mount point."""
    (tmp_path / "data").mkdir()
    content = {"Name": "nfs", "Driver": "local", "Mountpoint": str(tmp_path / "data")}
    daemon.answers["GET /volumes/nfs"] = (200, content | {"Options": {"type": "nfs"}})
    assert not daemon.host.volume_is_empty("nfs")
    daemon.answers["GET /volumes/nfs"] = (200, content | {"Options": None})
    assert daemon.host.volume_is_empty("nfs")


def test_all_volumes(daemon: Daemon, tmp_path: Path) -> None:
    empty, full = tmp_path / "empty", tmp_path / "full"
    empty.mkdir()
    (full / "x").mkdir(parents=True)
    daemon.answers["GET /volumes"] = (200, {"Volumes": [
        {"Name": name, "Driver": "local", "Mountpoint": str(tmp_path / name)}
        for name in ("empty", "full", "missing")
    ]})  # fmt: skip
    assert daemon.host.volumes() == {"empty": True, "full": False, "missing": False}
    daemon.answers["GET /volumes"] = (200, {"Volumes": None})
    assert daemon.host.volumes() == {}


@pytest.mark.parametrize("status", [204, 404, 409])
def test_a_volume_goes_unless_it_is_in_use(daemon: Daemon, status: int) -> None:
    daemon.answers["DELETE /volumes/data"] = (status, {"message": "volume is in use"})
    daemon.host.remove_volume("data")


def test_when_a_container_was_last_plugged_in(daemon: Daemon) -> None:
    def event(kind: str, ident: str, nanoseconds: int, **attributes: str) -> dict[str, Any]:
        actor = {"ID": ident, "Attributes": attributes}
        return {"Type": kind, "Action": "x", "Actor": actor, "timeNano": nanoseconds}

    events = [
        event("network", "net", 5_250_000_000, container="app"),
        event("container", "app", 5_500_000_000, name="x"),
        event("container", "other", 6_000_000_000),
        event("network", "net", 7_000_000_000, container="other"),
    ]
    said = Chunked(b"".join(json.dumps(one).encode() + b"\n" for one in events))
    daemon.answers["GET /events"] = 200, said
    assert daemon.host.last_plugged("app", since=3.0) == 5.5
    assert daemon.host.last_plugged("gone", since=3.0) is None
    asked = parse_qs(daemon.seen[-1][0].partition("?")[2])
    assert asked["since"] == ["3.000000"]
    assert abs(float(asked["until"][0]) - time.time()) < 60  # else it goes on for ever
    assert json.loads(asked["filters"][0]) == {
        "type": ["container", "network"],
        "event": ["start", "connect"],
    }
