"""migrate.criu_probe, with a criu of shell: no root, no namespaces (`sandbox=()`)."""

import os
import time
from pathlib import Path

import pytest

from migrate import criu_inside
from migrate.criu_probe import ProbeResult, probe

# $2... is --images-dir DIR; the log is dump.log or restore.log in it; the pid comes last
FAILS = """
echo '(00.1) Error (criu/util.c:1): rlimit: Can'"'"'t setup RLIMIT_NOFILE for self' > "$3/$1.log"
echo '(00.2) Error (criu/sockets.c:1): sockets: the cause' >> "$3/$1.log"
echo "$pid" > "$0.pid"
exit 1
"""
DUMP_ENDS_IT = '[ "$1" = restore ] || kill -9 "$pid"\n'
DUMP_STOPS_IT = """
if [ "$1" = dump ]; then kill -STOP "$pid"; echo "$pid" > "$0.pid"; fi
"""


def a_criu(directory: Path, script: str) -> str:
    path = directory / "criu"
    path.write_text(f"#!/bin/sh\nfor pid; do :; done\n{script}")
    path.chmod(0o755)
    return str(path)


def test_the_reason_is_the_cause_from_crius_own_log(tmp_path: Path) -> None:
    result = probe(tmp_path / "cache", criu=a_criu(tmp_path, FAILS), sandbox=())
    assert not result.ok
    assert result.reason == "criu dump: Error (criu/sockets.c:1): sockets: the cause"
    guinea_pig = int((tmp_path / "criu.pid").read_text())
    for _ in range(500):  # it was killed; whoever is its parent now has to reap it
        if not is_running(guinea_pig):
            break
        time.sleep(0.01)
    assert not is_running(guinea_pig)


def test_a_restore_that_restores_nothing_is_no_success(tmp_path: Path) -> None:
    result = probe(tmp_path / "cache", criu=a_criu(tmp_path, DUMP_ENDS_IT), sandbox=())
    assert not result.ok
    assert "does not answer" in result.reason


def test_a_criu_that_says_nothing_is_quoted_by_its_stderr(tmp_path: Path) -> None:
    binary = a_criu(tmp_path, "echo 'libnet.so.9: no such file' >&2; exit 127")
    result = probe(tmp_path / "cache", criu=binary, sandbox=())
    assert result.reason == "criu dump: libnet.so.9: no such file"


def test_a_criu_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criu_inside, "CRIU_WITHIN", 1.5)
    binary = a_criu(tmp_path, 'echo "$pid" > "$0.pid"; exec sleep 30')
    with pytest.raises(criu_inside.ProbeFailed, match=r"criu dump: .* did not end within"):
        criu_inside.probe(binary, tmp_path)
    os.waitpid(int((tmp_path / "criu.pid").read_text()), 0)  # the guinea pig is dead, too


def test_a_dump_that_leaves_the_process_alive_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(criu_inside, "ANSWER_WITHIN", 0.2)
    with pytest.raises(criu_inside.ProbeFailed, match="left the probe process alive"):
        criu_inside.probe(a_criu(tmp_path, DUMP_STOPS_IT), tmp_path)
    os.waitpid(int((tmp_path / "criu.pid").read_text()), 0)  # it is dead, not stopped


def test_a_refused_sandbox_is_a_reason(tmp_path: Path) -> None:
    sandbox = ["sh", "-c", "echo 'unshare: Operation not permitted' >&2; exit 1"]
    result = probe(tmp_path / "cache", criu=a_criu(tmp_path, ""), sandbox=sandbox)
    assert result.reason == "the probe ended with 1: unshare: Operation not permitted"


def counting_sandbox(directory: Path, answer: str) -> list[str]:
    return ["sh", "-c", f"echo x >> {directory}/runs; echo '{answer}'"]


def runs(directory: Path) -> int:
    return (directory / "runs").read_text().count("x")


def test_a_success_is_remembered_for_this_binary(tmp_path: Path) -> None:
    binary = a_criu(tmp_path, "")
    sandbox = counting_sandbox(tmp_path, '{"ok": true, "reason": ""}')
    cache = tmp_path / "lib"

    def ask(*, again: bool = False) -> ProbeResult:
        return probe(cache, criu=binary, sandbox=sandbox, again=again)

    assert not ask().cached
    assert not cache.exists()  # who only looks does not make it
    cache.mkdir()
    first, second = ask(), ask()
    assert (first.ok, first.cached, second.ok, second.cached) == (True, False, True, True)
    assert (second.seconds, runs(tmp_path)) == (first.seconds, 2)
    assert not ask(again=True).cached
    os.utime(binary, (1, 1))  # another binary
    assert not ask().cached
    (cache / "criu-probe.json").write_text('{"key": 3}')
    assert not ask().cached
    assert runs(tmp_path) == 5
    assert sorted(path.name for path in cache.iterdir()) == ["criu-probe.json"]


def test_a_failure_is_not_remembered(tmp_path: Path) -> None:
    sandbox = counting_sandbox(tmp_path, '{"ok": false, "reason": "no"}')
    for _ in range(2):
        result = probe(tmp_path, criu=a_criu(tmp_path, ""), sandbox=sandbox)
        assert result.reason == "no"
        assert not result.cached
    assert runs(tmp_path) == 2


def test_no_criu_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no such file" in probe(tmp_path, criu=str(tmp_path / "criu")).reason.lower()
    monkeypatch.setattr("migrate.criu_probe.find_criu", lambda: None)
    assert not probe(tmp_path).ok


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
