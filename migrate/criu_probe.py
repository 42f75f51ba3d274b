"""Find out whether CRIU really works on this host: dump and restore a small process with sockets.

`criu check` is not enough: Debian 13's criu 4.1.1 says `Looks good` on Linux >= 6.16 and then
fails on every inet socket (criu issues 2705, 2718, 2829).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

import migrate
from migrate.errors import CommandFailed
from migrate.run import run, tail

CACHE_NAME = "criu-probe.json"
PROBE_WITHIN = 60.0  # seconds for everything; more than what the steps inside may take together
# Debian keeps criu in /usr/sbin, which is not on the PATH of every ssh session.
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


class ProbeResult(msgspec.Struct, frozen=True):
    """Whether CRIU works here; if not, why: `criu dump: ` or so and the line of CRIU's own log.

    `seconds` is what the probe took when it was made; `cached` says that that was an earlier time.
    """

    ok: bool
    reason: str
    seconds: float
    cached: bool = False


class ProbeKey(msgspec.Struct, frozen=True):
    """What a probe's outcome depends on: this criu binary on this kernel."""

    criu: str
    size: int
    mtime_ns: int
    kernel: str


class CachedProbe(msgspec.Struct, frozen=True):
    key: ProbeKey
    result: ProbeResult


class Outcome(msgspec.Struct, frozen=True):
    """What `migrate.criu_inside` prints."""

    ok: bool
    reason: str


def find_criu() -> str | None:
    """The absolute path of the criu binary, or None."""
    found = shutil.which("criu", path=f"{os.environ.get('PATH', os.defpath)}:{SBIN}")
    return None if found is None else os.path.realpath(found)


def probe(
    cache_dir: Path = Path("/var/lib/migrate"),
    *,
    criu: str | None = None,
    again: bool = False,
    sandbox: Sequence[str] | None = None,
) -> ProbeResult:
    """Dump and restore a process in namespaces of its own with `criu` (None: the one on PATH).

    Takes 0.3 to 1 s as root, and nothing when this binary has passed on this kernel before; with
    `again` it is tried anyway. Only a success is remembered: what made it fail (a missing package,
    a sysctl) can be put right without changing binary or kernel. Never raises and leaves no
    process, mount or file behind but `cache_dir/criu-probe.json`, if that folder is there.
    `sandbox` replaces the command in front of the inner Python, for tests.
    """
    criu = criu or find_criu()
    if criu is None:
        return ProbeResult(False, "there is no criu on this host", 0.0)
    try:
        stat = os.stat(criu)
    except OSError as error:
        return ProbeResult(False, f"{criu}: {error.strerror}", 0.0)
    key = ProbeKey(criu, stat.st_size, stat.st_mtime_ns, os.uname().release)
    cache = cache_dir / CACHE_NAME
    if not again and (known := _remembered(cache, key)) is not None:
        return msgspec.structs.replace(known, cached=True)
    started = time.monotonic()
    if sandbox is not None:
        outcome = _try(criu, sandbox)
    elif os.geteuid() == 0:
        outcome = _try(criu, _namespaces())
    else:
        outcome = Outcome(False, "only root can try CRIU out")
    result = ProbeResult(outcome.ok, outcome.reason, round(time.monotonic() - started, 3))
    if result.ok:
        _remember(cache, CachedProbe(key, result))
    return result


def _namespaces() -> list[str]:
    # Own pids: CRIU restores a process under its old pid, which must be free. Own net: CRIU locks
    # connections by firewall rules. --kill-child: when run() kills unshare at the end of its
    # patience, the kernel kills pid 1 inside, and with it everything in that pid namespace.
    unshare = ["unshare", "--net", "--pid", "--ipc", "--uts", "--fork", "--mount-proc"]
    return [*unshare, "--kill-child", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]


def _try(criu: str, sandbox: Sequence[str]) -> Outcome:
    # The package may lie where the inner Python would not look by itself (a source tree).
    package = str(Path(migrate.__file__).resolve().parents[1])
    env = {**os.environ, "PYTHONPATH": package}
    env["PATH"] = f"{env.get('PATH', os.defpath)}:{SBIN}"
    with tempfile.TemporaryDirectory(prefix="migrate-probe-") as directory:
        try:
            result = run(
                [*sandbox, sys.executable, "-m", "migrate.criu_inside", criu, directory],
                timeout=PROBE_WITHIN,
                check=False,
                env=env,
            )
        except CommandFailed as error:
            return Outcome(False, error.message)
    try:
        return msgspec.json.decode(result.stdout, type=Outcome)
    except msgspec.DecodeError:  # it died before it could say anything: unshare was refused, say
        return Outcome(False, f"the probe ended with {result.returncode}: {tail(result)}")


def _remembered(cache: Path, key: ProbeKey) -> ProbeResult | None:
    try:
        known = msgspec.json.decode(cache.read_bytes(), type=CachedProbe)
    except (OSError, msgspec.DecodeError):  # none yet, or of an older version: probe anew
        return None
    return known.result if known.key == key else None


def _remember(cache: Path, known: CachedProbe) -> None:
    # Without the cache the next probe takes its second again; that is no reason to fail.
    with contextlib.suppress(OSError):
        new = cache.with_name(f"{CACHE_NAME}.{os.getpid()}")
        new.write_bytes(msgspec.json.format(msgspec.json.encode(known), indent=2))
        new.replace(cache)
