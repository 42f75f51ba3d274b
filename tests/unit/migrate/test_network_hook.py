"""migrate.network_hook: which hook is known; what the restore's supervisor says in its place."""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.network_hook import NetworkHook, network_hook, tell_dockerd, without_network_hook
from tests.unit.migrate.runc_lab import ID, RuncLab, soon

ARGS = ["libnetwork-setkey", "-exec-root=/var/run/docker", "c0ffee", "ab12"]


def config(*args: str, **more: Any) -> dict[str, Any]:
    """As moby 26.1.5 writes it (daemon/oci_linux.go, withLibnetwork)."""
    hooks = {"prestart": [{"path": "/proc/7/exe", "args": list(args)}], **more}
    return {"root": {"path": "r"}, "hooks": hooks}


def test_dockers_hook_is_known() -> None:
    where = "/var/run/docker/libnetwork/ab12.sock"
    assert network_hook(config(*ARGS)) == NetworkHook(where, "c0ffee")
    rest = without_network_hook(config(*ARGS, poststop=[{"path": "/p"}]))
    assert rest == {"root": {"path": "r"}, "hooks": {"poststop": [{"path": "/p"}]}}


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"hooks": None},
        {"hooks": {"prestart": []}},
        config(),
        config("nvidia-hook", *ARGS[1:]),
        config(*ARGS, "more"),
        config(*ARGS[:3], "../../evil"),
        config(ARGS[0], "-exec-root=relative", *ARGS[2:]),
        config(*ARGS, createRuntime=[{"path": "/may/need/the/network"}]),
        {"hooks": {"prestart": config(*ARGS)["hooks"]["prestart"] * 2}},
        {"hooks": {"createRuntime": config(*ARGS)["hooks"]["prestart"]}},
    ],
)
def test_another_is_left_alone(other: dict[str, Any]) -> None:
    assert network_hook(other) is None


@given(st.lists(st.text(), max_size=5))
def test_no_arguments_break_it(args: list[str]) -> None:
    found = network_hook(config(*args))
    assert found is None or args[0] == "libnetwork-setkey"


# -- in a restore ---------------------------------------------------------------------------------


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[RuncLab]:
    lab = RuncLab(tmp_path)
    yield lab
    lab.end()


class FakeDockerd:
    """Listens where Docker's hook would tell it of the namespace, and answers `answer`."""

    def __init__(self, lab: RuncLab, answer: bytes) -> None:
        self.top = Path(tempfile.mkdtemp(prefix="exec-"))
        (self.top / "libnetwork").mkdir()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(f"{self.top}/libnetwork/ab12.sock")
        self.listener.listen()
        self.listener.settimeout(20)
        self.answer = answer
        args = ["libnetwork-setkey", f"-exec-root={self.top}", ID, "ab12"]
        config = lab.bundle / "config.json"
        hooks = {"prestart": [{"path": "/proc/1/exe", "args": args}], "poststop": [{"path": "/x"}]}
        config.write_text(json.dumps({**json.loads(config.read_text()), "hooks": hooks}))

    def hear(self) -> tuple[socket.socket, dict[str, str]]:
        talk, _ = self.listener.accept()
        return talk, json.loads(talk.recv(4096))

    def end(self) -> None:
        self.listener.close()
        shutil.rmtree(self.top)


@pytest.fixture
def dockerd(lab: RuncLab) -> Iterator[FakeDockerd]:
    lab.expect_restore(agent=True)
    dockerd = FakeDockerd(lab, b"success")
    yield dockerd
    dockerd.end()


def test_dockerd_is_told_of_the_namespace_without_its_hook(
    lab: RuncLab, dockerd: FakeDockerd
) -> None:
    agent, create = lab.begin("restore")
    talk, said = dockerd.hear()
    assert said == {"ContainerID": ID, "Key": f"/proc/{lab.init()}/ns/net"}
    hooks = json.loads((lab.bundle / "config.json").read_text())["hooks"]
    assert hooks == {"poststop": [{"path": "/x"}]}  # what runc is given
    time.sleep(0.2)
    assert create.poll() is None  # no network yet, so that `docker start` may not go on
    assert not (lab.work / "stage post-restore").exists()
    talk.sendall(b"success")
    agent.hear("network")
    assert lab.code(create) == 0
    start = lab.verb("start")
    agent.hear("ready")
    agent.say("commit")
    agent.hear("running")
    assert lab.code(start) == 0
    assert lab.resumed()


def test_criu_goes_on_while_dockerd_plugs_in_what_nothing_needs(
    lab: RuncLab, dockerd: FakeDockerd
) -> None:
    _, create = lab.begin("restore-unplugged")
    talk, _ = dockerd.hear()
    assert soon(lambda: (lab.work / "stage post-restore").exists())
    assert create.poll() is None
    talk.sendall(b"success")
    assert lab.code(create) == 0


@pytest.mark.parametrize(
    ("answer", "why"), [(b"no such sandbox", "no such sandbox"), (b"", "dockerd hung up")]
)
def test_a_network_that_cannot_be_plugged_in_ends_the_restore(
    lab: RuncLab, dockerd: FakeDockerd, answer: bytes, why: str
) -> None:
    agent, create = lab.begin("restore")
    talk, _ = dockerd.hear()
    talk.sendall(answer)
    talk.close()
    assert why in agent.hear("failed")["reason"]
    assert lab.code(create) == 1
    assert lab.nothing_runs()


def test_a_dockerd_that_is_gone_when_it_is_to_be_told(lab: RuncLab, dockerd: FakeDockerd) -> None:
    agent, create = lab.agent, lab.create()
    assert agent
    agent.hear("created")
    dockerd.listener.close()
    agent.say("restore")
    agent.hear("namespaces")
    assert "dockerd does not listen" in agent.hear("failed")["reason"]
    assert lab.code(create) == 1
    assert lab.nothing_runs()


def test_the_hook_stays_where_nobody_listens(lab: RuncLab, dockerd: FakeDockerd) -> None:
    (dockerd.top / "libnetwork/ab12.sock").unlink()
    _, create = lab.begin("restore")
    hooks = json.loads((lab.bundle / "config.json").read_text())["hooks"]
    assert hooks["prestart"][0]["args"][0] == "libnetwork-setkey"
    assert lab.code(create) == 0


def test_a_dockerd_that_takes_no_calls_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("migrate.network_hook.CONNECT", 0.1)
    where = f"{tempfile.mkdtemp(prefix='hung-')}/s"
    with socket.socket(socket.AF_UNIX) as hung, socket.socket(socket.AF_UNIX) as first:
        hung.bind(where)
        hung.listen(0)
        first.connect(where)  # the backlog is full
        with pytest.raises(OSError, match=r"timed out|temporarily unavailable"):
            tell_dockerd(NetworkHook(where, ID), 1)
    shutil.rmtree(Path(where).parent)
