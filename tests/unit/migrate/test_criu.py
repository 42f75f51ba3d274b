"""migrate.criu: where a container is, what CRIU is asked, and what becomes of its answers."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from migrate import criu
from migrate.criu import Dumper, DumpTarget, find_target, freezer_cgroup, pre_dump
from migrate.errors import DumpFailed, Unsupported
from migrate.std_streams import Streams, links_of
from tests.unit.migrate.fake_criu import DUMP, PRE_DUMP, Stage, install

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
    found = find_target("c" * 64, 1)
    assert found.pid == 1
    assert found.config["root"]["path"] == "/merged"


def test_a_bundle_elsewhere_and_shared_namespaces_are_refused(bundle: Path) -> None:
    with pytest.raises(Unsupported, match="bundle"):
        find_target("c" * 64, 1)
    shared = {"linux": {"namespaces": [{"type": "pid", "path": "/proc/1/ns/pid"}]}}
    (bundle / "config.json").write_text(json.dumps(shared))
    with pytest.raises(Unsupported, match="pid namespace"):
        find_target("c" * 64, 1)


# -- the dump -------------------------------------------------------------------------------------


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    here = tmp_path / "criu"
    here.mkdir()
    return install(monkeypatch, here)


def target(freezer: str | None = None) -> DumpTarget:
    return DumpTarget(os.getpid(), {"root": {"path": "/merged"}}, freezer)


@pytest.fixture
def dumper(tmp_path: Path) -> Iterator[Dumper]:
    for name in ("images", "work"):
        (tmp_path / name).mkdir()
    dumper = Dumper(
        target("/freezer"), tmp_path / "images", tmp_path / "work", tcp="established",
        streams=Streams(links_of(os.getpid()), frozenset()),
    )  # fmt: skip
    yield dumper
    dumper.close()


COMPLETE: list[dict[str, Any]] = [{"stage": "network-lock"}, {"stage": "post-dump"}]
REFUSED: dict[str, Any] = {"result": {"success": False, "cr_errno": 1}}


def test_the_dump_is_over_when_the_images_are(dumper: Dumper, stage: Stage) -> None:
    stage.play(*COMPLETE, {"sleep": 1.0}, {"stage": "status-ready"}, REFUSED)
    dumper.start()
    assert dumper.pid == dumper.criu.pid
    begun = time.monotonic()
    seconds = dumper.dump()
    assert 0 <= seconds <= time.monotonic() - begun
    assert "done" not in stage.heard()
    dumper.finish()
    # CRIU must not offer the pages that it has left out to the network.
    answers = [each["notify_success"] for each in stage.heard()[1:4]]
    assert answers == [True, True, False]


def test_what_is_asked_of_criu(dumper: Dumper, stage: Stage) -> None:
    stage.play(*COMPLETE)
    dumper.start()
    dumper.dump()
    request = stage.heard()[0]
    assert request["type"] == DUMP
    options = request["opts"]
    # Without these two the container would be gone, or there would be no skeleton.
    assert options["leave_running"] is True
    assert options["lazy_pages"] is True
    assert options["notify_scripts"] is True
    assert (options["tcp_established"], options["tcp_close"]) == (True, False)
    assert (options["pid"], options["root"]) == (os.getpid(), "/merged")
    assert options["freeze_cgroup"] == "/freezer"
    assert "parent_img" not in options


def test_connections_may_be_closed(dumper: Dumper, stage: Stage) -> None:
    stage.play(*COMPLETE)
    dumper.tcp = "close"
    dumper.start()
    dumper.dump()
    options = stage.heard()[0]["opts"]
    assert (options["tcp_established"], options["tcp_close"]) == (False, True)


def test_nothing_is_asked_before_the_freeze(dumper: Dumper, stage: Stage) -> None:
    dumper.start()
    time.sleep(0.1)
    assert stage.heard() == []


def test_a_dump_says_why_it_failed(dumper: Dumper, stage: Stage) -> None:
    log = "(00.1) Error (criu/sk-inet.c:9): In-flight connection\n"
    stage.play({"stage": "network-lock"}, {"log": log}, REFUSED)
    dumper.start()
    with pytest.raises(DumpFailed, match="In-flight connection"):
        dumper.dump()


def test_a_new_stream_stops_it(dumper: Dumper, stage: Stage) -> None:
    links = links_of(os.getpid())
    dumper.streams = Streams(["/dev/null"] * 3, frozenset(links))
    dumper.start()
    with pytest.raises(DumpFailed, match="standard stream"):
        dumper.dump()
    assert stage.heard() == []


# -- pre-dumps ------------------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    images, work = tmp_path / "pre-2", tmp_path / "work"
    images.mkdir()
    work.mkdir()
    return images, work


@pytest.mark.parametrize("parent", ["", "../pre-1"])
@pytest.mark.parametrize("freezer", [None, "/freezer"])
def test_a_pre_dump(
    places: tuple[Path, Path], stage: Stage, parent: str, freezer: str | None
) -> None:
    stage.play({"image": "pagemap-1.img"}, {"result": {"success": True}})
    pre_dump(target(freezer), *places, parent)
    assert (places[0] / "pagemap-1.img").exists()
    request, *_ = stage.heard()
    assert request["type"] == PRE_DUMP
    options = request["opts"]
    assert options["track_mem"] is True
    assert options["leave_running"] is True
    assert options.get("freeze_cgroup") == freezer
    # An empty parent would be a path that CRIU does not find: there must be none.
    assert options.get("parent_img", "") == parent
    assert ("parent_img" in options) == bool(parent)


def test_a_pre_dump_that_fails_leaves_no_criu(places: tuple[Path, Path], stage: Stage) -> None:
    before = len(os.listdir("/proc/self/fd"))
    stage.play({"log": "(00.1) Error (criu/mem.c:9): no such luck\n"}, REFUSED)
    with pytest.raises(DumpFailed, match=r"pre-dump.*no such luck"):
        pre_dump(target(), *places, "")
    assert stage.heard()[-1] == "done"
    assert len(os.listdir("/proc/self/fd")) == before
