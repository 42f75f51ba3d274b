"""Make this host ready: dockerd knows the runtime `migrate`, and our folders are there.

The only file of somebody else that is changed is Docker's daemon.json. Adding a runtime needs no
restart of dockerd, a reload (SIGHUP) does
(https://docs.docker.com/reference/cli/dockerd/#configuration-reload-behavior).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from migrate.config_file import as_root, read, replace
from migrate.daemon_json import add_runtime, registered_path, remove_runtime
from migrate.errors import (
    Busy,
    CommandFailed,
    ConfigBroken,
    DockerUnavailable,
    HostUnfit,
    RuntimeMissing,
)
from migrate.host_facts import (
    RUNTIME,
    DockerInfo,
    Finding,
    HostFacts,
    ask_docker,
    docker_facts,
    docker_problem,
    facts,
)
from migrate.host_findings import findings
from migrate.run import run
from transport.errors import Failure

__all__ = [
    "Finding", "HostFacts", "Places", "SetupReport", "facts", "findings", "make_state_dirs",
    "runtime_path", "setup", "undo",
]  # fmt: skip

SCRIPT = "migrate-runc"
STABLE = Path("/usr/local/bin") / SCRIPT
BACKUP_SUFFIX = ".migrate-backup"
POLL_EVERY = 0.1  # seconds; a reload is done in 10 to 50 ms


@dataclass(frozen=True)
class Places:
    """Where things are on this host; tests put them elsewhere."""

    etc_docker: Path = Path("/etc/docker")
    docker_pid: Path = Path("/var/run/docker.pid")
    proc: Path = Path("/proc")
    systemd: Path = Path("/run/systemd/system")
    state: Path = Path("/var/lib/migrate")
    run: Path = Path("/run/migrate")

    @property
    def cache(self) -> Path:
        """Where pages of containers that left are kept (migrate/page_cache.py makes it)."""
        return self.state / "cache"


class SetupReport(msgspec.Struct, frozen=True):
    """What was done, as sentences, and how the host stands now. No change: nothing was to do."""

    changes: list[str]
    findings: list[Finding]


Reload = Callable[[Places], None]


def setup(
    places: Places | None = None,
    *,
    docker_info: DockerInfo = ask_docker,
    reload: Reload | None = None,
    script: Path | None = None,
    wait: float = 10.0,
) -> SetupReport:
    """Register the runtime `migrate` with dockerd and make our folders; twice is as good as once.

    `script`: the runtime's absolute path (None: `runtime_path()`). `wait`: seconds for dockerd to
    list it after the reload; when it does not, daemon.json is put back and `RuntimeMissing`
    raised. Other errors: `ConfigBroken`, `DockerUnavailable`, `HostUnfit` (not root).
    """
    places = places or Places()
    script = script or runtime_path()
    with as_root():
        changes = make_state_dirs(places)
    config = _config_path(places)
    before = read(config)
    after = add_runtime(before, RUNTIME, str(script))
    listed = _listed(docker_info)  # a dockerd that does not answer fails here, with all untouched
    if before != after or listed != str(script):
        backup = _backup(config)
        if before is not None and before != after:
            with as_root():
                replace(backup, before, like=config)
        try:
            _apply(
                places,
                before,
                [after],
                lambda: _listed(docker_info) == str(script),
                reload,
                wait,
                RuntimeMissing,
            )
        except BaseException:
            if before != after:  # the file is again what the copy is
                backup.unlink(missing_ok=True)
            raise
        if before != after:
            changes.append(f"registered the runtime `{RUNTIME}` ({script}) in {config}")
        changes.append("dockerd has read its configuration again")
    return SetupReport(changes, findings(facts(docker_info=docker_info, proc=places.proc)))


def undo(
    places: Places | None = None,
    *,
    docker_info: DockerInfo = ask_docker,
    users: Callable[[], list[str]] | None = None,
    reload: Reload | None = None,
    wait: float = 10.0,
) -> SetupReport:
    """Take the runtime `migrate` out of Docker's configuration; our state folders stay.

    Raises `Busy` while containers have the runtime (`users` gives their names): they could not
    be started any more. Other errors as `setup`, and `HostUnfit` when dockerd does not let go.
    """
    places = places or Places()
    config = _config_path(places)
    before = read(config)
    registered = registered_path(before, RUNTIME)
    if registered is None:
        return SetupReport([], [])
    if Path(registered).name != SCRIPT:
        raise ConfigBroken(
            f"the runtime `{RUNTIME}` in {config} is {registered}, which is not ours",
            "take it out by hand if nobody needs it",
        )
    if names := (users or containers_of_runtime)():
        raise Busy(
            f"containers have the runtime `{RUNTIME}`: {', '.join(names)}",
            "remove them, or migrate them away; without the runtime they could not be started",
        )
    if docker_facts(docker_info()).default_runtime == RUNTIME:
        raise ConfigBroken(
            f"`{RUNTIME}` is Docker's default runtime",
            f'set "default-runtime" in {config} to "runc" and restart dockerd',
        )
    final = remove_runtime(before, RUNTIME, registered)
    if final is None and _backup(config).exists():
        final = "{}\n"  # there was a file before us
    # First with "runtimes": {}, since a dockerd that does not find the key keeps what it knows.
    steps = [remove_runtime(before, RUNTIME, registered, keep_empty=True), final]
    _apply(places, before, steps, lambda: _listed(docker_info) is None, reload, wait, HostUnfit)
    if read(_backup(config)) == final:  # as before setup: the copy tells nothing any more
        with as_root():
            _backup(config).unlink(missing_ok=True)
    changes = [
        f"took the runtime `{RUNTIME}` out of {config}",
        "dockerd has read its configuration again",
    ]
    return SetupReport(changes, [])


def host_id(places: Places | None = None) -> str:
    """This host's own random name, made once; the folders are there. Not /etc/machine-id, which
    cloned machines share."""
    path = (places or Places()).state / "host-id"
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        fresh = path.with_name(f".host-id-{secrets.token_hex(4)}")
        fresh.write_text(secrets.token_hex(16) + "\n")
        with contextlib.suppress(FileExistsError):  # two at once: the first one's counts
            os.link(fresh, path)
        fresh.unlink()
        return path.read_text().strip()


def known_host_id(places: Places | None = None) -> str:
    """`host_id`, but "" when it was never made: for who must not change anything."""
    try:
        return ((places or Places()).state / "host-id").read_text().strip()
    except OSError:
        return ""


def make_state_dirs(places: Places | None = None) -> list[str]:
    """Make our folders where they are missing, for root only; give what was made, as sentences.

    /run is emptied at each boot, so whoever needs /run/migrate calls this.
    """
    places = places or Places()
    made = []
    for folder in (places.state, places.state / "journal", places.run):
        if not folder.is_dir():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            made.append(f"made {folder}")
        if folder.stat().st_mode & 0o077:
            folder.chmod(0o700)  # memory images of containers come to lie here
            made.append(f"closed {folder} to others")
    return made


def runtime_path() -> Path:
    """The installed `migrate-runc`, by its most lasting name; `HostUnfit` when there is none.

    /usr/local/bin/migrate-runc is preferred when it is the same file: it stays when the virtual
    environment is made anew elsewhere, and dockerd keeps the path for every container.
    """
    beside = Path(sys.executable).parent / SCRIPT
    found = beside if beside.is_file() else None
    if found is None and (on_path := shutil.which(SCRIPT)):
        found = Path(on_path)
    if found is None:
        raise HostUnfit(f"the program {SCRIPT} is not installed", "install migrate as README says")
    if STABLE.is_file() and STABLE.samefile(found):
        return STABLE
    return found.absolute()


def containers_of_runtime() -> list[str]:
    """The names of all containers, running or not, that were made with the runtime `migrate`."""
    import docker  # see ask_docker

    names = []
    try:
        client = docker.from_env(version="auto", timeout=10)
        with contextlib.closing(client):
            for summary in client.api.containers(all=True):
                # The list does not tell the runtime; a container may go while we look.
                with contextlib.suppress(docker.errors.NotFound):
                    details = client.api.inspect_container(summary["Id"])
                    if details["HostConfig"].get("Runtime") == RUNTIME:
                        names.append(str(details["Name"]).lstrip("/"))
    except (docker.errors.DockerException, OSError) as error:
        raise DockerUnavailable(docker_problem(str(error))) from error
    return sorted(names)


def reload_dockerd(places: Places) -> None:
    """Make dockerd read daemon.json again: SIGHUP to the process of its pid file, else systemd.

    `HostUnfit` when it cannot be found. That it has read does not mean that it liked it.
    """
    pid = dockerd_pid(places)
    if pid is not None:
        os.kill(pid, signal.SIGHUP)
    elif places.systemd.is_dir():
        try:
            run(["systemctl", "reload", "docker"], timeout=30)
        except CommandFailed as error:
            raise HostUnfit(error.message, "see `systemctl status docker`") from error
    else:
        raise HostUnfit(
            f"dockerd cannot be told to reload: {places.docker_pid} does not name its process",
            "restart dockerd, then run `migrate setup` again",
        )


def dockerd_pid(places: Places) -> int | None:
    """The pid of dockerd, or None when the pid file names no dockerd (it outlives a crash)."""
    try:
        pid = int(places.docker_pid.read_text())
        comm = (places.proc / str(pid) / "comm").read_text().strip()
    except (OSError, ValueError):
        return None
    return pid if comm == "dockerd" else None


def _config_path(places: Places) -> Path:
    # A linked daemon.json (some keep /etc in a repository) is changed where it really lies.
    return (places.etc_docker / "daemon.json").resolve()


def _backup(config: Path) -> Path:
    return config.with_name(config.name + BACKUP_SUFFIX)


def _listed(docker_info: DockerInfo) -> str | None:
    return docker_facts(docker_info()).runtimes.get(RUNTIME)


def _apply(
    places: Places,
    before: str | None,
    contents: list[str | None],
    accepted: Callable[[], bool],
    reload: Reload | None,
    wait: float,
    failure: type[Failure],
) -> None:
    """Write daemon.json, reload dockerd, wait; all goes back when it does not take it over.

    `contents`: the first is for the reload; what follows is written when dockerd has accepted it.
    """
    reload = reload or reload_dockerd
    config = _config_path(places)
    try:
        with as_root():
            replace(config, contents[0], like=config)
        reload(places)
        _wait_until(accepted, wait, config, failure)
        with as_root():
            for content in contents[1:]:
                replace(config, content, like=config)
    except BaseException:
        with as_root():
            replace(config, before, like=config)
        with contextlib.suppress(Failure, OSError):  # the failure above is the one to tell
            reload(places)
        raise


def _wait_until(
    accepted: Callable[[], bool], wait: float, config: Path, failure: type[Failure]
) -> None:
    deadline = time.monotonic() + wait
    while not accepted():
        if time.monotonic() > deadline:
            raise failure(
                f"dockerd has not taken over the change of {config} within {wait:.0f} s;"
                " the file is as it was",
                "see dockerd's log (`journalctl -u docker`); another file (`--config-file`) or"
                " `--add-runtime` on its command line are the usual causes",
            )
        time.sleep(POLL_EVERY)
