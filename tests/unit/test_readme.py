"""The README is an interface too: what it says of commands, fields and exit codes must be so."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

import msgspec
import pytest

from migrate.cli import COMMANDS, parser
from migrate.errors import BUG
from migrate.summary import Summary
from transport.errors import Failure

REPO = Path(__file__).resolve().parents[2]
README = (REPO / "README.md").read_text()
INTERNAL = {"agent", "source"}  # commands that `migrate` itself calls


def section(title: str) -> str:
    """The text below a heading, up to the next one of that level."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found, f"the README has no section {title}"
    return found[1]


def failures(base: type[Failure] = Failure) -> set[type[Failure]]:
    """All classes of failures of the project, however deep; not those that tests define."""
    below = {one for direct in base.__subclasses__() for one in {direct, *failures(direct)}}
    return {one for one in below if one.__module__.split(".")[0] in ("migrate", "transport")}


def test_the_table_of_exit_codes_is_that_of_the_classes() -> None:
    rows = re.findall(r"^\| (\d+) \| (?:`(\w+)`)? *\|", section("Exit codes"), re.MULTILINE)
    classes = {(str(one.exit_code), one.__name__) for one in failures()}
    assert set(rows) == classes | {(str(BUG), "")}
    assert len(rows) == len(set(rows))
    assert rows == sorted(rows, key=lambda row: int(row[0]))


def test_no_two_failures_share_an_exit_code() -> None:
    codes = [one.exit_code for one in failures()]
    assert sorted(codes) == sorted(set(codes))


def verbs() -> dict[str, argparse.ArgumentParser]:
    (found,) = (
        action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)
    )
    return dict(found.choices)


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - INTERNAL))
def test_commands_and_their_options_are_in_the_readme(command: str) -> None:
    usage = section("Usage")
    assert re.search(rf"^\| `{command}` \|", usage, re.MULTILINE)
    for action in verbs()[command]._actions:
        for option in action.option_strings:
            if option.startswith("--") and option not in ("--help", "--verbose"):
                assert option in usage, f"{command} {option}"


def test_every_command_and_option_of_the_readme_exists() -> None:
    synopsis = re.search(r"```\n(migrate .*?)```", section("Usage"), re.DOTALL)
    assert synopsis
    lines = synopsis[1].splitlines()
    assert len(lines) == len(set(COMMANDS) - INTERNAL)
    for line in lines:
        command = line.split()[1].strip("[]")
        known = {o for action in verbs()[command]._actions for o in action.option_strings}
        assert set(re.findall(r"--[a-z][a-z-]*", line)) <= known
    for command in re.findall(r"`migrate (?:\[?)([a-z]+)", README):
        assert command in COMMANDS


def test_every_field_of_the_summary_is_explained() -> None:
    named = set(re.findall(r"`(\w+)`", section("Usage")))
    assert {field.name for field in msgspec.structs.fields(Summary)} <= named


@pytest.mark.parametrize("script", ["demo", "test", "install.sh", "bootstrap.sh", ".ci/run"])
def test_the_scripts_can_be_run(script: str) -> None:
    assert os.access(REPO / script, os.X_OK)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (REPO / target).exists(), target


def test_every_module_is_in_the_table_of_the_code() -> None:
    table = section("The code")
    patterns = {
        re.sub(r"^(migrate|transport)/", "", word)
        for word in re.findall(r"`([\w/*]+)`", table)
    }  # fmt: skip
    for package in ("migrate", "transport"):
        for module in (REPO / package).glob("[a-z]*.py"):
            assert any(Path(module.stem).match(one) for one in patterns), module
