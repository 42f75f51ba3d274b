"""The root file systems of the lab's hosts: built once by mmdebstrap, shared as lowers.

Flavours: `trixie` is Debian 13 (Docker 26) with testing's CRIU, `forky` is Debian testing (Docker
28). Debian 13's own CRIU 4.1 cannot dump a socket on Linux >= 6.16 (docs/criu-notes.md). `bench` is
`trixie` with what tests/bench compares against, so that no ordinary test pays for that; `player` is
`trixie` with the real Quake 3 client and a screen in memory (examples/quake/real_client.py).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

CACHE = Path(os.environ.get("MIGRATE_LAB_CACHE", "/var/cache/migrate-lab"))
SUITES = {"trixie": "trixie", "forky": "forky", "bench": "trixie", "player": "trixie"}
FLAVOURS = tuple(SUITES)
KEPT = 3  # trees of a flavour, of 0.5 GB each

PACKAGES = (
    "criu python3-pycriu docker.io docker-cli openssh-server openssh-client iproute2 iptables"
    " nftables conntrack procps busybox-static rsync python3 python3-venv python3-paramiko"
    " python3-docker python3-zstandard python3-tqdm python3-xxhash python3-msgspec sudo"
    " python3-prometheus-client cron"
).split()

# Benchmarks also need: podman and its parts (libcriu2: what crun loads), redis, a compiler for the
# workload, whatever moves files. A player: the game with its data (0.4 GB to download), and an X
# server that draws into memory; Mesa's software renderer is what the client's dependencies bring.
EXTRA = {
    "bench": (
        "podman crun libcriu2 netavark aardvark-dns conmon redis-server redis-tools zstd gcc"
        " libc6-dev"
    ).split(),
    "player": "ioquake3 openarena xvfb libgl1-mesa-dri".split(),
}

# trixie takes these, and only these, from testing.
FROM_TESTING = "criu libcompel1 libnet9 python3-pycriu libnl-3-200"

# `docker checkpoint` is experimental; podman's graph cannot lie on the hosts' overlay root.
FILES = {
    "bench": {
        "etc/docker/daemon.json": '{"experimental": true}\n',
        "etc/containers/storage.conf": '[storage]\ndriver = "overlay"\n'
        'graphroot = "/var/lib/docker/podman"\nrunroot = "/run/containers/storage"\n',
        "etc/containers/containers.conf": '[engine]\nruntime = "crun"\n'
        'cgroup_manager = "cgroupfs"\nevents_logger = "file"\n',
    },
}


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
    lines = [f"deb {uri} {SUITES[flavour]} main"]
    if SUITES[flavour] == "trixie":
        lines.append(f"deb {uri} forky main")
    return lines


def _preferences(flavour: str) -> str:
    """What a trixie tree takes from testing; nothing for the others."""
    if SUITES[flavour] != "trixie":
        return ""
    newer = FROM_TESTING + (" libcriu2" if "libcriu2" in EXTRA.get(flavour, ()) else "")
    return (
        "Package: *\nPin: release n=forky\nPin-Priority: 100\n\n"
        f"Package: {newer}\nPin: release n=forky\nPin-Priority: 990\n"
    )


def recipe_digest(flavour: str) -> str:
    """What the tree was built from; another recipe means another tree."""
    recipe: tuple[object, ...] = (flavour, PACKAGES, _preferences(flavour))
    if flavour in EXTRA:
        recipe += (EXTRA[flavour], FILES.get(flavour))
    text = repr(recipe)
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
    hooks = []
    if wanted := _preferences(flavour):
        preferences = CACHE / f".{flavour}.preferences"
        preferences.write_text(wanted)
        hooks = [
            f"copy-in {preferences} /etc/apt/preferences.d/",
            f'mv "$1/etc/apt/preferences.d/{preferences.name}" "$1/etc/apt/preferences.d/lab"',
        ]
    building = target.with_name(f".building-{target.name}")
    packages = [*PACKAGES, *EXTRA.get(flavour, ())]
    bootstrap(building, SUITES[flavour], packages, _sources(flavour, mirror()), hooks)
    for name, text in FILES.get(flavour, {}).items():
        (building / name).parent.mkdir(parents=True, exist_ok=True)
        (building / name).write_text(text)
    building.rename(target)


def bootstrap(
    target: Path, suite: str, packages: Sequence[str], sources: Sequence[str], hooks: Sequence[str]
) -> None:
    """Make a Debian tree with mmdebstrap; what is at `target` goes. `hooks`: before apt is called.

    A failure leaves nothing but SUITE.log beside it.
    """
    shutil.rmtree(target, ignore_errors=True)
    command = ["mmdebstrap", "--variant=minbase", "--mode=root"]
    # Testing's Release file may be past its date in a mirror that is a snapshot.
    command += ['--aptopt=Acquire::Check-Valid-Until "false"']
    command += ['--aptopt=APT::Install-Recommends "false"', "--dpkgopt=force-unsafe-io"]
    command += ["--include=" + ",".join(packages)]
    command += [f"--setup-hook={hook}" for hook in hooks]
    log = target.with_name(f"{suite}.log")
    with log.open("w") as output:
        done = subprocess.run(
            [*command, suite, str(target), *sources],
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=900,
            check=False,
        )
    if done.returncode != 0:
        shutil.rmtree(target, ignore_errors=True)
        last = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise RuntimeError(f"the tree {target.name} could not be built, see {log}:\n{last}")
    shutil.rmtree(target / "var/lib/apt/lists", ignore_errors=True)
    shutil.rmtree(target / "var/cache/apt", ignore_errors=True)
