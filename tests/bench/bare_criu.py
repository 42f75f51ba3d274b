"""Runs inside a lab host: `criu dump` + `criu restore` of a running Docker container's twin.

The twin is the same OCI configuration and root file system, started by runc beside Docker, without
a network; so nothing but CRIU itself is measured. Prints one JSON line per round: seconds of dump
and of restore, bytes of the images.  usage: bare_criu.py CONTAINER ROUNDS [SECONDS]
SECONDS: how long the twin runs before the dump (0.5), such as until it has filled its memory.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

WORK = Path("/run/bare-criu")
NAME = "bare-criu"


def sh(*argv: str, check: bool = True, **options: Any) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300, **options)
    if check and done.returncode:
        raise SystemExit(f"{' '.join(argv)}: {done.returncode} {done.stdout} {done.stderr}")
    return str(done.stdout)


def make_bundle(container: str) -> dict[str, Any]:
    """A bundle like the container's own, with a copy of its root and no hooks of Docker's."""
    full = sh("docker", "inspect", "-f", "{{.Id}}", container).strip()
    bundle = Path("/run/docker/containerd/daemon/io.containerd.runtime.v2.task/moby", full)
    config: dict[str, Any] = json.loads((bundle / "config.json").read_text())
    sh("sh", "-c", f"docker export {container} | tar -C {WORK}/root -x")
    config.pop("hooks", None)
    config["root"]["path"] = str(WORK / "root")
    config["process"]["terminal"] = False
    config["linux"]["cgroupsPath"] = f"{Path(config['linux']['cgroupsPath']).parent}/{NAME}"
    config.get("annotations", {}).pop("org.criu.config", None)
    for mount in config["mounts"]:
        if mount["destination"].startswith("/etc/"):
            copy = WORK / Path(mount["destination"]).name
            shutil.copy(mount["source"], copy)
            mount["source"] = str(copy)
    (WORK / "config.json").write_text(json.dumps(config))
    return config


def externals(config: dict[str, Any], pid: int) -> tuple[list[str], list[str]]:
    """CRIU's `--external` options, for the dump and for the restore, as runc names them."""
    dump, restore = [], []
    for mount in config["mounts"]:
        if mount["type"] == "bind" or "bind" in mount.get("options", []):
            dump.append(f"mnt[{mount['destination']}]:{mount['destination']}")
            restore.append(f"mnt[{mount['destination']}]:{mount['source']}")
    for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
        fields = line.split()
        if " - cgroup " in line:
            dump.append(f"mnt[{fields[4]}]:{fields[4]}")
            restore.append(f"mnt[{fields[4]}]:{fields[4]}{fields[3]}")
    for path in config["linux"].get("maskedPaths", []):
        inside = Path(f"/proc/{pid}/root{path}")
        if inside.exists() and not inside.is_dir():
            dump.append(f"mnt[{path}]:/dev/null")
    restore.append("mnt[/dev/null]:/dev/null")
    return dump, restore


def one_round(config: dict[str, Any], seconds: float) -> dict[str, float]:
    images = WORK / "images"
    shutil.rmtree(images, ignore_errors=True)
    images.mkdir()
    with open("/dev/null", "r+b") as null:
        subprocess.run(
            ["runc", "run", "--detach", "--bundle", str(WORK), NAME],
            stdin=null, stdout=null, stderr=null, check=True, timeout=30,
        )  # fmt: skip
    time.sleep(seconds)
    pid = json.loads(sh("runc", "state", NAME))["pid"]
    dump, restore = externals(config, pid)
    common = ["-D", str(images), "--manage-cgroups=soft", "--file-locks", "--tcp-established",
              "--empty-ns", "net", "--network-lock", "nftables", "-v0"]  # fmt: skip
    begun = time.monotonic()
    sh("criu", "dump", "-t", str(pid), "--root", str(WORK / "root"), *common,
       *(word for key in dump for word in ("--external", key)))  # fmt: skip
    dumped = time.monotonic() - begun
    size = sum(file.stat().st_size for file in images.iterdir())
    top = WORK / "criu-root"
    top.mkdir(exist_ok=True)
    sh("mount", "--rbind", str(WORK / "root"), str(top))
    try:
        begun = time.monotonic()
        options = ["--restore-detached", "--pidfile", str(images / "pid")]
        options += [word for key in restore for word in ("--external", key)]
        sh("criu", "restore", "--root", str(top), *common, *options)
        restored = time.monotonic() - begun
    finally:
        sh("umount", "-l", str(top))
        sh("runc", "delete", "--force", NAME, check=False)
    new = int((images / "pid").read_text())
    alive = Path(f"/proc/{new}").exists()
    sh("kill", "-9", str(new), check=False)
    if not alive:
        raise SystemExit("the restored process is not there")
    return {"dump": dumped, "restore": restored, "bytes": size}


def main() -> None:
    container, rounds = sys.argv[1], int(sys.argv[2])
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 0.5
    shutil.rmtree(WORK, ignore_errors=True)
    (WORK / "root").mkdir(parents=True)
    sh("mount", "-t", "tmpfs", "bare", str(WORK))
    try:
        (WORK / "root").mkdir()
        config = make_bundle(container)
        for _ in range(rounds):
            print(json.dumps(one_round(config, seconds)), flush=True)
    finally:
        sh("runc", "delete", "--force", NAME, check=False)
        sh("umount", "-l", str(WORK), check=False)
        shutil.rmtree(WORK, ignore_errors=True)


if __name__ == "__main__":
    main()
