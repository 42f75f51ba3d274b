"""The Vagrantfile as Vagrant reads it. No machine is made: that needs a provider and a box."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[3]
TEXT = (REPO / "Vagrantfile").read_text()
NAMED = "host.vm.hostname = name\n"

pytestmark = pytest.mark.skipif(
    not shutil.which("vagrant") or not shutil.which("ssh-keygen"),
    reason="vagrant is not installed (Debian 12 has a package of it), or ssh-keygen is not",
)


def validate(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    """`vagrant validate` in an empty folder; it needs no provider and no network."""
    (folder / "Vagrantfile").write_text(text)
    inside = {"VAGRANT_HOME": str(folder / "home"), "VAGRANT_CHECKPOINT_DISABLE": "1"}
    return subprocess.run(
        ["vagrant", "validate", "--ignore-provider"], cwd=folder, env={**os.environ, **inside},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_vagrant_takes_it_and_the_keys_are_made_once(tmp_path: Path) -> None:
    done = validate(tmp_path, TEXT)
    assert done.returncode == 0, done.stdout + done.stderr
    keys = tmp_path / ".vagrant" / "migrate-keys"
    assert sorted(file.name for file in keys.iterdir()) == [
        "hostA", "hostA.pub", "hostB", "hostB.pub", "root", "root.pub",
    ]  # fmt: skip
    first = (keys / "root").read_text()
    assert validate(tmp_path, TEXT).returncode == 0
    assert (keys / "root").read_text() == first


def test_a_mistake_would_be_noticed(tmp_path: Path) -> None:
    wrong = TEXT.replace(NAMED, 'host.vm.hostname = "no_name"\n')
    assert wrong != TEXT
    done = validate(tmp_path, wrong)
    assert done.returncode == 1
    assert "hostname" in done.stdout + done.stderr
