"""migrate.restore_supervisor, through bin/migrate-runc: each way in which a restore can end.

After every one: is anything left, did anything run that must not, and does `start` come back?
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen

import pytest

from migrate import netlock
from migrate.held_restore import supervisor_is_done
from migrate.runtime import RAN
from tests.unit.migrate.runc_lab import ID, FakeAgent, RuncLab, lives, soon


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[RuncLab]:
    lab = RuncLab(tmp_path)
    yield lab
    lab.end()


def steered(lab: RuncLab) -> FakeAgent:
    lab.expect_restore(agent=True)
    assert lab.agent
    return lab.agent


def begun(lab: RuncLab) -> tuple[FakeAgent, Popen[str]]:
    steered(lab)
    return lab.begin("restore")


# -- it succeeds ----------------------------------------------------------------------------------


def test_without_an_agent_nothing_is_waited_for_but_start(lab: RuncLab) -> None:
    lab.expect_restore(criu_options=["tcp-established"])
    assert lab.code(lab.create()) == 0
    assert int(lab.pid_file.read_text()) == lab.init()
    assert not lab.resumed()
    assert lab.code(lab.verb("start")) == 0
    assert lab.resumed()
    assert lives(lab.init())
    assert (lab.work / RAN).exists()
    assert soon(lambda: not lab.directory.exists())
    restore = lab.seen()[0]
    assert len(lab.seen()) == 1
    at = restore.index("restore")
    assert restore[:at] == ["--root", str(lab.state), "--log", str(lab.log), "--log-format", "json"]
    assert restore[-1] == ID
    assert restore[restore.index("--image-path") + 1] == str(lab.images)
    assert restore[restore.index("--empty-ns") + 1] == "network"


def test_an_agent_leads_it_step_by_step(lab: RuncLab) -> None:
    agent = steered(lab)
    create = lab.create()
    assert agent.hear("created")["rootfs"] == str(lab.bundle / "rootfs")
    assert create.poll() is None
    assert lab.seen() == []  # the images are not complete: runc is not called
    agent.say("restore")
    assert agent.hear("namespaces")["pid"] == lab.init()
    assert lab.code(create) == 0
    start = lab.verb("start")
    agent.hear("network")
    agent.hear("ready")
    assert start.poll() is None
    assert not lab.resumed()
    assert not supervisor_is_done(lab.directory)
    agent.say("commit")
    agent.hear("running")
    assert lab.resumed()
    assert (lab.work / RAN).exists()
    assert lab.code(start) == 0
    assert lives(lab.init())
    assert soon(lambda: not lab.directory.exists())
    assert supervisor_is_done(lab.directory)


def test_a_deaf_one_hears_nothing_until_its_sockets_are_there(lab: RuncLab) -> None:
    nft = lab.top / "fakes" / "nsenter"
    nft.parent.mkdir()
    nft.write_text(f'#!/bin/sh\ncat >>"{lab.top}/rules"\n')
    nft.chmod(0o755)
    lab.env["PATH"] = f"{nft.parent}:{lab.env['PATH']}"
    lab.expect_restore(agent=True, deaf=True)
    agent, create = lab.begin("restore")
    assert lab.code(create) == 0  # from here on Docker plugs the network in
    rules = lab.top / "rules"
    assert rules.read_text() == netlock.DEAF
    start = lab.verb("start")
    agent.hear("network")
    agent.hear("ready")
    assert soon(lambda: rules.read_text() == f"{netlock.DEAF}delete table inet migrate_lock\n")
    agent.say("commit")
    agent.hear("running")
    assert lab.code(start) == 0


def test_one_that_cannot_be_deafened_is_not_restored(lab: RuncLab) -> None:
    nft = lab.top / "fakes" / "nsenter"
    nft.parent.mkdir()
    nft.write_text("#!/bin/sh\necho no tables here >&2; exit 1\n")
    nft.chmod(0o755)
    lab.env["PATH"] = f"{nft.parent}:{lab.env['PATH']}"
    lab.expect_restore(agent=True, deaf=True)
    agent, create = lab.begin("restore")
    assert "no tables here" in agent.hear("failed")["reason"]
    assert lab.code(create) != 0
    assert lab.nothing_runs()


def test_an_agent_that_dies_after_commit_does_not_stop_it(lab: RuncLab) -> None:
    agent, create = begun(lab)
    assert lab.code(create) == 0
    start = lab.verb("start")
    agent.hear("network")
    agent.hear("ready")
    agent.say("commit")
    agent.die()
    assert lab.code(start) == 0
    assert lab.resumed()
    assert lives(lab.init())


# -- the agent goes away before commit ------------------------------------------------------------


def test_an_agent_that_dies_before_the_images_are_complete(lab: RuncLab) -> None:
    agent = steered(lab)
    create = lab.create()
    agent.hear("created")
    agent.die()
    assert lab.code(create) == 1
    assert "the agent of the migration went away" in lab.said()
    assert "went away" in lab.logged()[-1]
    assert not any("restore" in call for call in lab.seen())


@pytest.mark.parametrize("last", ["namespaces", "network", "ready"])
def test_an_agent_that_dies_before_commit_ends_the_restore(lab: RuncLab, last: str) -> None:
    agent, create = begun(lab)
    assert lab.code(create) == 0
    if last == "namespaces":
        agent.die()
        start = lab.verb("start")
    else:
        start = lab.verb("start")
        agent.hear("network")
        if last == "ready":
            agent.hear("ready")
        agent.die()
    assert lab.code(start) == 1
    assert lab.nothing_runs()
    assert not (lab.state / ID).exists()
    if last != "namespaces":
        assert "went away" in lab.logged()[-1]


def test_an_agent_that_dies_while_it_is_told_ready_gives_no_leave(lab: RuncLab) -> None:
    agent, create = begun(lab)
    assert lab.code(create) == 0
    supervisor = agent.supervisor()
    os.kill(supervisor, signal.SIGSTOP)
    # `start` and the agent's death are in its ears before it wakes up again.
    start = lab.verb("start")
    fifo = os.open(lab.directory / "said", os.O_RDWR | os.O_NONBLOCK)
    try:
        os.write(fifo, b"start\npost-restore 1\n")
        agent.die()
        os.kill(supervisor, signal.SIGCONT)
        assert lab.code(start) == 1
    finally:
        os.close(fifo)
    assert lab.nothing_runs()


# -- the restore fails ----------------------------------------------------------------------------


def test_the_reason_of_a_restore_that_dies_at_once_is_given(lab: RuncLab) -> None:
    agent = steered(lab)
    lab.env["FAKE_RESTORE"] = "dies"
    create = lab.create()
    agent.hear("created")
    agent.say("restore")
    assert "the sky has fallen" in agent.hear("failed")["reason"]
    assert lab.code(create) == 1
    assert "the sky has fallen" in lab.logged()[-1]
    assert not lab.pid_file.exists()
    assert ["--root", str(lab.state), "delete", "--force", ID] in lab.seen()
    assert not (lab.state / ID).exists()


def test_a_restore_that_says_nothing_still_has_its_exit_code(lab: RuncLab) -> None:
    lab.expect_restore()
    lab.env["FAKE_RESTORE"] = "silent"
    assert lab.code(lab.create()) == 1
    assert "runc restore ended (7)" in lab.logged()[-1]


@pytest.mark.parametrize("stage", ["post-setup-namespaces", "post-restore"])
def test_a_restore_that_dies_half_way_fails_the_start(lab: RuncLab, stage: str) -> None:
    lab.expect_restore()
    lab.env["FAKE_RESTORE"] = f"dies at {stage}"
    assert lab.code(lab.create()) == 0
    assert lab.code(lab.verb("start")) == 1
    assert f"it died at {stage}" in lab.logged()[-1]
    assert lab.nothing_runs()  # not even the init that CRIU has left


def test_a_restore_that_hangs_is_given_up(lab: RuncLab) -> None:
    lab.expect_restore(restore_timeout=0.5)
    lab.env["FAKE_RESTORE"] = "hangs"
    assert lab.code(lab.create()) == 1
    assert "no `setup-namespaces` within" in lab.logged()[-1]
    assert not (lab.state / ID).exists()


def test_images_that_never_come_are_not_waited_for_for_ever(lab: RuncLab) -> None:
    lab.expect_restore(agent=True, images_timeout=0.3)
    assert lab.code(lab.create()) == 1
    assert "no `restore` within" in lab.logged()[-1]


def test_a_commit_that_never_comes_is_no_commit(lab: RuncLab) -> None:
    lab.expect_restore(agent=True, commit_timeout=0.3)
    agent = lab.agent
    assert agent
    create = lab.create()
    agent.hear("created")
    agent.say("restore")
    assert lab.code(create) == 0
    assert lab.code(lab.verb("start")) == 1
    assert "no `commit` within" in lab.logged()[-1]
    assert lab.nothing_runs()


def test_a_gate_without_a_pid_leaves_nothing_behind(lab: RuncLab) -> None:
    lab.expect_restore()
    lab.env["FAKE_RESTORE"] = "mute"
    assert lab.code(lab.create()) == 1
    assert lab.nothing_runs()
    assert "supervisor failed" in lab.logged()[-1]


# -- somebody kills something ---------------------------------------------------------------------


def test_start_does_not_hang_when_the_supervisor_is_killed(lab: RuncLab) -> None:
    agent, create = begun(lab)
    assert lab.code(create) == 0
    start = lab.verb("start")
    agent.hear("network")
    agent.hear("ready")
    os.kill(agent.supervisor(), signal.SIGKILL)
    assert lab.code(start) == 1
    assert "ended without a word" in lab.logged()[-1]
    # CRIU is refused at its gate, and ends what it made.
    assert soon(lambda: lab.nothing_runs())
    assert lab.code(lab.verb("delete")) == 0
    assert not lab.directory.exists()


def test_create_does_not_hang_when_the_supervisor_is_killed(lab: RuncLab) -> None:
    agent = steered(lab)
    create = lab.create()
    agent.hear("created")
    os.kill(agent.supervisor(), signal.SIGKILL)
    assert lab.code(create) == 1
    assert "supervisor died" in lab.logged()[-1]


@pytest.mark.parametrize("verb", ["kill", "delete"])
def test_delete_ends_a_held_restore(lab: RuncLab, verb: str) -> None:
    agent, create = begun(lab)
    assert lab.code(create) == 0
    start = lab.verb("start")
    agent.hear("network")
    agent.hear("ready")
    assert lab.code(lab.verb(verb, "--force")) == 0
    assert lab.code(start) == 1  # also when the directory went before it could look
    assert lab.nothing_runs()
    assert not lab.directory.exists()
    assert lab.seen()[-1][-3:] == [verb, "--force", ID]
    assert agent.hear("failed")["reason"]


def test_delete_after_a_failure_leaves_nothing(lab: RuncLab) -> None:
    lab.expect_restore()
    lab.env["FAKE_RESTORE"] = "dies"
    assert lab.code(lab.create()) == 1
    assert lab.code(lab.verb("delete", "--force")) == 0
    assert not lab.directory.exists()
    assert not (lab.state / ID).exists()
