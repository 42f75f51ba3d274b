"""migrate.command_cache: list and remove what is kept; as prose and as JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from migrate import command_cache
from migrate.cli import main, parser
from migrate.errors import ContainerNotFound
from migrate.host_setup import Places
from migrate.page_batch import PAGE
from migrate.page_cache import PageCache, cache_key


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PageCache:
    places = Places(state=tmp_path)
    monkeypatch.setattr(command_cache, "Places", lambda: places)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    made = PageCache(places.cache)
    made.save(cache_key("app", ["1"]), [os.urandom(PAGE) for _ in range(300)])
    made.save(cache_key("app", ["2"]), [os.urandom(PAGE)])
    made.save(cache_key("db", ["1"]), [os.urandom(PAGE)])
    return made


@pytest.mark.parametrize(
    ("argv", "action", "name"),
    [
        (["cache"], "list", None), (["cache", "list"], "list", None),
        (["cache", "clear"], "clear", None), (["cache", "clear", "app"], "clear", "app"),
        (["cache", "list", "app", "--json"], "list", "app"),
    ],
)  # fmt: skip
def test_words(argv: list[str], action: str, name: str | None) -> None:
    given = parser().parse_args(argv)
    assert (given.command, given.action, given.name) == ("cache", action, name)


def test_an_unknown_action() -> None:
    with pytest.raises(SystemExit):
        main(["cache", "empty"])


def test_list(cache: PageCache, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split("  ")[0] for line in lines[:3]} == {"app", "db"}
    assert any(line.startswith("app  1.2 MiB  saved 20") for line in lines)
    assert lines[3].startswith("1.2 MiB of at most ")
    assert len(cache.entries()) == 3


def test_list_as_json(cache: PageCache, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "list", "db", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    (entry,) = shown.pop("entries")
    assert entry.pop("saved") > 1.7e9
    assert entry == {"key": cache_key("db", ["1"]), "name": "db", "bytes": PAGE}
    assert shown == {"action": "list", "limit": cache.limit()}


def test_clear_one_container(cache: PageCache, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "clear", "app"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "removed 1.2 MiB"
    assert [entry.name for entry in cache.entries()] == ["db"]


def test_clear_all(cache: PageCache, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "clear", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["entries"]) == 3
    assert cache.entries() == []
    assert main(["cache", "clear"]) == 0  # nothing there is no failure
    assert capsys.readouterr().out == "removed 0.0 MiB\n"


def test_a_name_that_is_not_there(cache: PageCache, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "clear", "ap"]) == ContainerNotFound.exit_code
    assert "migrate cache" in capsys.readouterr().err
    assert len(cache.entries()) == 3
