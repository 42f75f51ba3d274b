"""migrate.host_facts and migrate.host_findings: what a host says, and what that means."""

import gzip
from pathlib import Path
from typing import Any

import msgspec
import pytest

from migrate.errors import CriuUnfit, DockerUnavailable, HostUnfit, RuntimeMissing
from migrate.host_facts import (
    KERNEL_OPTIONS,
    DockerFacts,
    DockerSays,
    Finding,
    HostFacts,
    docker_facts,
    docker_problem,
    facts,
    kernel_options,
    parse_available,
    parse_cpuinfo,
    parse_version,
)
from migrate.host_findings import findings
from transport.errors import Failure

DOCKER = DockerFacts(
    version="28.5.2+dfsg1",
    api_version="1.51",
    storage_driver="overlayfs",
    containerd_snapshotter=True,
    cgroup_driver="systemd",
    cgroup_version="2",
    default_runtime="runc",
    runtimes={"runc": "runc", "migrate": "/usr/local/bin/migrate-runc"},
    root_dir="/var/lib/docker",
)
GOOD = HostFacts(
    kernel="6.18.0-1-amd64",
    arch="x86_64",
    cpu_model="x",
    cpu_flags=("fpu", "avx2"),
    kernel_options=dict.fromkeys(KERNEL_OPTIONS, "y"),
    criu_path="/usr/sbin/criu",
    criu_version=(4, 2, 1),
    pycriu=True,
    pycriu_reason="",
    docker=DOCKER,
    docker_reason="",
    runc_version=(1, 3, 6),
    nft=True,
    iptables=True,
    runtime_path="/usr/local/bin/migrate-runc",
    runtime_runs=True,
    free_memory=1 << 30,
    free_disk=1 << 30,
    boot_id="b",
    tool_version="0.1.0",
    wall_clock=1.5,
)


def bad(**changes: Any) -> list[Finding]:
    return [found for found in findings(msgspec.structs.replace(GOOD, **changes)) if not found.ok]


def test_a_good_host_has_nothing_bad_and_no_advice() -> None:
    assert [(found.ok, found.remedy) for found in findings(GOOD)] == [(True, "")] * 7


@pytest.mark.parametrize(
    ("kernel", "criu", "fit"),
    [
        ("6.18.0-1-amd64", (4, 2), True),
        ("6.18.0-1-amd64", (4, 1, 1), False),
        ("6.16.0", (4, 1, 1), False),
        ("6.16-rc1", (3, 17, 1), False),
        ("6.15.9", (4, 1, 1), True),
        ("6.1.0-40-amd64", (3, 17, 1), True),
        ("6.1.0-40-amd64", (3, 16, 1), False),
        ("7.0.0", (4, 1, 1), False),
    ],
)
def test_which_criu_a_kernel_needs(kernel: str, criu: tuple[int, ...], fit: bool) -> None:
    found = bad(kernel=kernel, criu_version=criu)
    assert [f.code for f in found] == ([] if fit else ["CriuUnfit"])
    if not fit:
        assert ".".join(map(str, criu)) in found[0].what


@pytest.mark.parametrize(
    ("changes", "says", "failure"),
    [
        ({"criu_path": None}, "criu is not installed", CriuUnfit),
        ({"criu_version": None}, "does not run", CriuUnfit),
        ({"pycriu": False, "pycriu_reason": "No module"}, "pycriu .*No module", HostUnfit),
        ({"docker": None, "docker_reason": "dockerd is away"}, "is away", DockerUnavailable),
        (
            {"docker": msgspec.structs.replace(DOCKER, version="19.03.1")},
            "19.03.1 is too old",
            HostUnfit,
        ),
        ({"runc_version": None}, "runc", HostUnfit),
        ({"nft": False}, "nft is missing", HostUnfit),
        ({"runtime_path": None}, "does not know the runtime", RuntimeMissing),
        ({"runtime_runs": False}, "cannot be run", RuntimeMissing),
        (
            {"kernel_options": dict.fromkeys(KERNEL_OPTIONS, "")},
            "CONFIG_CHECKPOINT_RESTORE",
            HostUnfit,
        ),
    ],
)
def test_one_thing_missing_is_one_failure_with_its_class_and_a_remedy(
    changes: dict[str, Any], says: str, failure: type[Failure]
) -> None:
    (found,) = bad(**changes)
    with pytest.raises(failure, match=says) as raised:
        raise found.failure()
    assert type(raised.value) is failure
    assert raised.value.remedy == found.remedy != ""


def test_missing_diag_modules_are_advice() -> None:
    options = dict.fromkeys(KERNEL_OPTIONS, "m") | {"UNIX_DIAG": "", "MEM_SOFT_DIRTY": ""}
    changed = msgspec.structs.replace(GOOD, kernel_options=options)
    (advice,) = [found for found in findings(changed) if found.remedy]
    assert advice.ok
    assert "CONFIG_UNIX_DIAG" in advice.what
    assert "SOFT_DIRTY" not in advice.what


def test_a_kernel_that_does_not_say_how_it_was_built_is_not_refused() -> None:
    assert bad(kernel_options=None) == []


def test_facts_of_a_host_with_docker(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("model name\t: Zen\nflags\t\t: fpu vme\n\nflags\t: no\n")
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    2048 kB\n")
    (tmp_path / "config.gz").write_bytes(gzip.compress(b"CONFIG_CHECKPOINT_RESTORE=y\n"))
    boot_id = tmp_path / "sys/kernel/random/boot_id"
    boot_id.parent.mkdir(parents=True)
    boot_id.write_text("0f\n")
    runtime = tmp_path / "migrate-runc"
    runtime.write_text("")
    says = DockerSays(
        {
            "ServerVersion": "28.5.2",
            "ID": "its-own-name",
            "Driver": "overlayfs",
            "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]],
            "Runtimes": {"migrate": {"path": str(runtime)}, "kata": {"runtimeType": "x"}},
            "DefaultRuntime": "runc",
            "DockerRootDir": str(tmp_path),
        },
        {"ApiVersion": "1.51"},
    )
    found = facts(docker_info=lambda: says, proc=tmp_path, boot=tmp_path)
    assert (found.cpu_model, found.cpu_flags) == ("Zen", ("fpu", "vme"))
    assert (found.free_memory, found.boot_id) == (2048 * 1024, "0f")
    assert found.kernel_options is not None
    assert found.kernel_options["CHECKPOINT_RESTORE"] == "y"
    assert found.docker is not None
    assert found.docker.containerd_snapshotter
    assert found.docker.ident == "its-own-name"
    assert found.docker.runtimes == {"migrate": str(runtime), "kata": ""}
    assert (found.runtime_path, found.runtime_runs) == (str(runtime), False)  # not executable
    assert found.free_disk is not None
    assert found.free_disk > 0
    # the facts of the other host come as a message
    assert msgspec.json.decode(msgspec.json.encode(found), type=HostFacts) == found


def test_facts_of_a_host_without_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_docker() -> DockerSays:
        raise DockerUnavailable("dockerd is away")

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("migrate.host_facts.SBIN", str(tmp_path))
    monkeypatch.setattr("migrate.criu_probe.SBIN", str(tmp_path))
    found = facts(docker_info=no_docker, proc=tmp_path, boot=tmp_path)
    assert (found.docker, found.docker_reason) == (None, "dockerd is away")
    assert (found.criu_path, found.criu_version, found.runc_version) == (None, None, None)
    assert (found.nft, found.iptables, found.free_disk, found.free_memory) == (
        *(False, False),
        *(None, None),
    )
    codes = [finding.code for finding in findings(found) if not finding.ok]
    assert "DockerUnavailable" in codes
    assert "CriuUnfit" in codes


def test_old_docker_without_the_newer_fields() -> None:
    found = docker_facts(DockerSays({"DriverStatus": None, "Runtimes": {"runc": None}}, {}))
    assert not found.containerd_snapshotter
    assert found.runtimes == {"runc": ""}


def test_the_kernel_options_are_read_from_boot_as_well(tmp_path: Path) -> None:
    (tmp_path / "config-6.1").write_text(
        "CONFIG_UNIX_DIAG=m\n# CONFIG_INET_DIAG is not set\nCONFIG_NET_NS=y\n"
    )
    options = kernel_options("6.1", tmp_path, tmp_path)
    assert options is not None
    assert (options["UNIX_DIAG"], options["INET_DIAG"], options["NET_NS"]) == ("m", "", "y")
    assert kernel_options("6.2", tmp_path, tmp_path) is None


def test_the_small_parsers() -> None:
    assert parse_version("Version: 4.2.1\nGitID: v4.2.1\n") == (4, 2, 1)
    assert parse_version("runc version 1.1.15+ds1\n") == (1, 1, 15)
    assert parse_version("no number") is None
    arm = "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n"
    assert parse_cpuinfo(arm) == ("0x41 0xd0c", ("fp", "asimd"))
    assert parse_cpuinfo("") == ("", ())
    assert parse_available("MemFree: 1 kB\n") is None
    wrapped = "Error while fetching: ('Connection aborted.', PermissionError(13, 'Denied'))"
    assert docker_problem(wrapped) == "you may not use Docker's socket"
    assert "odd" in docker_problem("odd")
