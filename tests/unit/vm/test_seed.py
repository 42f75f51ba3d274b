"""tests.vm.seed: what a machine unpacks when it boots."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.vm.seed import network_script, write_seed


def test_the_tool_and_the_files_of_one_machine_are_in_it(tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    (tool / "opt/migrate/bin").mkdir(parents=True)
    (tool / "opt/migrate/bin/migrate").write_text("#!")
    (tool / "opt/migrate/bin/migrate").chmod(0o755)
    (tool / "link").symlink_to("/opt/migrate/bin/migrate")
    seed = tmp_path / "seed.tar"
    write_seed(seed, [("/root/.ssh/id", "sécret\n", 0o600)], tool)
    assert seed.stat().st_size % 512 == 0, "a disk is made of sectors"
    root = tmp_path / "root"
    root.mkdir()
    subprocess.run(["tar", "-C", str(root), "-xf", str(seed)], check=True)
    assert (root / "root/.ssh/id").read_text() == "sécret\n"
    assert (root / "root/.ssh/id").stat().st_mode & 0o777 == 0o600
    assert (root / "opt/migrate/bin/migrate").stat().st_mode & 0o777 == 0o755
    assert (root / "link").is_symlink()
    with tarfile.open(seed) as tar:
        assert not [name for name in tar.getnames() if name.startswith(("/", ".."))]


@pytest.mark.parametrize("client", [None, "10.77.0.20"])
def test_the_client_has_a_card_only_where_it_is(client: str | None) -> None:
    script = network_script("10.77.0.11", client)
    assert subprocess.run(["sh", "-n"], input=script, text=True, check=False).returncode == 0
    assert "address add 10.77.0.11/24 dev eth1" in script
    assert ("eth2" in script) == bool(client)
