"""`migrate-runc` for a container with a pending restore: the calls `create`, `kill`, `delete`.

The shell script bin/migrate-runc comes here only when `/run/migrate/pending/ID` exists; it answers
`start` itself. Nothing but the standard library is imported: this is called by containerd's shim.

A pending directory (mode 0700) is made by the destination agent, or by hand, and holds:
`pending.json` (see `Pending`), and `agent.sock` when an agent steers the restore. All else in it is
made here and by the supervisor.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from migrate.cgroup_path import own_unified, unified_path
from migrate.network_hook import NetworkHook, network_hook, without_network_hook
from migrate.sysctls import of_network

ABORT_TIMEOUT = 15.0  # seconds that `kill` and `delete` wait for the supervisor to clean up
RAN = "ran"  # a file in the work directory: the container has come to run
STAGES = ("setup-namespaces", "post-restore")
TOOLS = "tools"  # a directory that stands first on CRIU's PATH
HOLDS = ("criu", *STAGES, "start")  # everything that can be held
RESTORE, RESTORE_UNPLUGGED = "restore", "restore-unplugged"  # the agent's words
DESCRIPTORS = "descriptors.json"  # runc's, in the image directory
UNIFIED = Path("/sys/fs/cgroup/cgroup.controllers")  # is there with cgroup v2, and nothing else
CREATE_OPTIONS = {"--bundle", "-b", "--pid-file", "--console-socket", "--preserve-fds"}


DOCKERS_FILES = "/etc/hosts", "/etc/resolv.conf"
"""Bind-mounted from what dockerd makes for each container (migrate/docker_files.py)."""


@dataclass(frozen=True)
class Call:
    """What the shim asked for: runc's global options, and the options of `create`."""

    globals: list[str]
    options: dict[str, str]
    log: str | None
    container: str


def parse_call(argv: list[str], verb: str, container: str) -> Call:
    """Take a command line of runc apart (runc(8): `runc [global options] create [options] ID`)."""
    at = argv.index(verb)
    globals_ = argv[:at]
    options: dict[str, str] = {}
    rest = iter(argv[at + 1 :])
    for word in rest:
        name, equals, value = word.partition("=")
        if name in CREATE_OPTIONS:
            options[name.replace("-b", "--bundle") if name == "-b" else name] = (
                value if equals else next(rest, "")
            )
    log = None
    for number, word in enumerate(globals_):
        if word == "--log" and number + 1 < len(globals_):
            log = globals_[number + 1]
        elif word.startswith("--log="):
            log = word.partition("=")[2]
    return Call(globals_, options, log, container)


@dataclass(frozen=True)
class Pending:
    """What to restore, from `pending.json`; times in seconds.

    `images`: CRIU image directory (may be filled later, when an agent steers); `work`: where CRIU's
    log goes; `criu_options`: lines for CRIU's configuration file, such as `tcp-established`.
    `deaf`: see `Supervisor.deafen`.
    """

    images: str
    work: str
    criu_options: tuple[str, ...]
    images_timeout: float
    restore_timeout: float
    commit_timeout: float
    deaf: bool = False

    @classmethod
    def read(cls, directory: Path) -> Pending:
        given: dict[str, Any] = json.loads((directory / "pending.json").read_text())
        return cls(
            images=given["images"],
            work=given["work"],
            criu_options=tuple(given.get("criu_options", ())),
            images_timeout=float(given.get("images_timeout", 3600)),
            restore_timeout=float(given.get("restore_timeout", 300)),
            commit_timeout=float(given.get("commit_timeout", 120)),
            deaf=bool(given.get("deaf", False)),
        )


@dataclass(frozen=True)
class Bundle:
    """What is to be known of an OCI bundle that was prepared.

    `hook`: was taken out of it, for the supervisor to do what it does; `sysctls`: of the network;
    `dockers`: where this host has the files that Docker makes, by their path in the container.
    """

    rootfs: str
    hook: NetworkHook | None = None
    sysctls: dict[str, str] = field(default_factory=dict)
    dockers: dict[str, str] = field(default_factory=dict)


def log_line(message: str) -> str:
    """An error as a line of runc's JSON log, where the shim looks for the reason of a failure."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return json.dumps({"level": "error", "msg": f"migrate-runc: {message}", "time": now})


def fail(call: Call, message: str) -> int:
    """Say why, where containerd (the log) and a person (stderr) look. Gives exit code 1."""
    if call.log:
        with open(call.log, "a") as log:
            log.write(log_line(message) + "\n")
    print(f"migrate-runc: {message}", file=sys.stderr)
    return 1


def search_path() -> str:
    """Where programs are looked for; dockerd may have been started with less."""
    return f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"


def cgroup_root(config: dict[str, Any], globals_: Sequence[str]) -> list[str]:
    """The line that tells CRIU the container's cgroup, as runc does not (migrate/cgroup_path.py).

    Of the v2 hierarchy alone: named v1 ones may be beside it, and have other roots.
    """
    path = unified_path(
        config.get("linux", {}).get("cgroupsPath", ""),
        systemd="--systemd-cgroup" in globals_,
        own=own_unified(Path("/proc/self/cgroup").read_text()),
    )
    return [f"cgroup-root :{path}"] if path else []


def with_real_sources(config: dict[str, Any]) -> None:
    """Name the files that are bind-mounted as they are called in the end.

    `runc create` follows a symbolic link in a source, by mount(2). `runc restore` hands the source
    to CRIU as it stands, and that does not follow it (Debian's docker-init, which `docker run
    --init` mounts, is such a link).
    """
    for mount in config.get("mounts") or ():
        if mount.get("source") and {"bind", "rbind"} & {
            mount.get("type"),
            *mount.get("options", ()),
        }:
            mount["source"] = os.path.realpath(mount["source"])


def prepare(
    directory: Path,
    pending: Pending,
    bundle: Path,
    globals_: Sequence[str] = (),
    unified: bool = False,
) -> Bundle:
    """Lay out the gates and name CRIU's configuration in the bundle. Gives what the supervisor has
    to know of that.

    `globals_`: runc's global options; `unified`: whether this host has cgroup v2.

    runc hands the file that the annotation `org.criu.config` names to CRIU (runc,
    docs/checkpoint-restore.md); CRIU runs the action script from it also in RPC mode, after runc's
    own notification (criu/action-scripts.c, run_scripts).
    """
    for stage in HOLDS:
        (directory / f"hold.{stage}").touch(0o600)
    os.mkfifo(directory / "said", 0o600)  # last: where it is, `abort` finds the rest, too
    gate = directory / "gate"
    for name in ("bin", TOOLS):
        (directory / name).mkdir()
    # Nothing executable is written here: /run is usually mounted noexec. See bin/migrate-runc.
    for link in (gate, directory / "bin" / "criu", directory / TOOLS / "tar"):
        link.symlink_to(os.environ["MIGRATE_SCRIPT"])
    config_path = bundle / "config.json"
    config = json.loads(config_path.read_text())
    lines = [f"action-script {gate}", *pending.criu_options]
    if unified:
        lines += cgroup_root(config, globals_)
    (directory / "criu.conf").write_text("".join(f"{line}\n" for line in lines))

    hook = network_hook(config)
    if hook and Path(hook.socket).is_socket():
        config = without_network_hook(config)
    else:
        hook = None
    with_real_sources(config)
    config.setdefault("annotations", {})["org.criu.config"] = str(directory / "criu.conf")
    fresh = config_path.with_suffix(".migrate")
    fresh.write_text(json.dumps(config))
    fresh.chmod(config_path.stat().st_mode & 0o7777)
    fresh.rename(config_path)
    dockers = {
        mount["destination"]: mount["source"]
        for mount in config.get("mounts") or ()
        if mount.get("destination") in DOCKERS_FILES
    }
    return Bundle(str(bundle / config["root"]["path"]), hook, of_network(config), dockers)


def create(directory: Path, call: Call) -> int:
    """Start the supervisor, wait until the restored init is there (held), note its pid."""
    from migrate.restore_supervisor import supervise

    try:
        pending = Pending.read(directory)
        bundle = Path(call.options["--bundle"])
        prepared = prepare(directory, pending, bundle, call.globals, UNIFIED.exists())
    except (OSError, KeyError, TypeError, ValueError) as problem:
        return fail(call, f"the pending restore of {call.container[:12]} is broken: {problem!r}")

    hear, say = os.pipe()
    if os.fork() == 0:
        os.setsid()
        os.close(hear)
        code = 1
        try:
            code = supervise(directory, pending, call, prepared, say)
        finally:
            os._exit(code)
    os.close(say)
    with os.fdopen(hear) as reader:
        word, _, rest = reader.readline().rstrip("\n").partition(" ")
    if word != "pid":
        return fail(call, rest or "the restore's supervisor died")
    Path(call.options["--pid-file"]).write_text(rest)
    os._exit(0)  # Docker waits for us within the freeze: not for Python's tidying up, too


def abort(directory: Path, *, may_come: bool = False) -> None:
    """Let the supervisor give up and clean up, then forget the pending restore.

    `may_come`: a `docker start` may be under way and call `create` yet. That must find a pending
    restore, a broken one, else runc would start the container afresh: so the directory stays, until
    the container is removed.
    """
    try:
        fd = os.open(directory / "said", os.O_RDWR | os.O_NONBLOCK)
    except FileNotFoundError:  # `create` was never called
        if may_come:
            (directory / "pending.json").unlink(missing_ok=True)
            return
    else:
        os.write(fd, b"abort\n")
        with (directory / "hold.start").open() as hold:
            deadline = time.monotonic() + ABORT_TIMEOUT
            while time.monotonic() < deadline:
                try:
                    fcntl.flock(hold, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    select.select([], [], [], 0.02)
        os.close(fd)
    shutil.rmtree(directory, ignore_errors=True)


def main() -> int:
    """Called by bin/migrate-runc as `migrate.runtime PENDING_DIR VERB ID runc's arguments...`."""
    directory, verb, container = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    argv = sys.argv[4:]
    call = parse_call(argv, verb, container)
    if verb == "create":
        return create(directory, call)
    abort(directory)
    runc = os.environ.get("MIGRATE_RUNC", "runc")
    return os.execvp(runc, [runc, *argv])


if __name__ == "__main__":
    sys.exit(main())
