"""migrate.host_setup against a fake dockerd that reloads as moby's daemon/reload_unix.go does."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from migrate import host_setup
from migrate.errors import Busy, ConfigBroken, DockerUnavailable, HostUnfit, RuntimeMissing
from migrate.host_facts import DockerSays
from migrate.host_setup import (
    Places,
    SetupReport,
    host_id,
    make_state_dirs,
    reload_dockerd,
    setup,
    undo,
)

SCRIPT = Path("/opt/migrate/bin/migrate-runc")
OTHERS = '{\n    "dns": ["1.1.1.1"]\n}\n'


class FakeDockerd:
    def __init__(self, root: Path) -> None:
        self.places = Places(
            etc_docker=root / "etc/docker",
            docker_pid=root / "docker.pid",
            proc=root / "proc",
            systemd=root / "systemd",
            state=root / "var/lib/migrate",
            run=root / "run/migrate",
        )
        self.config = self.places.etc_docker / "daemon.json"
        self.config.parent.mkdir(parents=True)
        self.backup = self.config.with_name("daemon.json.migrate-backup")
        self.runtimes: dict[str, dict[str, str]] = {"runc": {"path": "runc"}}
        self.default_runtime = "runc"
        self.reloads = 0
        self.obeys = True
        self.users: list[str] = []

    def info(self) -> DockerSays:
        return DockerSays({"Runtimes": self.runtimes, "DefaultRuntime": self.default_runtime}, {})

    def reload(self, places: Places) -> None:
        self.reloads += 1
        config = json.loads(self.config.read_text()) if self.config.exists() else {}
        if self.obeys and "runtimes" in config:  # without the key it keeps what it knows
            self.runtimes = {"runc": {"path": "runc"}, **config["runtimes"]}

    def setup(self, script: Path = SCRIPT) -> SetupReport:
        return setup(
            self.places, docker_info=self.info, reload=self.reload, script=script, wait=0.2
        )

    def undo(self) -> SetupReport:
        return undo(
            self.places,
            docker_info=self.info,
            reload=self.reload,
            users=lambda: self.users,
            wait=0.2,
        )

    def left_behind(self) -> list[str]:
        return sorted(path.name for path in self.config.parent.iterdir())


@pytest.fixture
def dockerd(tmp_path: Path) -> FakeDockerd:
    return FakeDockerd(tmp_path)


def test_setup_registers_and_the_second_time_does_nothing(dockerd: FakeDockerd) -> None:
    dockerd.config.write_text(OTHERS)
    dockerd.config.chmod(0o640)
    first = dockerd.setup()
    assert json.loads(dockerd.config.read_text()) == {
        "dns": ["1.1.1.1"],
        "runtimes": {"migrate": {"path": str(SCRIPT)}},
    }
    assert dockerd.config.stat().st_mode & 0o777 == 0o640
    assert dockerd.backup.read_text() == OTHERS
    assert dockerd.runtimes["migrate"]["path"] == str(SCRIPT)
    assert any("registered" in change for change in first.changes)
    assert f"is {SCRIPT}" in " ".join(finding.what for finding in first.findings)
    node = dockerd.config.stat().st_ino
    assert dockerd.setup().changes == []
    assert (dockerd.reloads, dockerd.config.stat().st_ino) == (1, node)
    assert dockerd.left_behind() == ["daemon.json", "daemon.json.migrate-backup"]


def test_undo_gives_the_file_and_dockerd_as_they_were(dockerd: FakeDockerd) -> None:
    dockerd.config.write_text(OTHERS)
    dockerd.setup()
    assert dockerd.undo().changes
    assert dockerd.config.read_text() == OTHERS
    assert "migrate" not in dockerd.runtimes
    assert dockerd.left_behind() == ["daemon.json"]
    assert dockerd.undo().changes == []
    assert dockerd.reloads == 2


def test_without_a_daemon_json_one_is_made_and_taken_away(dockerd: FakeDockerd) -> None:
    dockerd.config.parent.rmdir()
    dockerd.setup()
    assert dockerd.config.stat().st_mode & 0o777 == 0o644
    assert dockerd.left_behind() == ["daemon.json"]
    dockerd.undo()
    assert "migrate" not in dockerd.runtimes
    assert dockerd.left_behind() == []


def test_a_file_that_was_empty_is_still_there_after_undo(dockerd: FakeDockerd) -> None:
    dockerd.config.write_text("{}\n")
    dockerd.setup()
    dockerd.undo()
    assert dockerd.config.read_text() == "{}\n"
    assert dockerd.left_behind() == ["daemon.json"]


def test_what_the_administrator_changed_meanwhile_stays(dockerd: FakeDockerd) -> None:
    dockerd.config.write_text(OTHERS)
    dockerd.setup()
    dockerd.config.write_text(dockerd.config.read_text().replace("1.1.1.1", "9.9.9.9"))
    dockerd.undo()
    assert dockerd.config.read_text() == OTHERS.replace("1.1.1.1", "9.9.9.9")
    assert dockerd.backup.read_text() == OTHERS  # it tells something, so it stays


def test_a_linked_daemon_json_stays_a_link(dockerd: FakeDockerd, tmp_path: Path) -> None:
    real = tmp_path / "repository" / "docker.json"
    real.parent.mkdir()
    real.write_text(OTHERS)
    dockerd.config.symlink_to(real)
    dockerd.setup()
    assert dockerd.config.is_symlink()
    assert "migrate" in real.read_text()
    assert (real.parent / "docker.json.migrate-backup").read_text() == OTHERS
    assert dockerd.left_behind() == ["daemon.json"]


@pytest.mark.parametrize("before", [None, OTHERS])
def test_a_dockerd_that_does_not_take_it_over_gets_its_file_back(
    dockerd: FakeDockerd, before: str | None
) -> None:
    if before is not None:
        dockerd.config.write_text(before)
    dockerd.obeys = False
    with pytest.raises(RuntimeMissing, match="not taken over") as raised:
        dockerd.setup()
    assert "journalctl" in raised.value.remedy
    assert dockerd.left_behind() == ([] if before is None else ["daemon.json"])
    assert before is None or dockerd.config.read_text() == before
    assert dockerd.reloads == 2  # the second for the old file


def test_a_dockerd_that_does_not_let_go_keeps_its_file(dockerd: FakeDockerd) -> None:
    dockerd.setup()
    with_runtime = dockerd.config.read_text()
    dockerd.obeys = False
    with pytest.raises(HostUnfit, match="not taken over"):
        dockerd.undo()
    assert dockerd.config.read_text() == with_runtime


def test_a_reload_that_was_missed_is_made_up_for(dockerd: FakeDockerd) -> None:
    dockerd.setup()
    del dockerd.runtimes["migrate"]
    report = dockerd.setup()
    assert report.changes == ["dockerd has read its configuration again"]
    assert not dockerd.backup.exists()


def test_without_docker_nothing_is_touched(dockerd: FakeDockerd) -> None:
    def away() -> DockerSays:
        raise DockerUnavailable("away")

    dockerd.config.write_text(OTHERS)
    with pytest.raises(DockerUnavailable):
        setup(dockerd.places, docker_info=away, reload=dockerd.reload, script=SCRIPT)
    assert dockerd.config.read_text() == OTHERS
    assert (dockerd.left_behind(), dockerd.reloads) == (["daemon.json"], 0)


@pytest.mark.parametrize("content", [b'{"a": }', b"\xff"])
def test_a_broken_file_is_not_touched(dockerd: FakeDockerd, content: bytes) -> None:
    dockerd.config.write_bytes(content)
    with pytest.raises(ConfigBroken):
        dockerd.setup()
    with pytest.raises(ConfigBroken):
        dockerd.undo()
    assert dockerd.config.read_bytes() == content
    assert dockerd.left_behind() == ["daemon.json"]


def test_undo_refuses_while_containers_need_the_runtime(dockerd: FakeDockerd) -> None:
    dockerd.setup()
    dockerd.users = ["web", "db"]
    with pytest.raises(Busy, match="web, db"):
        dockerd.undo()
    assert "migrate" in dockerd.config.read_text()


def test_undo_refuses_while_it_is_the_default(dockerd: FakeDockerd) -> None:
    dockerd.setup()
    dockerd.default_runtime = "migrate"
    with pytest.raises(ConfigBroken, match="default runtime"):
        dockerd.undo()


def test_undo_takes_an_older_install_out_but_nobody_elses(dockerd: FakeDockerd) -> None:
    dockerd.setup(Path("/old/bin/migrate-runc"))
    with pytest.raises(ConfigBroken, match="/old/bin/migrate-runc"):
        dockerd.setup()
    dockerd.undo()
    dockerd.setup(Path("/bin/other"))
    with pytest.raises(ConfigBroken, match="not ours"):
        dockerd.undo()


def test_the_folders_are_for_root_only(dockerd: FakeDockerd) -> None:
    places = dockerd.places
    places.run.mkdir(parents=True, mode=0o755)
    assert len(make_state_dirs(places)) == 3
    for folder in (places.state, places.state / "journal", places.run):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert make_state_dirs(places) == []


def test_a_folder_that_cannot_be_made_is_a_failure_of_the_host(dockerd: FakeDockerd) -> None:
    (dockerd.places.etc_docker.parents[1] / "var").write_text("a file")
    with pytest.raises(HostUnfit, match="Not a directory"):
        dockerd.setup()


def test_only_a_dockerd_gets_the_signal(dockerd: FakeDockerd) -> None:
    places = dockerd.places
    script = 'trap "exit 7" HUP; echo ready; while :; do sleep 0.01; done'
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        comm = places.proc / str(process.pid) / "comm"
        comm.parent.mkdir(parents=True)
        comm.write_text("postgres\n")  # the pid file is of a dockerd that died long ago
        places.docker_pid.write_text(f"{process.pid}\n")
        with pytest.raises(HostUnfit, match="does not name its process"):
            reload_dockerd(places)
        assert process.poll() is None
        comm.write_text("dockerd\n")
        reload_dockerd(places)
        assert process.wait(timeout=10) == 7


def test_the_most_lasting_name_of_the_script_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv, stable = tmp_path / "venv/bin", tmp_path / "local/bin/migrate-runc"
    venv.mkdir(parents=True)
    stable.parent.mkdir(parents=True)
    (venv / "migrate-runc").write_text("")
    monkeypatch.setattr("sys.executable", str(venv / "python"))
    monkeypatch.setattr(host_setup, "STABLE", stable)
    assert host_setup.runtime_path() == venv / "migrate-runc"
    stable.write_text("another file")
    assert host_setup.runtime_path() == venv / "migrate-runc"
    stable.unlink()
    stable.symlink_to(venv / "migrate-runc")
    assert host_setup.runtime_path() == stable
    (venv / "migrate-runc").unlink()
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    with pytest.raises(HostUnfit, match="not installed"):
        host_setup.runtime_path()


def test_a_host_keeps_its_id_and_no_two_have_the_same(tmp_path: Path) -> None:
    ids = set()
    for name in ("a", "b"):
        places = Places(state=tmp_path / name)
        places.state.mkdir()
        ids.add(host_id(places))
        assert host_id(places) in ids
        assert [path.name for path in places.state.iterdir()] == ["host-id"]
    assert len(ids) == 2
