"""migrate.metrics: a file that Prometheus reads, and that remembers."""

from __future__ import annotations

import fcntl
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from migrate import metrics
from migrate.errors import CommandFailed
from migrate.metrics import BUCKETS, OUTCOMES, Run, Totals, add, note, read, write

runs = st.builds(
    Run,
    outcomes=st.dictionaries(st.sampled_from(OUTCOMES), st.integers(0, 50)),
    sent=st.integers(0, 2**50),
    downtimes=st.lists(st.floats(0, 1000), max_size=8),
    seconds=st.floats(0, 1e5),
    exit_code=st.integers(0, 255),
    success=st.booleans(),
    now=st.floats(1e9, 2e9),
)


def samples(path: Path) -> dict[str, float]:
    return {
        one.name + "".join(f"{{{k}={v}}}" for k, v in one.labels.items()): one.value
        for family in text_string_to_metric_families(path.read_text())
        for one in family.samples
    }


@settings(deadline=None)
@given(st.lists(runs, max_size=5))
def test_the_file_is_the_memory(
    tmp_path_factory: pytest.TempPathFactory, all_runs: list[Run]
) -> None:
    path = tmp_path_factory.mktemp("metrics") / "m.prom"
    totals = Totals(outcomes=dict.fromkeys(OUTCOMES, 0.0))
    for run in all_runs:
        totals = add(totals, run)
        note(path, "evacuate", run)
        assert read(path, "evacuate") == totals
    if all_runs:
        found = samples(path)
        count = sum(len(run.downtimes) for run in all_runs)
        assert found["migrate_evacuate_downtime_seconds_count"] == count
        assert found["migrate_evacuate_last_run_exit_code"] == all_runs[-1].exit_code


def a_run(**more: object) -> Run:
    values: dict[str, object] = {
        "outcomes": {"moved": 2}, "sent": 10, "downtimes": [0.25, 0.3], "seconds": 3.0,
        "exit_code": 0, "success": True, "now": 100.0,
    }  # fmt: skip
    return Run(**(values | more))  # type: ignore[arg-type]


def test_a_failed_run_does_not_touch_the_last_success(tmp_path: Path) -> None:
    path = tmp_path / "m.prom"
    note(path, "evacuate", a_run())
    assert samples(path)["migrate_evacuate_last_run_success"] == 1.0
    note(path, "evacuate", a_run(success=False, exit_code=80, now=200.0))
    found = samples(path)
    assert found["migrate_evacuate_last_success_timestamp_seconds"] == 100.0
    assert found["migrate_evacuate_last_run_timestamp_seconds"] == 200.0
    assert found["migrate_evacuate_last_run_success"] == 0.0
    assert found["migrate_evacuate_containers_total{outcome=moved}"] == 4.0
    assert found["migrate_evacuate_downtime_seconds_bucket{le=0.3}"] == 4.0
    assert found["migrate_evacuate_downtime_seconds_bucket{le=0.2}"] == 0.0


def test_everything_has_a_bucket() -> None:
    totals = add(Totals(), a_run(downtimes=[0.0, *BUCKETS, 1e9]))
    assert sum(totals.downtime) == len(BUCKETS) + 2
    assert totals.downtime[-1] == 1


@pytest.mark.parametrize("content", ["", "nonsense {", "a 1\n", "\x00\xff", 'x{le="1" 3'])
def test_a_file_of_something_else_is_begun_anew(tmp_path: Path, content: str) -> None:
    path = tmp_path / "m.prom"
    path.write_text(content)
    note(path, "return", a_run())
    assert samples(path)["migrate_return_containers_total{outcome=moved}"] == 2.0


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="metrics"):
        write(tmp_path / "no" / "folder" / "m.prom", {"return": Totals()})


def test_one_file_for_both(tmp_path: Path) -> None:
    path = tmp_path / "m.prom"
    note(path, "evacuate", a_run())
    note(path, "return", a_run(outcomes={"moved": 1}))
    note(path, "evacuate", a_run())
    assert samples(path)["migrate_evacuate_containers_total{outcome=moved}"] == 4.0
    assert samples(path)["migrate_return_containers_total{outcome=moved}"] == 1.0


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
@pytest.mark.parametrize("before", [None, 0o600, 0o666])
def test_others_may_read_it(tmp_path: Path, umask: int, before: int | None) -> None:
    path = tmp_path / "m.prom"
    if before is not None:
        path.write_text("")
        path.chmod(before)
    old = os.umask(umask)
    try:
        note(path, "evacuate", a_run())
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in tmp_path.iterdir()] == ["m.prom"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.prom"
    note(path, "evacuate", a_run())
    before = path.read_bytes()

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CommandFailed, match="No space"):
        note(path, "evacuate", a_run())
    assert path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["m.prom"]


def test_two_that_end_at_once_both_count(tmp_path: Path) -> None:
    path = tmp_path / "m.prom"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: note(path, "evacuate", a_run()), range(24)))
    assert samples(path)["migrate_evacuate_containers_total{outcome=moved}"] == 48.0
    assert [one.name for one in tmp_path.iterdir()] == ["m.prom"]


def test_a_lock_of_somebody_else_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "PATIENCE", 0.1)
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    note(tmp_path / "m.prom", "evacuate", a_run())
    assert samples(tmp_path / "m.prom")
    os.close(folder)
