"""migrate.runtime and bin/migrate-runc: what goes on to runc, and what does not."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.runtime import (
    CREATE_OPTIONS,
    Bundle,
    Call,
    Pending,
    abort,
    fail,
    parse_call,
    prepare,
)
from tests.unit.migrate.runc_lab import ID, PATIENCE, ROOT, RuncLab, is_fifo, soon

OTHER = "beef" * 16


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[RuncLab]:
    lab = RuncLab(tmp_path)
    yield lab
    lab.end()


# -- the script: a container that a forward leads to ----------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("delete", ID), True),
        (("--root", "/r", "delete", "--force", ID), True),
        (("delete", OTHER), False),
        (("kill", ID, "9"), False),
        (("state", ID), False),
    ],
)
def test_the_end_of_a_watched_container_is_told(
    lab: RuncLab, tmp_path: Path, words: tuple[str, ...], told: bool
) -> None:
    watched = tmp_path / "watched"
    watched.mkdir()
    (watched / ID).touch()
    lab.env["MIGRATE_WATCHED"] = str(watched)
    python = lab.script.parent / "python3"
    python.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/told\n')
    assert lab.code(lab.call(*words)) == 0
    assert lab.seen() == [list(words)]  # runc is called as ever
    deadline = time.monotonic() + (PATIENCE if told else 0.2)
    while not (tmp_path / "told").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (tmp_path / "told").exists() == told
    if told:
        assert (tmp_path / "told").read_text() == f"-I -m migrate.forward_end {ID}\n"


# -- the script: everything goes on to runc unchanged ---------------------------------------------

CALLS = [
    (),
    ("--version",),
    ("",),
    ("--root", "/run/x", "state", OTHER),
    ("create", "--bundle", "/b", "--pid-file", "/p", OTHER),
    ("start", OTHER),
    ("kill", "--all", OTHER, "9"),
    ("delete", "--force", OTHER),
    ("exec", "--env", "A=two words", OTHER, "sh", "-c", "echo '*' \"$HOME\"\n", ""),
    ("create", "../" + ID),
    ("events", "start"),
    ("*", "?", "~", "$(false)", "--", "-"),
]


@pytest.mark.parametrize("words", CALLS)
@pytest.mark.parametrize("pending", [False, True])
def test_a_call_for_nothing_pending_goes_on_as_it_is(
    lab: RuncLab, words: tuple[str, ...], pending: bool
) -> None:
    if pending:
        lab.expect_restore()
    lab.env["FAKE_EXIT"] = "42"
    assert lab.code(lab.call(*words)) == 42
    assert lab.seen() == [list(words)]
    assert lab.directory.exists() == pending


@pytest.mark.parametrize("verb", ["state", "exec", "events", "pause", "update", "ps"])
def test_other_verbs_of_a_pending_container_go_on_too(lab: RuncLab, verb: str) -> None:
    lab.expect_restore()
    assert lab.code(lab.verb(verb)) == 0
    assert lab.seen()[0][-2:] == [verb, ID]
    assert lab.directory.exists()


@pytest.mark.parametrize("verb", ["kill", "delete"])
def test_killing_before_create_forgets_the_restore_and_goes_on(lab: RuncLab, verb: str) -> None:
    lab.expect_restore()
    lab.env["FAKE_EXIT"] = "3"
    assert lab.code(lab.verb(verb, "--force")) == 3
    assert not lab.directory.exists()
    assert lab.seen()[0][-3:] == [verb, "--force", ID]


def test_start_without_create_fails_and_does_not_hang(lab: RuncLab) -> None:
    lab.expect_restore()
    assert lab.code(lab.verb("start")) != 0
    assert lab.seen() == []


def test_start_hears_a_supervisor_that_comes_to_its_end_at_once(lab: RuncLab) -> None:
    """As soon as `start` is heard, all may be done and the directory gone: on a busy host before
    this script goes on. Docker would end the running container if it failed then."""
    lab.expect_restore()
    os.mkfifo(lab.directory / "said", 0o600)
    said = os.open(lab.directory / "said", os.O_RDWR | os.O_NONBLOCK)
    with (lab.directory / "hold.start").open("w") as hold:
        fcntl.flock(hold, fcntl.LOCK_EX)
        with contextlib.suppress(BlockingIOError):  # full: the script waits where it says `start`
            while True:
                os.write(said, b"x" * 4096)
        start = lab.verb("start")
        assert soon(lambda: os.path.exists(f"/proc/{start.pid}/fd/3"))
        time.sleep(0.2)
        hold.write("ok\n")
        hold.flush()
        shutil.rmtree(lab.directory)
    heard = b""
    while not heard.endswith(b"start\n"):
        with contextlib.suppress(BlockingIOError):
            heard = os.read(said, 1 << 16)
    os.close(said)
    assert lab.code(start) == 0, lab.said()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"images": "/x"}'])
def test_a_broken_pending_restore_is_said(lab: RuncLab, text: str) -> None:
    lab.expect_restore()
    (lab.directory / "pending.json").write_text(text)
    assert lab.code(lab.create()) == 1
    assert "is broken" in lab.said()
    assert any("is broken" in message for message in lab.logged())
    assert lab.seen() == []


# -- the pieces -----------------------------------------------------------------------------------

words = st.text(st.characters(codec="ascii", min_codepoint=33), min_size=1).filter(
    lambda word: not word.startswith("-") and word not in ("create", "=")
)


@given(
    before=st.lists(st.tuples(st.sampled_from(["--root", "--log", "--log-format"]), words)),
    options=st.dictionaries(st.sampled_from(sorted(CREATE_OPTIONS - {"-b"})), words),
    joined=st.booleans(),
    flags=st.lists(st.sampled_from(["--no-pivot", "--no-new-keyring"])),
)
def test_every_option_is_found_however_it_is_written(
    before: list[tuple[str, str]], options: dict[str, str], joined: bool, flags: list[str]
) -> None:
    globals_ = [word for pair in before for word in pair]
    given_ = [
        word
        for name, value in options.items()
        for word in ([f"{name}={value}"] if joined else [name, value])
    ]
    call = parse_call([*globals_, "create", *flags, *given_, ID], "create", ID)
    assert call.globals == globals_
    assert call.options == options
    logs = [value for name, value in before if name == "--log"]
    assert call.log == (logs[-1] if logs else None)


def test_the_short_name_of_bundle_and_a_joined_log() -> None:
    call = parse_call(["--log=/l", "create", "-b", "/bundle", ID], "create", ID)
    assert call == Call(["--log=/l"], {"--bundle": "/bundle"}, "/l", ID)
    assert parse_call(["create", "--bundle"], "create", ID).options == {"--bundle": ""}


@pytest.fixture(autouse=True)
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As bin/migrate-runc says where it is."""
    monkeypatch.setenv("MIGRATE_SCRIPT", str(ROOT / "bin/migrate-runc"))
    return ROOT / "bin/migrate-runc"


def test_nothing_executable_is_written(tmp_path: Path, script: Path) -> None:
    # /run is mounted noexec on Debian and Ubuntu.
    (tmp_path / "config.json").write_text('{"root": {"path": "rootfs"}}')
    directory = tmp_path / "pending"
    directory.mkdir()
    prepare(directory, Pending("", "", (), 1, 1, 1), tmp_path)
    for path in (directory / "gate", directory / "bin/criu"):
        assert path.is_symlink()
        assert path.resolve() == script
    files = [path for path in directory.rglob("*") if not path.is_symlink() and path.is_file()]
    assert not any(path.stat().st_mode & 0o111 for path in files)


def test_criu_answers_once_and_is_then_held(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"root": {"path": "rootfs"}}')
    directory, tools = tmp_path / "pending", tmp_path / "tools"
    directory.mkdir()
    tools.mkdir()
    prepare(directory, Pending("", "", (), 1, 1, 1), tmp_path)
    (tools / "criu").write_text(f'#!/bin/sh\necho "$@" >>"{tools}/calls"\n')
    (tools / "criu").chmod(0o755)
    env = {"PATH": f"{directory}/bin:{tools}:/usr/bin:/bin"}

    def criu(*words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["criu", *words], executable=directory / "bin/criu", env=env)

    with (directory / "hold.criu").open("w") as hold:
        fcntl.flock(hold, fcntl.LOCK_EX)
        assert criu("--version").wait(20) == 0
        held = criu("swrk", "3")
        refused = criu("swrk", "4")
        time.sleep(0.1)
        assert (held.poll(), refused.poll()) == (None, None)
        assert (tools / "calls").read_text() == "--version\n"
        refused.kill()
        refused.wait()
        hold.write("ok\n")
    assert held.wait(20) == 0
    assert (tools / "calls").read_text() == "--version\nswrk 3\n"
    (directory / "hold.criu").write_text("")  # a supervisor that died, or gave up
    assert criu("swrk", "3").wait(20) == 1
    assert (tools / "calls").read_text().count("swrk") == 1


def test_prepare_lays_out_the_gates_and_keeps_the_bundle(tmp_path: Path) -> None:
    directory, bundle = tmp_path / "pending", tmp_path / "bundle"
    directory.mkdir()
    bundle.mkdir()
    config = bundle / "config.json"
    config.write_text(json.dumps({"root": {"path": "/merged"}, "annotations": {"a": "b"}}))
    config.chmod(0o640)
    pending = Pending("/images", "/work", ("tcp-established", "file-locks"), 1, 1, 1)
    assert prepare(directory, pending, bundle) == Bundle("/merged")
    assert is_fifo(directory / "said")
    assert {path.name for path in directory.glob("hold.*")} == {
        "hold.criu", "hold.setup-namespaces", "hold.post-restore", "hold.start",
    }  # fmt: skip
    conf = (directory / "criu.conf").read_text().splitlines()
    assert conf == [f"action-script {directory}/gate", "tcp-established", "file-locks"]
    written = json.loads(config.read_text())
    assert written == {
        "root": {"path": "/merged"},
        "annotations": {"a": "b", "org.criu.config": str(directory / "criu.conf")},
    }
    assert config.stat().st_mode & 0o7777 == 0o640
    assert [path.name for path in bundle.iterdir()] == ["config.json"]


def test_bind_sources_are_called_as_they_are_in_the_end(tmp_path: Path) -> None:
    (tmp_path / "tini").touch()
    link = tmp_path / "docker-init"
    link.symlink_to("tini")
    mounts = [
        {"destination": "/sbin/docker-init", "type": "bind", "source": str(link)},
        {"destination": "/x", "source": str(link), "options": ["rbind", "ro"]},
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/none"},
    ]
    (tmp_path / "config.json").write_text(json.dumps({"root": {"path": "r"}, "mounts": mounts}))
    directory = tmp_path / "pending"
    directory.mkdir()
    prepare(directory, Pending("", "", (), 1, 1, 1), tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())["mounts"]
    real = os.path.realpath(tmp_path / "tini")
    assert [one.get("source") for one in written] == [real, real, "proc", None]
    assert written[1]["options"] == ["rbind", "ro"]


def test_criu_is_told_the_cgroup_where_there_is_only_v2(tmp_path: Path) -> None:
    config = {"root": {"path": "r"}, "linux": {"cgroupsPath": "system.slice:docker:abc"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for unified in (False, True):
        directory = tmp_path / f"pending-{unified}"
        directory.mkdir()
        prepare(directory, Pending("", "", (), 1, 1, 1), tmp_path, ["--systemd-cgroup"], unified)
        said = (directory / "criu.conf").read_text().splitlines()[1:]
        assert said == (["cgroup-root :/system.slice/docker-abc.scope"] if unified else [])


def test_where_dockers_own_files_are(tmp_path: Path) -> None:
    own = {"destination": "/etc/hosts", "source": "/var/lib/docker/containers/c/hosts"}
    other = {"destination": "/data", "source": "/elsewhere"}
    config = {"root": {"path": "rootfs"}, "mounts": [other, own]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    directory = tmp_path / "pending"
    directory.mkdir()
    prepared = prepare(directory, Pending("", "", (), 1, 1, 1), tmp_path)
    assert prepared.dockers == {own["destination"]: own["source"]}


def test_a_relative_rootfs_is_in_the_bundle(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"root": {"path": "rootfs"}}')
    directory = tmp_path / "pending"
    directory.mkdir()
    prepared = prepare(directory, Pending("", "", (), 1, 1, 1), tmp_path)
    assert prepared.rootfs == f"{tmp_path}/rootfs"


def test_times_of_a_pending_restore_have_defaults(tmp_path: Path) -> None:
    text = {"images": "/i", "work": "/w", "commit_timeout": 5}
    (tmp_path / "pending.json").write_text(json.dumps(text))
    pending = Pending.read(tmp_path)
    assert (pending.images, pending.work, pending.criu_options) == ("/i", "/w", ())
    assert pending.commit_timeout == 5.0
    assert min(pending.images_timeout, pending.restore_timeout) > 60


def test_a_failure_goes_to_the_log_of_the_shim(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.json"
    log.write_text('{"level": "info"}\n')
    assert fail(Call([], {}, str(log), ID), "no luck") == 1
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert lines[0] == {"level": "info"}
    assert (lines[1]["level"], lines[1]["msg"]) == ("error", "migrate-runc: no luck")
    assert capsys.readouterr().err == "migrate-runc: no luck\n"


def test_abort_of_what_nobody_holds_ends_at_once(tmp_path: Path) -> None:
    directory, bundle = tmp_path / "pending", tmp_path / "bundle"
    directory.mkdir()
    bundle.mkdir()
    (bundle / "config.json").write_text('{"root": {"path": "r"}}')
    prepare(directory, Pending("", "", (), 1, 1, 1), bundle)
    abort(directory)
    assert not directory.exists()
    abort(directory)  # once more is no failure
