"""The root file systems of the lab's hosts: built once by mmdebstrap, shared as lowers.

Two flavours: `trixie` is Debian 13 (Docker 26) with testing's CRIU, `forky` is Debian testing
(Docker 28). Debian 13's own CRIU 4.1 cannot dump a socket on Linux >= 6.16 (docs/criu-notes.md).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CACHE = Path(os.environ.get("MIGRATE_LAB_CACHE", "/var/cache/migrate-lab"))
FLAVOURS = ("trixie", "forky")
KEPT = 3  # trees of a flavour, of 0.5 GB each

PACKAGES = (
    "criu python3-pycriu docker.io docker-cli openssh-server openssh-client iproute2 iptables"
    " nftables conntrack procps busybox-static rsync python3 python3-venv python3-paramiko"
    " python3-docker python3-zstandard python3-tqdm python3-xxhash python3-msgspec sudo"
    " python3-prometheus-client cron"
).split()

# trixie takes these, and only these, from testing.
FROM_TESTING = "criu libcompel1 libnet9 python3-pycriu libnl-3-200"


def mirror() -> str:
    """The Debian mirror that this machine's apt is configured with."""
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for line in targets.splitlines():
        uri, _, release = line.partition(" ")
        if release in ("bookworm", "trixie", "forky", "stable", "testing"):
            return uri
    raise RuntimeError("this machine's apt has no Debian source to build the lab's hosts from")


def _sources(flavour: str, uri: str) -> list[str]:
    lines = [f"deb {uri} {flavour} main"]
    if flavour == "trixie":
        lines.append(f"deb {uri} forky main")
    return lines


def _preferences() -> str:
    return (
        "Package: *\nPin: release n=forky\nPin-Priority: 100\n\n"
        f"Package: {FROM_TESTING}\nPin: release n=forky\nPin-Priority: 990\n"
    )


def recipe_digest(flavour: str) -> str:
    """What the tree was built from; another recipe means another tree."""
    text = repr((flavour, PACKAGES, _preferences() if flavour == "trixie" else ""))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock: two test runs must not build the same thing at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def tree(flavour: str) -> Path:
    """The finished tree of a flavour; built when absent (about 40 s, 0.5 GB)."""
    if flavour not in FLAVOURS:
        raise ValueError(f"no such flavour: {flavour}")
    target = CACHE / f"{flavour}-{recipe_digest(flavour)}"
    with locked(CACHE / f".{flavour}.lock"):
        if not target.exists():
            # But the newest: another checkout may have another recipe, and a lab on it.
            trees = sorted(CACHE.glob(f"{flavour}-*"), key=lambda path: path.stat().st_ctime)
            for old in trees[: -KEPT + 1]:
                shutil.rmtree(old, ignore_errors=True)
            _build(flavour, target)
    return target


def _build(flavour: str, target: Path) -> None:
    building = target.with_name(f".building-{target.name}")
    shutil.rmtree(building, ignore_errors=True)
    command = ["mmdebstrap", "--variant=minbase", "--mode=root"]
    # Testing's Release file may be past its date in a mirror that is a snapshot.
    command += ['--aptopt=Acquire::Check-Valid-Until "false"']
    command += ['--aptopt=APT::Install-Recommends "false"', "--dpkgopt=force-unsafe-io"]
    command += ["--include=" + ",".join(PACKAGES)]
    preferences = CACHE / f".{flavour}.preferences"
    if flavour == "trixie":
        preferences.write_text(_preferences())
        command += [f"--setup-hook=copy-in {preferences} /etc/apt/preferences.d/"]
        command += [
            f'--setup-hook=mv "$1/etc/apt/preferences.d/{preferences.name}" '
            '"$1/etc/apt/preferences.d/lab"'
        ]
    log = CACHE / f"{flavour}.log"
    with log.open("w") as output:
        done = subprocess.run(
            [*command, flavour, str(building), *_sources(flavour, mirror())],
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=900,
            check=False,
        )
    if done.returncode != 0:
        shutil.rmtree(building, ignore_errors=True)
        last = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise RuntimeError(f"the tree {flavour} could not be built, see {log}:\n{last}")
    shutil.rmtree(building / "var/lib/apt/lists", ignore_errors=True)
    shutil.rmtree(building / "var/cache/apt", ignore_errors=True)
    building.rename(target)
