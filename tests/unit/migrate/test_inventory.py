"""migrate.inventory: names from several places, and who of them counts."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate import inventory
from migrate.errors import BadPlan
from migrate.interrupts import Stops
from migrate.inventory import ask, names, of_contexts, of_file, of_ssh_config, sort_out
from migrate.messages import Greeting, HostPort, Message, Offer, PortRefused, Survey
from migrate.pairing import Host
from migrate.placement import DestinationView
from migrate.plan import LeftOut
from tests.unit.migrate.fleet import FACTS, host
from tests.unit.migrate.test_pairing import fit_facts
from transport.errors import BadTarget, HostUnreachable

PORT = HostPort("tcp", "", 80)
CONFIG = """\
# Host commented
Host one  two # a comment
    HostName 10.0.0.1
HOST=three
Host * !four f?ve
Host "six"
Match host seven
Hostname eight
"""


def test_an_ssh_config_names_hosts() -> None:
    assert of_ssh_config(CONFIG.splitlines()) == ["one", "two", "three", "six"]


def test_contexts_of_docker_that_are_reached_by_ssh() -> None:
    lines = [
        json.dumps({"Name": "default", "DockerEndpoint": "unix:///var/run/docker.sock"}),
        json.dumps({"Name": "b", "DockerEndpoint": "ssh://root@b:2222"}),
        json.dumps({"Name": "c", "DockerEndpoint": "ssh://c/run/docker.sock"}),
        json.dumps({"Name": "t", "DockerEndpoint": "tcp://d:2376"}),
        json.dumps({"Name": "none", "DockerEndpoint": None}),
        "no json", "[]",
    ]  # fmt: skip
    assert of_contexts("\n".join(lines)) == ["root@b:2222", "c"]


@given(st.text(max_size=200))
def test_any_text_is_read(text: str) -> None:
    readers: list[Callable[[str], list[str]]] = [
        of_contexts, lambda t: [name for _, name in of_file(t)],
        lambda t: of_ssh_config(t.splitlines()),
    ]  # fmt: skip
    for reader in readers:
        assert all(name and " " not in name for name in reader(text))


def test_a_file_has_one_host_per_line() -> None:
    found = of_file("a\n\n# all\n root@b:22   # the big one\n\tc d\n")
    assert found == [(1, "a"), (4, "root@b:22"), (5, "c")]


def test_nonsense_in_a_file_is_left_out_and_the_others_go_on(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(b"b\n-oProxyCommand=x\n\nwe;b\nc:99999\n\xff\xfe\nd\n")
    found, left_out = names([], [str(path)])
    assert found == ["b", "d"]
    assert [one.host for one in left_out] == [
        "-oProxyCommand=x",
        "we;b",
        "c:99999",
        "\ufffd\ufffd",
    ]
    assert left_out[0].why.startswith(f"{path}, line 2: ")
    assert "does not name a host" in left_out[0].why
    assert f"{path}, line 5: " in left_out[2].why
    assert all(one.remedy for one in left_out)


def test_nothing_but_nonsense_is_a_bad_plan(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("# all\n-x\n")
    with pytest.raises(BadPlan, match=r"hosts, line 2: .*does not name a host"):
        names([], [str(tmp_path / "hosts")])
    with pytest.raises(BadPlan, match="no host is named"):
        names([], [])


def test_nonsense_in_other_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/config").write_text("Host -x two\n")
    monkeypatch.setattr(inventory, "_contexts", lambda: '{"DockerEndpoint": "ssh://;"}')
    found, left_out = names([], ["ssh", "docker"])
    assert found == ["two"]
    assert [(one.host, one.why.partition(":")[0]) for one in left_out] == [
        ("-x", "~/.ssh/config"), (";", "a context of Docker"),
    ]  # fmt: skip


def test_all_places_together_each_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/config").write_text("Include more\nHost two\n")
    (tmp_path / ".ssh/more").write_text("Host three\n")
    (tmp_path / "list").write_text("two\nfour\n")
    monkeypatch.setattr(inventory, "_contexts", lambda: '{"DockerEndpoint": "ssh://five"}')
    given_ = ["one", "two"]
    found, left_out = names(given_, ["ssh", str(tmp_path / "list"), "docker"])
    assert left_out == []
    assert found == ["one", "two", "three", "four", "five"]


def test_no_ssh_config_names_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert names(["b"], ["ssh"]) == (["b"], [])


def test_a_file_that_is_not_there_is_a_bad_plan(tmp_path: Path) -> None:
    with pytest.raises(BadPlan, match="no-such"):
        names([], [str(tmp_path / "no-such")])


def test_what_is_no_host_is_refused() -> None:
    with pytest.raises(BadTarget):
        names(["-oProxyCommand=x"], [])


def test_this_host_and_second_names_are_left_out() -> None:
    there: list[Host | LeftOut] = [host("a"), host("b"), LeftOut("c", "dead"), host("d")]
    twin = Host("b-again", FACTS, DestinationView(), host_id="id-b")
    hosts, left_out = sort_out([*there, twin], FACTS, "id-a")
    assert [one.name for one in hosts] == ["b", "d"]
    assert [(one.host, one.why) for one in left_out] == [
        ("a", "it is this host"), ("c", "dead"),
        ("b-again", "it is the same host as b"),
    ]  # fmt: skip


def test_a_clone_is_another_host() -> None:
    """It has the ids that lie on the disk of the one that it was made of, but not its boot."""
    here, clone = (msgspec.structs.replace(FACTS, boot_id=boot) for boot in ("one", "two"))
    other = msgspec.structs.replace(FACTS, boot_id="three")
    hosts, left_out = sort_out(
        [
            Host("clone", clone, DestinationView(), host_id="id"),
            Host("other", other, DestinationView(), host_id="id"),
            Host("self", here, DestinationView(), host_id="id"),
        ],
        here, "id",
    )  # fmt: skip
    assert [one.name for one in hosts] == ["clone", "other"]
    assert [(one.host, one.why) for one in left_out] == [("self", "it is this host")]


class Link:
    """Stands for AgentLink: hosts that answer, do not answer, or are not fit."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.channel = name

    def __enter__(self) -> Link:
        if self.name == "dead":
            raise HostUnreachable("nothing answers at dead")
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def greet(self, *, looks: bool = False) -> Greeting:
        assert looks
        facts: Any = FACTS if self.name == "unfit" else fit_facts()
        facts = msgspec.structs.replace(facts, wall_clock=50.0)
        return Greeting(protocol=1, version="", facts=facts, host_id=f"id-{self.name}")


@contextmanager
def links(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def call(channel: str, request: Message, reply: type, timeout: float) -> Offer:
        assert isinstance(request, Survey)
        probe = "no sockets" if channel == "probe" else ""
        refused = tuple(PortRefused(port, "in use", "stop it") for port in request.ports)
        return Offer(DestinationView(cpus=3), 1.5, probe, refused)

    with monkeypatch.context() as patched:
        patched.setattr(inventory, "AgentLink", Link)
        patched.setattr(inventory, "call", call)
        patched.setattr("time.time", lambda: 48.0)
        yield


def test_hosts_are_asked_and_the_others_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    here: Any = fit_facts()
    with links(monkeypatch):
        hosts, left_out = ask(["good", "dead", "unfit", "probe"], here, "id-here", 3, [PORT, PORT])
    (good,) = hosts
    assert (good.name, good.load, good.parallel, good.skew) == ("good", 1.5, 3, 2.0)
    assert good.view.cpus == 3
    assert good.refused == (PortRefused(PORT, "in use", "stop it"),)
    reasons = {one.host: one.why for one in left_out}
    assert reasons["dead"] == "nothing answers at dead"
    assert "at the destination" in reasons["unfit"]
    assert "no sockets" in reasons["probe"]


def test_all_are_asked_and_answer_in_their_order() -> None:
    hosts = [str(number) for number in range(3 * inventory.AT_ONCE)]
    assert inventory.ask_all(hosts, int) == list(range(3 * inventory.AT_ONCE))
    assert inventory.ask_all([], int) == []
    with pytest.raises(ValueError, match="invalid literal"):
        inventory.ask_all(["1", "x"], int)


def test_a_signal_does_not_wait_for_a_host_that_does_not_answer() -> None:
    over, began = threading.Event(), time.monotonic()
    timer = threading.Timer(0.6, os.kill, (os.getpid(), signal.SIGTERM))
    with Stops():
        timer.start()  # only now: before, it would end the tests
        with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
            inventory.ask_all(["mute"], lambda host: over.wait(60.0))
    assert time.monotonic() - began < 30.0
    over.set()


def test_the_containers_of_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [
        {"Id": "1", "Names": ["/web"], "State": "running"},
        {"Id": "2", "Names": ["/old"], "State": "exited"},
    ]
    heirs = {"former": "1", "odd": "9"}
    offer = Offer(DestinationView(containers=tuple(listed)), 0.0, "", heirs=heirs)
    monkeypatch.setattr(inventory, "AgentLink", Link)
    monkeypatch.setattr(inventory, "call", lambda *_: offer)
    assert inventory.containers_at("b") == {
        "web": True, "1": True, "former": True, "old": False, "2": False, "odd": False,
    }  # fmt: skip
    with pytest.raises(HostUnreachable):
        inventory.containers_at("dead")
