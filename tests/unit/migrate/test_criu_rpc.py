"""migrate.criu_rpc: the conversation with a criu that answers, refuses, hangs or goes away."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from migrate import criu_rpc
from migrate.criu_rpc import Swrk
from migrate.errors import CriuUnfit, DumpFailed
from tests.unit.migrate.fake_criu import Stage, install

LOG = "x.log"


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    here = tmp_path / "criu"
    here.mkdir()
    return install(monkeypatch, here)


@pytest.fixture
def swrk(tmp_path: Path) -> Iterator[Swrk]:
    for name in ("images", "work"):
        (tmp_path / name).mkdir()
    swrk = Swrk(tmp_path / "images", tmp_path / "work", LOG)
    yield swrk
    swrk.close()


def open_files() -> set[str]:
    """What this process has open: descriptor and file. A thread of an earlier test may end one in
    between, so what counts is that none is new."""
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            found.add(f"{descriptor} {os.readlink(f'/proc/self/fd/{descriptor}')}")
    return found


def begin(swrk: Swrk, **fields: Any) -> None:
    swrk.start()
    swrk.request(1, swrk.options(**fields))


def test_stages_come_one_by_one_and_then_the_end(swrk: Swrk, stage: Stage) -> None:
    stage.play({"stage": "pre-dump"}, {"stage": "post-dump"}, {"result": {"success": True}})
    begin(swrk, pid=7)
    assert swrk.next_stage() == "pre-dump"
    swrk.answer(True)
    assert swrk.next_stage() == "post-dump"
    swrk.answer(False)
    assert swrk.next_stage() is None
    assert swrk.error == ""
    swrk.close()
    request, first, second, end = stage.heard()
    assert (request["type"], request["opts"]["pid"], request["opts"]["log_file"]) == (1, 7, LOG)
    assert [first["notify_success"], second["notify_success"]] == [True, False]
    assert end == "done"


def test_criu_gets_the_directories(swrk: Swrk, stage: Stage) -> None:
    stage.play({"log": "a line"}, {"image": "a.img"}, {"result": {"success": True}})
    begin(swrk)
    swrk.finish()
    assert (swrk.work / LOG).read_text() == "a line"
    assert (swrk.images / "a.img").exists()


def test_criu_may_open_as_many_files_as_there_can_be(swrk: Swrk, stage: Stage) -> None:
    stage.play({"limits": 1}, {"result": {"success": True}})
    begin(swrk)
    swrk.finish()
    soft, hard = stage.heard()[1]
    assert soft == hard


def test_all_stages_that_are_left_are_answered(swrk: Swrk, stage: Stage) -> None:
    names = ["network-lock", "post-dump", "status-ready"]
    stage.play(*[{"stage": name} for name in names], {"result": {"success": True}})
    begin(swrk)
    asked: list[str] = []

    def allow(name: str) -> bool:
        asked.append(name)
        return name != "status-ready"

    swrk.finish(allow)
    assert asked == names
    assert [each["notify_success"] for each in stage.heard()[1:4]] == [True, True, False]


@pytest.mark.parametrize(
    ("result", "log", "reason"),
    [
        ({"cr_errmsg": "no"}, "", "no"),
        ({"cr_errno": 17}, "", "error 17"),
        ({"cr_errno": 17}, "(00.1) Error (criu/sk-inet.c:9): In-flight connection\n", "In-flight"),
        ({"cr_errmsg": "no"}, "(00.1) all is well so far\n", "no"),
    ],
)
def test_why_it_failed(
    swrk: Swrk, stage: Stage, result: dict[str, Any], log: str, reason: str
) -> None:
    stage.play({"log": log}, {"result": {"success": False, **result}})
    begin(swrk)
    swrk.finish()
    assert swrk.error
    assert reason in swrk.reason()


def test_one_that_ends_without_an_answer_has_failed(swrk: Swrk, stage: Stage) -> None:
    begin(swrk)
    assert swrk.next_stage() is None
    assert swrk.reason() == "it ended without an answer"


def test_one_that_has_gone_away_is_noticed(swrk: Swrk, stage: Stage) -> None:
    stage.play({"stage": "post-dump"}, {"close": 1})
    begin(swrk)
    assert swrk.next_stage() == "post-dump"
    swrk.answer(True)
    assert swrk.next_stage() is None
    with pytest.raises(DumpFailed, match="went away"):
        swrk.answer(True)


def test_one_that_leaves_words_unread_is_noticed(swrk: Swrk, stage: Stage) -> None:
    """The kernel then says ECONNRESET where it else says end of file (unix(7))."""
    stage.play({"sleep": 0.2}, {"close": 1})
    begin(swrk)
    swrk.answer(True)
    with pytest.raises(DumpFailed, match="went away"):
        swrk.next_stage()


def test_an_idle_one_ends_when_it_is_left(swrk: Swrk, stage: Stage) -> None:
    before = open_files()
    swrk.start()
    process = swrk._process
    assert process
    assert swrk.pid == process.pid
    assert process.poll() is None
    swrk.options()
    swrk.close()
    assert process.returncode == 0
    assert open_files() <= before
    assert stage.heard() == ["the other end is closed"]
    swrk.close()


def test_one_under_way_is_not_killed(swrk: Swrk, stage: Stage) -> None:
    stage.play({"stage": "post-dump"}, {"sleep": 0.3})
    begin(swrk)
    assert swrk.next_stage() == "post-dump"
    swrk.answer(True)
    process = swrk._process
    swrk.close()
    assert process
    assert process.returncode == 0
    assert stage.heard()[-1] == "done"


def test_one_that_hangs_is(swrk: Swrk, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criu_rpc, "END_TIMEOUT", 0.1)
    stage.play({"stage": "x"}, {"sleep": 600})
    begin(swrk)
    swrk.next_stage()
    swrk.answer(True)
    process = swrk._process
    begun = time.monotonic()
    swrk.close()
    assert time.monotonic() - begun < 30
    assert process
    assert process.returncode == -9


def test_what_is_missing_is_said(swrk: Swrk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycriu", None)
    before = open_files()
    with pytest.raises(CriuUnfit, match="pycriu"):
        swrk.start()
    module: Any = ModuleType("pycriu")
    module.rpc_pb2 = SimpleNamespace()
    monkeypatch.setitem(sys.modules, "pycriu", module)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(CriuUnfit, match="criu is not installed"):
        swrk.start()
    assert open_files() <= before


def test_no_other_child_holds_the_conversation_open(swrk: Swrk, stage: Stage) -> None:
    """A child that inherited our end would keep criu waiting after `close`."""
    swrk.start()
    with subprocess.Popen(["sleep", "600"], close_fds=False) as other:
        process = swrk._process
        swrk.close()
        other.kill()
    assert process
    assert process.returncode == 0


def test_who_waits_for_a_criu_that_hangs_can_be_let_go(swrk: Swrk, stage: Stage) -> None:
    stage.play({"stage": "pre-dump"}, {"sleep": 1}, {"result": {"success": True}})
    begin(swrk)
    assert swrk.next_stage() == "pre-dump"
    swrk.answer(True)
    letting_go = threading.Timer(0.1, swrk.abandon)
    letting_go.start()
    assert swrk.next_stage() is None
    assert swrk.error == "it ended without an answer"
    letting_go.join()
    swrk.close()
    swrk.abandon()  # the timer may come after the end
