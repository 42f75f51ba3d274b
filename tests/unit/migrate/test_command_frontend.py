"""migrate.command_frontend: words to calls, and what is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from migrate import cli, command_frontend, frontend, frontend_store
from migrate.frontend_record import Frontend
from migrate.messages import HostPort

GAME = Frontend("game", "udp", 27960, ("10.0.0.1", 27999))


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    noted: list[Any] = []
    monkeypatch.setattr(frontend_store, "DIRECTORY", tmp_path)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(frontend, "laid", lambda: False)

    def switch(*words: Any) -> int:
        noted.append(words)
        return 3

    monkeypatch.setattr(frontend, "add", lambda new, taken: noted.append(new))
    monkeypatch.setattr(frontend, "switch", switch)
    monkeypatch.setattr(frontend, "remove", noted.append)
    monkeypatch.setattr(frontend, "restore", lambda: 2)
    frontend_store.write([GAME])
    return noted


def test_add(calls: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["frontend", "add", "web", "443", "10.0.0.1:8443"]) == 0
    assert cli.main(["frontend", "add", "dns", "53/udp", "localhost"]) == 0
    assert calls[0] == Frontend("web", "tcp", 443, ("10.0.0.1", 8443))
    assert (calls[1].protocol, calls[1].backend[1]) == ("udp", 53)
    assert "443/tcp leads to 10.0.0.1:8443" in capsys.readouterr().out


def test_switch_keeps_the_backends_port(
    calls: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["frontend", "switch", "game", "10.0.0.2", "--json"]) == 0
    assert calls == [("game", ("10.0.0.2", 27999))]
    assert json.loads(capsys.readouterr().out)["connections"] == 3
    assert cli.main(["frontend", "switch", "nobody", "10.0.0.2"]) == 26


def test_remove_and_restore(calls: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["frontend", "remove", "game"]) == 0
    assert cli.main(["frontend", "restore"]) == 0
    assert calls == ["game"]
    assert "2 front ends" in capsys.readouterr().out


def test_list(calls: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["frontend", "list"]) == 0
    assert capsys.readouterr().out == (
        "game  27960/udp leads to 10.0.0.1:27999 "
        "[not in force since a boot: migrate frontend restore]\n"
    )
    assert cli.main(["frontend", "list", "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)
    assert (shown["backend"], shown["laid"]) == ("10.0.0.1:27999", False)
    frontend_store.write([])
    cli.main(["frontend", "list"])
    assert capsys.readouterr().out == "no front ends\n"


@pytest.mark.parametrize(
    "words",
    [["add"], ["add", "a", "80"], ["switch", "game"], ["remove"], ["list", "x"], ["restore", "x"],
     ["add", "a", "0", "10.0.0.1"], ["add", "a", "80", "no.such.host.invalid"]],
)  # fmt: skip
def test_wrong_words_are_said(
    calls: list[Any], capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert cli.main(["frontend", *words]) == 2
    assert calls == []
    assert capsys.readouterr().err.startswith("migrate: ")


def test_a_port_of_a_program_here_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    here = [HostPort("tcp", "0.0.0.0", 22), HostPort("udp", "127.0.0.53", 53)]
    monkeypatch.setattr(command_frontend, "listeners", lambda folder: iter(here))
    assert command_frontend.taken("tcp", 22)
    assert not command_frontend.taken("udp", 22)
    assert not command_frontend.taken("udp", 53)
