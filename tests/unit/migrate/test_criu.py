"""migrate.criu: where a container is, and the life of the process that dumps it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from migrate import criu
from migrate.criu import Dumper, DumpTarget, descriptors, find_target, freezer_cgroup
from migrate.errors import CriuUnfit, DumpFailed, Unsupported

V1 = "12:pids:/docker/c\n5:freezer:/docker/c\n1:name=systemd:/docker/c\n0::/docker/c\n"
V2 = "0::/system.slice/docker-c.scope\n"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (V1, "/sys/fs/cgroup/freezer/docker/c"),
        ("4:cpu,freezer:/x\n0::/y\n", "/sys/fs/cgroup/freezer/x"),
        (V2, "/sys/fs/cgroup/system.slice/docker-c.scope"),
        ("5:freezer:/a:b\n", "/sys/fs/cgroup/freezer/a:b"),
        ("1:name=systemd:/x\n", None),
        ("", None),
    ],
)
def test_the_freezer_of_both_hierarchies(text: str, wanted: str | None) -> None:
    assert freezer_cgroup(text) == wanted


# -- the bundle -----------------------------------------------------------------------------------


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(criu, "BUNDLES", str(tmp_path))
    bundle = tmp_path / ("c" * 64)
    bundle.mkdir()
    return bundle


def test_the_bundle_is_containerds(bundle: Path) -> None:
    (bundle / "config.json").write_text(json.dumps({"root": {"path": "/merged"}}))
    target = find_target("c" * 64, 1)
    assert target.pid == 1
    assert target.config["root"]["path"] == "/merged"


def test_a_bundle_elsewhere_and_shared_namespaces_are_refused(bundle: Path) -> None:
    with pytest.raises(Unsupported, match="bundle"):
        find_target("c" * 64, 1)
    shared = {"linux": {"namespaces": [{"type": "pid", "path": "/proc/1/ns/pid"}]}}
    (bundle / "config.json").write_text(json.dumps(shared))
    with pytest.raises(Unsupported, match="pid namespace"):
        find_target("c" * 64, 1)


# -- the process ----------------------------------------------------------------------------------


@pytest.fixture
def dumper(tmp_path: Path) -> Dumper:
    for name in ("images", "work"):
        (tmp_path / name).mkdir()
    pid = os.getpid()
    return Dumper(
        DumpTarget(pid, {"root": {"path": "/"}}, None), tmp_path / "images", tmp_path / "work",
        tcp="established", descriptors=descriptors(pid),
    )  # fmt: skip


class Service:
    """Stands for pycriu.criu."""

    failure: Exception | None = None

    def dump(self) -> None:
        if self.failure:
            raise self.failure


def test_a_dump_says_why_it_failed(dumper: Dumper) -> None:
    service = Service()
    dumper._criu = service
    assert dumper.dump() >= 0.0
    service.failure = RuntimeError("rpc")
    with pytest.raises(DumpFailed, match="rpc"):
        dumper.dump()
    (dumper.work / criu.LOG).write_text("(00.1) Error (criu/sk-inet.c:9): In-flight connection\n")
    with pytest.raises(DumpFailed, match="In-flight connection"):
        dumper.dump()


def test_streams_that_were_exchanged_since_stop_it(dumper: Dumper) -> None:
    dumper._criu = Service()
    dumper.descriptors = ["/dev/null", "pipe:[1]", "pipe:[2]"]
    with pytest.raises(DumpFailed, match="standard streams"):
        dumper.dump()


def test_descriptors_are_links_and_closed_ones_are_null() -> None:
    child = subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    null, pipe, _ = descriptors(child.pid)
    child.kill()
    child.wait()
    assert null == "/dev/null"
    assert pipe.startswith("pipe:[")
    assert descriptors(child.pid) == ["/dev/null"] * 3


def test_a_dump_under_way_is_not_killed(dumper: Dumper) -> None:
    code = "import time; time.sleep(0.3)"
    process = subprocess.Popen([sys.executable, "-S", "-c", code])
    dumper._process = process
    assert dumper.pid == process.pid
    dumper.close()
    assert process.returncode == 0
    dumper.close()


def test_one_that_hangs_is(dumper: Dumper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criu, "END_TIMEOUT", 0.1)
    process = subprocess.Popen(["sleep", "600"])
    dumper._process = process
    dumper.close()
    assert process.returncode == -9


def test_an_idle_one_ends_when_it_is_left(
    dumper: Dumper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`criu swrk` reads its socket to the end; nothing stays open here."""
    fake = tmp_path / "criu"
    fake.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -c "import os; os.read($2, 9)" \n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(Dumper, "_options", lambda self, rpc: None)
    module: Any = ModuleType("pycriu")
    module.rpc_pb2 = SimpleNamespace()
    module.criu = lambda: SimpleNamespace(
        use_fd=lambda fd: None, opts=SimpleNamespace(CopyFrom=lambda options: None)
    )
    monkeypatch.setitem(sys.modules, "pycriu", module)
    before = _open_files()
    dumper.start()
    process = dumper._process
    assert process
    assert process.poll() is None
    dumper.close()
    assert process.returncode == 0
    assert _open_files() == before


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_what_is_missing_is_said(dumper: Dumper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycriu", None)
    with pytest.raises(CriuUnfit, match="pycriu"):
        dumper.start()
    module: Any = ModuleType("pycriu")
    module.rpc_pb2 = SimpleNamespace()
    monkeypatch.setitem(sys.modules, "pycriu", module)
    monkeypatch.setenv("PATH", "/nonexistent")
    before = _open_files()
    with pytest.raises(CriuUnfit, match="criu is not installed"):
        dumper.start()
    assert _open_files() == before
