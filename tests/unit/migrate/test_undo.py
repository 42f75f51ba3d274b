"""migrate.undo: each step undoes its thing, once or twice, and nothing else is touched."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from migrate import netlock
from migrate import undo as undo_module
from migrate.container_spec import RUNTIME
from migrate.errors import Busy, ContainerNotFound, FrontendUnfit, PlacementFailed
from migrate.frontend_record import Lead
from migrate.messages import SwitchFrontend
from migrate.placement import ImageView
from migrate.undo import (
    EndDump,
    EndPending,
    RemoveContainer,
    RemoveImage,
    RemoveNetwork,
    RemoveTree,
    RemoveUnborn,
    RemoveVolume,
    RenameBack,
    RestoreCpuLimit,
    RestoreRestartPolicy,
    SwitchFrontendBack,
    Thaw,
    UnlockNetwork,
    Unmount,
    created_at,
    freeze,
    is_frozen,
    start_time,
    thaw,
    undo,
)


class Docker:
    """Notes its calls; `fails`: what a method raises, one after the other."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.fails: dict[str, list[Exception]] = {}
        self.images: tuple[ImageView, ...] = ()
        self.listed: list[dict[str, Any]] = []
        self.found: dict[str, Any] | None = None

    def _note(self, *call: Any) -> None:
        self.calls.append(call)
        if self.fails.get(call[0]):
            raise self.fails[call[0]].pop(0)

    def remove(self, container: str, *, force: bool = False, volumes: bool = False) -> None:
        self._note("remove", container, force, volumes)

    def rename(self, container: str, name: str) -> None:
        self._note("rename", container, name)

    def remove_network(self, name: str) -> None:
        self._note("remove_network", name)

    def remove_image(self, image: str) -> None:
        self._note("remove_image", image)

    def set_restart_policy(self, container: str, policy: dict[str, Any]) -> None:
        self._note("set_restart_policy", container, policy)

    def volume_is_empty(self, name: str) -> bool:
        self._note("volume_is_empty", name)
        return name != "full"

    def remove_volume(self, name: str) -> None:
        self._note("remove_volume", name)

    def containers(self) -> list[dict[str, Any]]:
        return self.listed

    def images_view(self) -> tuple[ImageView, ...]:
        return self.images

    def inspect_container(self, name: str) -> dict[str, Any]:
        if self.found is None:
            raise ContainerNotFound(name)
        return self.found


@pytest.fixture
def docker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Docker:
    docker = Docker()
    monkeypatch.setattr(undo_module, "PENDING", tmp_path / "pending")
    monkeypatch.setattr(undo_module, "DockerHost", lambda: docker)
    return docker


# -- Docker ---------------------------------------------------------------------------------------


def test_steps_that_are_one_call(docker: Docker) -> None:
    docker.found = {"Name": "/app-replaced-1"}
    undo(RemoveContainer("c1"))
    undo(RenameBack("c2", "app"))
    undo(RemoveNetwork("net"))
    undo(RestoreRestartPolicy("c3", {"Name": "always"}))
    assert docker.calls == [
        ("remove", "c1", True, True),
        ("rename", "c2", "app"),
        ("remove_network", "net"),
        ("set_restart_policy", "c3", {"Name": "always"}),
    ]


def test_a_container_that_is_gone_is_no_failure(docker: Docker) -> None:
    docker.fails = {"set_restart_policy": [ContainerNotFound("x")]}
    undo(RenameBack("c", "app"))
    undo(RestoreRestartPolicy("c", {"Name": "always"}))
    assert docker.calls == [("set_restart_policy", "c", {"Name": "always"})]


def test_a_container_that_has_its_name_back_is_left_alone(docker: Docker) -> None:
    """Undone once more, or never renamed: Docker would refuse, and the journal stay for ever."""
    docker.found = {"Name": "/app"}
    undo(RenameBack("c", "app"))
    assert docker.calls == []


def test_a_start_that_is_under_way_finds_a_broken_pending_restore(
    docker: Docker, tmp_path: Path
) -> None:
    """Found it none, runc would start the container afresh while the source's runs on."""
    directory = tmp_path / "pending" / "c1"
    directory.mkdir(parents=True)
    (directory / "pending.json").write_text("{}")
    for _ in range(2):
        undo(EndPending(str(directory)))
        assert list(directory.iterdir()) == []
    undo(RemoveContainer("c1"))
    assert not directory.exists()
    undo(EndPending(str(directory)))


def test_of_a_volume_that_was_made_only_an_empty_one_goes(docker: Docker) -> None:
    undo(RemoveVolume("full"))
    undo(RemoveVolume("data"))
    docker.fails = {"volume_is_empty": [PlacementFailed("no such volume")]}
    undo(RemoveVolume("gone"))
    assert [call for call in docker.calls if call[0] == "remove_volume"] == [
        ("remove_volume", "data")
    ]


def test_a_network_that_others_use_stays(docker: Docker) -> None:
    docker.listed = [{"NetworkSettings": {"Networks": {"lan": {}}}}, {"NetworkSettings": None}]
    undo(RemoveNetwork("lan"))  # of a container that does not run Docker would take it away
    assert docker.calls == []
    docker.fails = {"remove_network": [Busy("it has active endpoints")]}
    undo(RemoveNetwork("other"))
    assert docker.calls == [("remove_network", "other")]


def test_a_removal_that_is_under_way_is_waited_for(docker: Docker) -> None:
    docker.fails = {"remove": [Busy("removal in progress"), Busy("removal in progress")]}
    undo(RemoveContainer("c1"))
    assert len(docker.calls) == 3


def test_a_removal_that_never_ends_is_a_failure(docker: Docker) -> None:
    docker.fails = {"remove": [Busy("removal in progress")] * 50}
    with pytest.raises(Busy):
        undo_module.remove_container(docker, "c1", timeout=0.0)  # type: ignore[arg-type]


def test_only_the_image_of_these_layers_goes(docker: Docker) -> None:
    docker.images = (
        ImageView("one", ("a", "b")), ImageView("two", ("a",)), ImageView("three", ("a", "b")),
    )  # fmt: skip
    undo(RemoveImage(("a", "b")))
    assert docker.calls == [("remove_image", "one"), ("remove_image", "three")]


def unborn(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "Id": "c1",
        "Created": "2026-01-01T00:00:10.123456789Z",
        "HostConfig": {"Runtime": RUNTIME},
        "State": {"Status": "created"},
    }
    return found | changes


BORN = created_at(unborn())


def test_the_container_whose_id_was_not_learned_goes(docker: Docker) -> None:
    undo(RemoveUnborn("app", BORN))
    assert docker.calls == []
    docker.found = unborn()
    undo(RemoveUnborn("app", BORN - 1))
    assert docker.calls == [("remove", "c1", True, True)]


@pytest.mark.parametrize(
    ("found", "since"),
    [
        (unborn(HostConfig={"Runtime": "runc"}), BORN),
        (unborn(State={"Status": "running"}), BORN),
        (unborn(State={"Status": "exited"}), BORN),
        (unborn(), BORN + 5),
    ],
)
def test_a_container_of_that_name_that_is_not_ours_stays(
    docker: Docker, found: dict[str, Any], since: float
) -> None:
    docker.found = found
    undo(RemoveUnborn("app", since))
    assert docker.calls == []


@pytest.mark.parametrize(
    ("text", "fraction"),
    [
        ("2026-01-01T00:00:10Z", 0.0),
        ("2026-01-01T00:00:10.5Z", 0.5),
        ("2026-01-01T00:00:10.123456789Z", 0.123456),
        ("2026-01-01T01:00:10.123456789+01:00", 0.123456),
    ],
)
def test_docker_says_when_in_nanoseconds(text: str, fraction: float) -> None:
    assert created_at({"Created": text}) == pytest.approx(1767225610 + fraction, abs=1e-6)


# -- files, mounts --------------------------------------------------------------------------------


def test_trees_and_mount_points_go(tmp_path: Path) -> None:
    for name, step in (("tree", RemoveTree), ("mount", Unmount)):
        top = tmp_path / name
        (top / "below").mkdir(parents=True)
        undo(step(str(top)))
        assert not top.exists()
        undo(step(str(top)))


def test_a_mount_is_unmounted_before_it_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory").mkdir()
    seen: list[list[str]] = []

    def run(argv: list[str]) -> None:
        assert (tmp_path / "memory").exists()
        seen.append(argv)

    monkeypatch.setattr(undo_module, "run", run)
    monkeypatch.setattr(os.path, "ismount", lambda path: True)
    undo(Unmount(str(tmp_path / "memory")))
    assert seen == [["umount", "--lazy", str(tmp_path / "memory")]]
    assert not (tmp_path / "memory").exists()


def test_a_pending_restore_that_is_gone_is_no_failure(tmp_path: Path) -> None:
    undo(EndPending(str(tmp_path / "none")))


# -- processes ------------------------------------------------------------------------------------


def test_a_start_time_tells_processes_apart() -> None:
    mine = start_time(os.getpid())
    assert mine is not None
    assert mine > 0
    assert mine == start_time(os.getpid())
    child = subprocess.Popen(["true"])
    child.wait()
    assert start_time(child.pid) is None


def test_the_network_of_another_process_of_that_pid_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unlocked: list[int] = []
    monkeypatch.setattr(netlock, "unlock", unlocked.append)
    pid, started = os.getpid(), start_time(os.getpid())
    assert started is not None
    undo(UnlockNetwork(pid, started + 1))
    assert unlocked == []
    undo(UnlockNetwork(pid, started))
    assert unlocked == [pid]


def test_a_dump_is_waited_for() -> None:
    dump = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(0.4)"])
    started = start_time(dump.pid)
    assert started is not None
    undo(EndDump(dump.pid, started))
    assert dump.wait(0.0) == 0  # it has ended, and by itself


def test_a_dump_that_hangs_is_killed() -> None:
    dump = subprocess.Popen(["sleep", "600"])
    started = start_time(dump.pid)
    assert started is not None
    undo_module._end_dump(dump.pid, started, patience=0.1)
    assert dump.wait(5.0) == -9


def test_another_process_of_that_pid_is_not_waited_for() -> None:
    other = subprocess.Popen(["sleep", "600"])
    started = start_time(other.pid)
    assert started is not None
    undo(EndDump(other.pid, started + 1))
    assert other.poll() is None
    other.kill()
    other.wait()


# -- the freezer ----------------------------------------------------------------------------------


def test_thawing_says_it_in_the_words_of_the_hierarchy(tmp_path: Path) -> None:
    undo(Thaw(str(tmp_path)))  # a cgroup that is gone
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "freezer.state").write_text("FROZEN")
    thaw(str(tmp_path))
    assert (tmp_path / "freezer.state").read_text() == "THAWED"
    (tmp_path / "freezer.state").unlink()
    (tmp_path / "cgroup.freeze").write_text("1")
    thaw(str(tmp_path))
    assert (tmp_path / "cgroup.freeze").read_text() == "0"


def test_a_v1_cgroup_is_frozen_when_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "freezer.state").write_text("THAWED\n")
    assert freeze(str(tmp_path))
    assert (tmp_path / "freezer.state").read_text() == "FROZEN"


def test_a_v2_cgroup_is_frozen_when_its_events_say_so(tmp_path: Path) -> None:
    (tmp_path / "cgroup.freeze").write_text("0")
    events = tmp_path / "cgroup.events"
    events.write_text("populated 1\nfrozen 0\n")
    assert not freeze(str(tmp_path), timeout=0.05)
    assert (tmp_path / "cgroup.freeze").read_text() == "1"

    def freezing() -> None:
        time.sleep(0.1)
        events.write_text("populated 1\nfrozen 1\n")

    kernel = threading.Thread(target=freezing)
    kernel.start()
    assert freeze(str(tmp_path))
    kernel.join()


def test_what_is_no_cgroup_cannot_be_frozen(tmp_path: Path) -> None:
    assert not freeze(str(tmp_path))


# -- the CPU limit --------------------------------------------------------------------------------


def test_a_cpu_limit_is_what_it_was(tmp_path: Path) -> None:
    limit = tmp_path / "cpu.cfs_quota_us"
    undo(RestoreCpuLimit(str(limit), "-1"))  # the cgroup has gone: nothing is made in its place
    assert not limit.exists()
    limit.write_text("20")
    undo(RestoreCpuLimit(str(limit), "-1"))
    undo(RestoreCpuLimit(str(limit), "-1"))
    assert limit.read_text() == "-1"


@pytest.mark.parametrize(("code", "fails"), [(errno.ENODEV, False), (errno.EINVAL, True)])
def test_a_cgroup_that_goes_while_it_is_written(
    code: int, fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(fd: int, content: bytes) -> int:
        raise OSError(code, os.strerror(code))

    (tmp_path / "cpu.max").write_text("1 2")
    monkeypatch.setattr(os, "write", write)
    step = RestoreCpuLimit(str(tmp_path / "cpu.max"), "max 2")
    if fails:
        with pytest.raises(OSError, match="Invalid"):
            undo(step)
    else:
        undo(step)


def test_a_front_end_leads_to_where_it_led_before(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    @contextlib.contextmanager
    def link(host: str) -> Iterator[Any]:
        yield SimpleNamespace(channel=host, greet=lambda: asked.append("greet"))

    monkeypatch.setattr(undo_module, "AgentLink", link)
    monkeypatch.setattr(undo_module, "call", lambda channel, message, *_: asked.append(message))
    lead = Lead("game", ("10.0.0.1", 1), ("10.0.0.2", 1))
    undo(SwitchFrontendBack("front", (lead,)))
    assert asked == ["greet", SwitchFrontend((Lead("game", ("10.0.0.2", 1), ("10.0.0.1", 1)),))]


def test_a_front_end_that_leads_elsewhere_meanwhile_keeps_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[list[str]] = []

    @contextlib.contextmanager
    def link(host: str) -> Iterator[Any]:
        yield SimpleNamespace(channel=host, greet=lambda: None)

    def call(channel: str, message: SwitchFrontend, *_: object) -> None:
        names = [lead.name for lead in message.leads]
        asked.append(names)
        if "gone" in names:
            raise FrontendUnfit("there is no front end `gone` on this host")

    monkeypatch.setattr(undo_module, "AgentLink", link)
    monkeypatch.setattr(undo_module, "call", call)
    game, gone = (Lead(name, ("10.0.0.1", 1), ("10.0.0.2", 1)) for name in ("game", "gone"))
    undo(SwitchFrontendBack("front", (gone,)))
    undo(SwitchFrontendBack("front", (game, gone)))
    assert asked == [["gone"], ["game", "gone"], ["game"], ["gone"]]


@pytest.mark.parametrize(
    ("name", "word", "frozen"),
    [
        ("freezer.state", "FROZEN", True),
        ("freezer.state", "THAWED", False),
        ("cgroup.freeze", "1", True),
        ("cgroup.freeze", "0", False),
        ("other", "1", False),
    ],
)
def test_what_somebody_has_paused_is_seen(
    tmp_path: Path, name: str, word: str, frozen: bool
) -> None:
    (tmp_path / name).write_text(word + "\n")
    assert is_frozen(str(tmp_path)) == frozen
