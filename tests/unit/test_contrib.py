"""What is shipped for cron and systemd can be read by them, and calls what there is."""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from migrate.cli import parser, with_command
from migrate.errors import NothingToDo

CONTRIB = Path(__file__).resolve().parents[2] / "contrib"
UNITS = sorted(path.name for path in CONTRIB.glob("*.service")) + sorted(
    path.name for path in CONTRIB.glob("*.timer")
)
CRON = (CONTRIB / "migrate.cron").read_text()
# The forms that the shipped lines have, of crontab(5).
ENTRY = re.compile(r"(?:@reboot|(?:(?:\*|\d+)\s+){5})\s*root\s+(.+)")


def called(command: str) -> argparse.Namespace:
    program, *words = shlex.split(command)
    assert program.rpartition("/")[2] == "migrate"
    return parser().parse_args(with_command(words))


def settings(unit: str) -> dict[str, str]:
    lines = (CONTRIB / unit).read_text().splitlines()
    pairs = (line.partition("=") for line in lines if line and line[0] not in "#[")
    return {key: value for key, _, value in pairs}


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd here")
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_takes_the_units(unit: str, tmp_path: Path) -> None:
    for path in CONTRIB.iterdir():
        text = path.read_text().replace("/usr/local/bin/migrate", "/bin/true")
        (tmp_path / path.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / unit)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    ours = [line for line in done.stderr.splitlines() if str(tmp_path) in line or unit in line]
    assert not ours, done.stderr
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd here")
def test_systemd_refuses_what_is_wrong(tmp_path: Path) -> None:
    """The control: this check can fail."""
    (tmp_path / "x.service").write_text("[Service]\nType=oneshot\nExecStart=/no/such\nKillMode=x\n")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "x.service")],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert str(tmp_path) in done.stderr


@pytest.mark.parametrize("unit", [unit for unit in UNITS if unit.endswith(".service")])
def test_units_call_what_there_is(unit: str) -> None:
    read = settings(unit)
    given = called(read["ExecStart"])
    assert f"migrate-{given.command}.service" == unit
    assert read["SuccessExitStatus"] == str(NothingToDo.exit_code)
    assert read["KillMode"] == "process"  # guards outlive the unit
    assert unit.replace(".service", ".timer") in UNITS


def test_cron_calls_what_there_is() -> None:
    entries = [
        line for line in CRON.splitlines()
        if line and not line.startswith("#") and not re.match(r"[A-Z]+=", line)
    ]  # fmt: skip
    found = [ENTRY.fullmatch(line) for line in entries]
    assert all(found), entries
    commands = [called(match[1].removesuffix(">/dev/null")).command for match in found if match]
    assert commands == ["evacuate", "return", "recover"]
    assert all("%" not in line for line in entries)  # cron makes a newline of it
