"""migrate.throttle: how much CPU is taken away, and that it is given back."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate import throttle
from migrate.journal import Header, Journal
from migrate.switchover import GO_ON, Decision, Reason, Round
from migrate.throttle import (
    LAST_CUT,
    LEAST_QUOTA,
    CpuCgroup,
    CpuLimit,
    Throttle,
    Throttler,
    cpu_cgroup,
    diverging,
    next_limit,
    throttled,
)
from migrate.undo import RestoreCpuLimit

# -- decisions ------------------------------------------------------------------------------------


def rounds(*dirty: int) -> list[Round]:
    return [Round(n, float(n), 1.0, 10**6, pages) for n, pages in enumerate(dirty, 1)]


def decision(reason: Reason) -> Decision:
    return Decision(reason not in GO_ON, reason, 1.0)


def test_what_converges_is_left_alone() -> None:
    for reason in set(Reason) - {Reason.GROWING, Reason.NOT_SHRINKING, Reason.THROTTLED}:
        kept = decision(reason)
        assert throttled(kept, rounds(1000, 400, 100), Throttle()) == (kept, Throttle())


def test_a_reached_aim_ends_it_however_it_diverges() -> None:
    for reason in (Reason.WITHIN_LIMIT, Reason.LITTLE_LEFT, Reason.MAX_ROUNDS):
        kept = decision(reason)
        assert throttled(kept, rounds(1000, 900, 900), Throttle(20, 1)) == (kept, Throttle(20, 1))


def test_twice_more_than_half_is_diverging() -> None:
    assert diverging(rounds(1000, 501, 251))
    assert not diverging(rounds(1000, 501, 250))
    assert not diverging(rounds(1000, 500, 300))
    assert not diverging(rounds(1000, 900))
    assert not diverging([])
    put_off, now = throttled(decision(Reason.SHRINKING), rounds(1000, 900, 800), Throttle())
    assert (put_off.stop, put_off.reason, put_off.predicted) == (False, Reason.THROTTLED, 1.0)
    assert now == Throttle(20, 3)


def test_a_step_has_two_rounds_to_show() -> None:
    now, cuts = Throttle(), []
    for count in range(3, 30):
        seen, now = throttled(decision(Reason.NOT_SHRINKING), rounds(*[1000] * count), now)
        cuts.append(now.cut)
        if seen.stop:
            break
        assert seen.reason is Reason.THROTTLED
    assert cuts == [20, 20, 30, 30, 40, 40, 50, 50, 60, 60, 70, 70, 80, 80, 80]
    assert seen == decision(Reason.NOT_SHRINKING)


def test_while_a_step_shows_the_rule_may_go_on() -> None:
    shrinking = decision(Reason.SHRINKING)
    assert throttled(shrinking, rounds(9, 9, 9, 9), Throttle(20, 3)) == (shrinking, Throttle(20, 3))


@given(
    st.lists(st.tuples(st.sampled_from(list(Reason)), st.integers(0, 10**6)), min_size=1),
)
def test_the_cut_only_rises_and_stops_are_put_off_for_so_long(
    story: list[tuple[Reason, int]],
) -> None:
    now, put_off = Throttle(), 0
    for count in range(1, len(story) + 1):
        before = now
        given_ = decision(story[count - 1][0])
        history = rounds(*(pages for _, pages in story[:count]))
        seen, now = throttled(given_, history, before)
        assert before.cut <= now.cut <= LAST_CUT
        assert now.cut - before.cut in (0, 10, 20)
        assert seen.predicted == given_.predicted
        if seen.stop != given_.stop:
            assert given_.reason in (Reason.GROWING, Reason.NOT_SHRINKING)
            put_off += 1
    assert put_off <= 2 * 7  # two rounds for each step


@given(
    st.integers(1, LAST_CUT), st.floats(0, 512), st.integers(1000, 10**6),
    st.none() | st.integers(1000, 10**8),
)  # fmt: skip
def test_never_more_than_it_was_allowed(
    cut: int, used: float, period: int, quota: int | None
) -> None:
    limit = next_limit(cut, used, CpuLimit(quota, period))
    assert limit.quota is not None
    assert limit.period == period
    assert limit.quota >= LEAST_QUOTA
    assert quota is None or limit.quota <= quota
    assert limit.quota <= max(used * period * (100 - cut) / 100, LEAST_QUOTA)


def test_a_part_of_what_it_took() -> None:
    assert next_limit(20, 1.0, CpuLimit(None, 100_000)) == CpuLimit(80_000, 100_000)
    assert next_limit(80, 3.5, CpuLimit(None, 50_000)) == CpuLimit(35_000, 50_000)
    assert next_limit(20, 4.0, CpuLimit(50_000, 100_000)) == CpuLimit(50_000, 100_000)
    assert next_limit(80, 0.001, CpuLimit(None, 100_000)) == CpuLimit(1000, 100_000)


# -- the cgroup -----------------------------------------------------------------------------------

V1 = """\
12:cpu,cpuacct:/docker/abc
5:freezer:/docker/abc
0::/system.slice/x
"""
V2 = "0::/system.slice/docker-abc.scope\n"


def v1(root: Path, quota: str = "-1") -> CpuCgroup:
    for top in ("cpu", "cpuacct"):
        (root / top / "docker" / "abc").mkdir(parents=True)
    (root / "cpu/docker/abc/cpu.cfs_quota_us").write_text(f"{quota}\n")
    (root / "cpu/docker/abc/cpu.cfs_period_us").write_text("100000\n")
    (root / "cpuacct/docker/abc/cpuacct.usage").write_text("2500000000\n")
    found = cpu_cgroup(V1, str(root))
    assert found
    return found


def v2(root: Path, limit: str = "max 100000") -> CpuCgroup:
    own = root / "system.slice/docker-abc.scope"
    own.mkdir(parents=True)
    (own / "cpu.max").write_text(f"{limit}\n")
    (own / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\nnr_periods 0\n")
    found = cpu_cgroup(V2, str(root))
    assert found
    return found


def test_v1(tmp_path: Path) -> None:
    cgroup = v1(tmp_path)
    assert (cgroup.read(), cgroup.seconds()) == (CpuLimit(None, 100_000), 2.5)
    cgroup.write(CpuLimit(80_000, 100_000))
    assert cgroup.limit.read_text() == "80000"
    assert cgroup.read() == CpuLimit(80_000, 100_000)


def test_v2(tmp_path: Path) -> None:
    cgroup = v2(tmp_path)
    assert (cgroup.read(), cgroup.seconds()) == (CpuLimit(None, 100_000), 2.5)
    cgroup.write(CpuLimit(80_000, 100_000))
    assert cgroup.limit.read_text() == "80000 100000"
    assert cgroup.read() == CpuLimit(80_000, 100_000)


def test_cpu_time_in_a_hierarchy_of_its_own(tmp_path: Path) -> None:
    v1(tmp_path)
    apart = "9:cpuacct:/docker/abc\n5:cpu:/docker/abc\n0::/\n"
    assert cpu_cgroup(apart, str(tmp_path)) == cpu_cgroup(V1, str(tmp_path))


def test_a_container_without_a_limit_of_its_own(tmp_path: Path) -> None:
    v1(tmp_path)
    for text in ("", "0::/\n", "3:cpu,cpuacct:/\n0::/\n", "4:memory:/docker/abc\n", V2):
        assert cpu_cgroup(text, str(tmp_path)) is None
    (tmp_path / "cpuacct/docker/abc/cpuacct.usage").unlink()
    assert cpu_cgroup(V1, str(tmp_path)) is None


# -- set and put back -----------------------------------------------------------------------------


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time to measure what it takes, however slow this machine is just now."""
    monkeypatch.setattr(throttle, "WINDOW", 1e9)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal.create(
        Header("a" * 16, "source", "c" * 64, "app", "hostb", 1.5), tmp_path / "journal"
    )
    yield made
    made.close(finished=True)


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize(("make", "old"), [(v1, "-1"), (v1, "70000"), (v2, "max 50000")])
def test_lifted_it_is_what_it_was(make, old: str, journal: Journal, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    cgroup = make(tmp_path, old)
    throttler = Throttler(cgroup, journal)
    throttler.lift()  # nothing to do yet
    assert throttler.set(20) == ""
    first = cgroup.read()
    assert throttler.set(80) == ""
    assert cgroup.read().quota < first.quota
    assert journal.steps == [RestoreCpuLimit(str(cgroup.limit), old)]
    throttler.lift()
    assert cgroup.content() == old
    assert journal.steps == []
    throttler.lift()
    assert throttler.set(20) == ""  # and again, should pre-copy go on
    assert journal.steps == [RestoreCpuLimit(str(cgroup.limit), old)]


def test_a_rollback_puts_it_back(journal: Journal, tmp_path: Path) -> None:
    cgroup = v2(tmp_path, "150000 100000")
    assert Throttler(cgroup, journal).set(50) == ""
    assert cgroup.read().quota != 150_000
    assert journal.rollback() == []
    assert cgroup.content() == "150000 100000"


def test_the_step_is_on_disk_before_the_limit_is_set(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cgroup = v1(tmp_path)
    written: list[bytes] = []
    monkeypatch.setattr(
        CpuCgroup, "write", lambda self, limit: written.append(journal.path.read_bytes())
    )
    Throttler(cgroup, journal).set(20)
    assert b"cpu.cfs_quota_us" in written[0]


def test_the_steps_are_parts_of_what_it_took_before(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cgroup = v1(tmp_path)
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    throttler = Throttler(cgroup, journal)
    clock[0] += 2.0
    cgroup.usage.write_text("5500000000")  # 3 s of CPU time in 2 s
    throttler.set(20)
    assert cgroup.read().quota == 120_000
    cgroup.usage.write_text("5500000001")  # what it takes when throttled does not count
    throttler.set(50)
    assert cgroup.read().quota == 75_000


@pytest.mark.usefixtures("unmeasured")
def test_without_time_to_measure_it_is_taken_for_one_cpu(journal: Journal, tmp_path: Path) -> None:
    cgroup = v1(tmp_path)
    Throttler(cgroup, journal).set(20)
    assert cgroup.read().quota == 80_000


def test_a_kernel_that_refuses_is_said_and_nothing_else(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: CpuCgroup, limit: CpuLimit) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    cgroup = v1(tmp_path)
    monkeypatch.setattr(CpuCgroup, "write", refuse)
    assert "Invalid argument" in Throttler(cgroup, journal).set(20)
    assert journal.rollback() == []
    assert cgroup.content() == "-1"


# -- a real cgroup, where this machine lets us --------------------------------------------------

REAL = Path("/sys/fs/cgroup/cpu")


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.skipif(
    not (REAL / "cpu.cfs_quota_us").exists() or os.geteuid() != 0, reason="needs root, cgroup v1"
)
def test_a_busy_process_gets_less_cpu_and_then_all_of_it(journal: Journal) -> None:
    name = f"migrate-throttle-{os.getpid()}"
    tops = [REAL / name, REAL.with_name("cpuacct") / name]
    busy = subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"])
    try:
        for top in tops:
            top.mkdir(exist_ok=True)
            (top / "cgroup.procs").write_text(str(busy.pid))
        cgroup = cpu_cgroup(Path(f"/proc/{busy.pid}/cgroup").read_text())
        assert cgroup
        assert cgroup.read().quota is None
        throttler = Throttler(cgroup, journal)
        assert throttler.set(80) == ""
        assert cgroup.read() == CpuLimit(20_000, 100_000)
        periods = int((tops[0] / "cpu.stat").read_text().split()[1])
        deadline = time.monotonic() + 20
        while "nr_throttled 0" in (tops[0] / "cpu.stat").read_text():
            assert time.monotonic() < deadline, f"never throttled, {periods} periods"
            time.sleep(0.05)
        throttler.lift()
        assert cgroup.content() == "-1"
    finally:
        busy.kill()
        busy.wait()
        for top in tops:
            for _ in range(50):
                try:
                    top.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.05)
