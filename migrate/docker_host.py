"""The Docker of this host: the only module that calls its API.

Thin over docker-py's low-level `APIClient`; every failure of docker-py becomes one of ours, with
the daemon's own explanation in it. API: https://docs.docker.com/reference/api/engine/.
"""

from __future__ import annotations

import difflib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from typing import Any, cast

import docker
import docker.errors
import docker.utils
import requests.exceptions

from migrate.errors import (
    Busy,
    ContainerNotFound,
    DockerUnavailable,
    HostUnfit,
    NameTaken,
    PlacementFailed,
    RestoreFailed,
)
from migrate.networks import NetworkSpec, parse_api
from migrate.placement import ImageView
from transport.errors import Failure

TIMEOUT = 60
"""Seconds that a call may take to answer."""

PATIENCE = 3600
"""The same for calls that take long: before the first byte of `docker save` the whole image is
packed."""

Inspect = dict[str, Any]


class DockerHost:
    """A connection to the dockerd of this host (DOCKER_HOST and its like are respected).

    Every method can raise `DockerUnavailable`, when dockerd does not answer or answers with
    something unforeseen; what else a method raises is said there. Not for use by several threads
    at once, but for `start`, `save_image` and `load_image`, which have a connection of their own.
    """

    def __init__(self, connect: Callable[[int], Any] | None = None) -> None:
        """`connect` makes a `docker.APIClient` with a timeout in seconds; the default reads the
        environment.
        """
        # Any: types-docker has half of its methods untyped, and we call some that are private.
        self._connect = connect or _from_environment
        with _mapped("connect to Docker"):
            self._client = self._connect(TIMEOUT)

    @property
    def api_version(self) -> str:
        """The version of the API that is spoken, dockerd's own: "1.51"."""
        return str(self._client.api_version)

    def info(self) -> Inspect:
        """`GET /info`."""
        with _mapped("read Docker's settings"):
            return cast(Inspect, self._client.info())

    # -- containers -------------------------------------------------------------------------------

    def inspect_container(self, name: str) -> Inspect:
        """`GET /containers/NAME/json`; a name, an id or the start of one, as dockerd resolves it.

        Raises `ContainerNotFound`, which suggests names that are alike.
        """
        try:
            # 400: "multiple IDs found with provided prefix".
            what = f"inspect the container `{name}`"
            with _mapped(what, missing=ContainerNotFound, invalid=ContainerNotFound):
                return cast(Inspect, self._client.inspect_container(name))
        except ContainerNotFound as failure:
            alike = difflib.get_close_matches(name, self._names(), n=3)
            if not alike:
                raise
            remedy = "did you mean " + " or ".join(f"`{other}`" for other in alike) + "?"
            raise ContainerNotFound(failure.message, remedy) from failure

    def containers(self) -> list[Inspect]:
        """`GET /containers/json?all=1`: those that are stopped, too."""
        with _mapped("list the containers"):
            return cast(list[Inspect], self._client.containers(all=True))

    def create_container(self, body: Mapping[str, Any], name: str) -> str:
        """Create a container and give its id.

        Raises `NameTaken`, or `PlacementFailed` with dockerd's reason (also for a missing image).
        """
        what = f"create the container `{name}`"
        with _mapped(what, missing=PlacementFailed, conflict=NameTaken, other=PlacementFailed):
            made = self._client.create_container_from_config(dict(body), name)
            return str(made["Id"])

    def connect_network(self, container: str, network: str, endpoint: Mapping[str, Any]) -> None:
        """Put a created container into one more network. Raises `PlacementFailed`."""
        # docker-py's own method knows only some of the fields of an EndpointSettings.
        client = self._client
        with _mapped(f"connect the container to `{network}`", *(PlacementFailed,) * 3):
            response = client._post_json(
                client._url("/networks/{0}/connect", network),
                data={"Container": container, "EndpointConfig": dict(endpoint)},
            )
            client._raise_for_status(response)

    def start(self, container: str, patience: int = PATIENCE) -> None:
        """Start a container; with our runtime this waits for the restore to end (up to `patience`
        seconds).

        Raises `ContainerNotFound`, or `RestoreFailed` with dockerd's reason.
        """
        with (
            _mapped("start the container", ContainerNotFound, RestoreFailed, RestoreFailed),
            closing(self._connect(patience)) as client,
        ):
            client.start(container)

    def kill(self, container: str) -> None:
        """Kill it; one that does not run any more is fine. Raises `ContainerNotFound`."""
        with (
            suppress(Busy),
            _mapped("kill the container", ContainerNotFound, Busy),
        ):
            self._client.kill(container)

    def remove(self, container: str, *, force: bool = False, volumes: bool = False) -> None:
        """Remove it; `force`: kill it first, `volumes`: its anonymous ones too. One gone is fine.

        Raises `Busy` if it runs (without `force`) or is being removed already.
        """
        try:
            with _mapped("remove the container", ContainerNotFound, Busy):
                self._client.remove_container(container, v=volumes, force=force)
        except ContainerNotFound:
            return

    def rename(self, container: str, name: str) -> None:
        """Give it another name. Raises `ContainerNotFound`, or `NameTaken`."""
        with _mapped("rename the container", ContainerNotFound, NameTaken):
            self._client.rename(container, name)

    def set_restart_policy(self, container: str, policy: Mapping[str, Any]) -> None:
        """Change the policy of a container: `{"Name": "no"}`. Raises `ContainerNotFound`."""
        with _mapped("change the restart policy", ContainerNotFound):
            self._client.update_container(container, restart_policy=dict(policy))

    def last_plugged(self, container: str, since: float) -> float | None:
        """When a container (its id) has last been started or connected to a network, in seconds
        since the epoch; None when that was before `since`. (`GET /events`, of which dockerd keeps
        the last 256.)"""
        wanted = {"type": ["container", "network"], "event": ["start", "connect"]}
        asked = {
            "since": f"{since:.6f}", "until": f"{time.time():.6f}", "filters": json.dumps(wanted),
        }  # fmt: skip
        client = self._client
        with _mapped("read Docker's events"):  # docker-py's own method waits for ever
            answer = client._get(client._url("/events"), params=asked, timeout=TIMEOUT)
            client._raise_for_status(answer)
        found = [json.loads(line) for line in answer.content.splitlines() if line]
        times = [int(e["timeNano"]) / 1e9 for e in found if _is_of(e, container)]
        return max(times, default=None)

    def _names(self) -> list[str]:
        return [
            str(name).removeprefix("/")
            for item in self.containers()
            for name in item.get("Names") or ()
        ]

    # -- networks ---------------------------------------------------------------------------------

    def networks(self) -> list[Inspect]:
        """`GET /networks`."""
        with _mapped("list the networks"):
            return cast(list[Inspect], self._client.networks())

    def inspect_network(self, name: str) -> Inspect:
        """`GET /networks/NAME`. Raises `PlacementFailed` if there is none."""
        with _mapped(f"inspect the network `{name}`", PlacementFailed):
            return cast(Inspect, self._client.inspect_network(name))

    def create_network(self, network: NetworkSpec) -> str:
        """Make a network and give its id. Raises `PlacementFailed` with dockerd's reason."""
        client = self._client
        body = network.body(parse_api(self.api_version))
        with _mapped(f"create the network `{network.name}`", *(PlacementFailed,) * 3):
            # Not docker-py's create_network: it has no EnableIPv4.
            response = client._post_json(
                client._url("/networks/create"),
                data=body,
            )
            return str(client._result(response, json=True)["Id"])

    def remove_network(self, name: str) -> None:
        """Remove a network; one that is gone is fine. Raises `Busy` if it is in use."""
        try:
            # 403 "has active endpoints" is how dockerd says that it is in use.
            with _mapped(f"remove the network `{name}`", PlacementFailed, Busy, Busy):
                self._client.remove_network(name)
        except PlacementFailed:
            return

    # -- images and volumes -----------------------------------------------------------------------

    def inspect_image(self, reference: str) -> Inspect:
        """`GET /images/REFERENCE/json`. Raises `PlacementFailed` if there is none."""
        with _mapped(f"inspect the image `{reference}`", PlacementFailed):
            return cast(Inspect, self._client.inspect_image(reference))

    def images_view(self) -> tuple[ImageView, ...]:
        """All images with their layers, for `migrate.placement`; one call per image."""
        with _mapped("list the images"):
            listed = cast(list[Inspect], self._client.images())
        views = []
        for item in listed:
            try:
                image = self.inspect_image(str(item["Id"]))
            except PlacementFailed:
                continue  # removed between the two calls
            views.append(
                ImageView(
                    id=str(image["Id"]),
                    layers=tuple((image.get("RootFS") or {}).get("Layers") or ()),
                    repo_tags=tuple(image.get("RepoTags") or ()),
                    repo_digests=tuple(image.get("RepoDigests") or ()),
                )
            )
        return tuple(views)

    def remove_image(self, image: str) -> None:
        """Remove an image and its tags; one that is gone, or in use, is left as it is."""
        with suppress(PlacementFailed), _mapped("remove the image", *(PlacementFailed,) * 2):
            self._client.remove_image(image, force=True)

    def save_image(self, reference: str) -> Iterator[bytes]:
        """The tar of `docker save`, in pieces. Raises `PlacementFailed` if there is no such image.

        The call is made when the first piece is asked for.
        """
        with (
            _mapped(f"save the image `{reference}`", PlacementFailed),
            closing(self._patient()) as client,
        ):
            yield from cast(Iterator[bytes], client.get_image(reference))

    def load_image(self, chunks: Iterable[bytes]) -> tuple[str, ...]:
        """`docker load`; gives what dockerd says it loaded, references or ids.

        What `chunks` raises goes through; `PlacementFailed` if dockerd does not take the image.
        """
        source = _Guarded(chunks)
        loaded: list[str] = []
        try:
            with (
                _mapped("load the image", *(PlacementFailed,) * 3),
                closing(self._patient()) as client,
            ):
                # Not docker-py's load_image, which can read only a chunked answer.
                url = client._url("/images/load")
                response = client._post(url, data=source, params={"quiet": 1}, stream=True)
                client._raise_for_status(response)
                for raw in response.iter_lines():
                    # The answer is 200 before the work is done: a failure is a line of the stream.
                    line = json.loads(raw) if raw.strip() else {}
                    if line.get("error"):
                        raise PlacementFailed(f"could not load the image: {line['error']}")
                    text = str(line.get("stream") or "").strip()
                    if text.startswith("Loaded image"):
                        loaded.append(text.partition(": ")[2])
        except Failure as failure:
            # A source that dies breaks the request, and dockerd's view of that is not the cause.
            if source.broken is not None:
                raise source.broken from failure
            raise
        return tuple(loaded)

    def volume_is_empty(self, name: str) -> bool:
        """Whether a volume holds no file at all, as far as it can be looked into (else False).

        Raises `PlacementFailed` if there is none, `HostUnfit` if we may not read it.
        """
        with _mapped(f"inspect the volume `{name}`", PlacementFailed):
            return _holds_nothing(self._client.inspect_volume(name))

    def volumes(self) -> dict[str, bool]:
        """All volumes by name, and whether each is known to be empty."""
        with _mapped("list the volumes"):
            listed = self._client.volumes().get("Volumes") or ()
        found = dict.fromkeys((str(volume["Name"]) for volume in listed), False)
        for volume in listed:
            with suppress(HostUnfit):
                found[str(volume["Name"])] = _holds_nothing(volume)
        return found

    def remove_volume(self, name: str) -> None:
        """Remove a volume; one that is gone, or in use, is left as it is."""
        with suppress(PlacementFailed), _mapped("remove the volume", *(PlacementFailed,) * 2):
            self._client.remove_volume(name)

    def _patient(self) -> Any:
        return self._connect(PATIENCE)


def _is_of(event: Inspect, container: str) -> bool:
    actor = event["Actor"]
    if event["Type"] == "network":
        return bool(actor["Attributes"].get("container") == container)
    return bool(actor["ID"] == container)


def _holds_nothing(volume: Inspect) -> bool:
    """Only what is no mount of something else can be looked into while no container uses it (moby,
    volume/local: with options it is mounted for the first container)."""
    if volume.get("Driver") != "local" or volume.get("Options"):
        return False
    try:
        return is_empty(str(volume["Mountpoint"]))
    except OSError as error:
        raise HostUnfit(
            f"cannot look into the volume `{volume['Name']}`: {error}", "run as root"
        ) from error


def is_empty(directory: str) -> bool:
    """Whether there is nothing in a directory. Raises OSError."""
    with os.scandir(directory) as entries:
        return next(entries, None) is None


class _Guarded:
    """An iterable of bytes that remembers what broke it, which requests would hide."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self.broken: Exception | None = None

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._chunks
        except Exception as error:
            self.broken = error
            raise


def _from_environment(timeout: int) -> Any:
    return docker.APIClient(version="auto", timeout=timeout, **docker.utils.kwargs_from_env())


@contextmanager
def _mapped(
    what: str,
    missing: type[Failure] = DockerUnavailable,
    conflict: type[Failure] = DockerUnavailable,
    other: type[Failure] = DockerUnavailable,
    invalid: type[Failure] | None = None,
) -> Iterator[None]:
    """Turn docker-py's failures inside into ours: of the class `missing` for HTTP 404, `conflict`
    for 409, `invalid` (if given) for 400, `other` for all other answers, and `DockerUnavailable`
    for no answer.
    """
    try:
        yield
    except docker.errors.APIError as error:
        kinds = {404: missing, 409: conflict, 400: invalid or other}
        kind = kinds.get(error.status_code or 0, other)
        reason = str(error.explanation or error).strip().rstrip(".")
        # Where no more precise failure fits, dockerd does run: its remedy would mislead.
        remedy = "see dockerd's log" if kind is DockerUnavailable else None
        raise kind(f"could not {what}: {reason}", remedy) from error
    except docker.errors.NullResource as error:
        raise missing(f"could not {what}: the name is empty") from error
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        raise DockerUnavailable(f"could not {what}: {_cause(error)}") from error


def _cause(error: BaseException) -> str:
    """The innermost reason: requests wraps a `[Errno 111] Connection refused` three times."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, requests.exceptions.Timeout):
            return "Docker did not answer in time"
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        inner = inner.__cause__ or inner.__context__
    return str(error)
