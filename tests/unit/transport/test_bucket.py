"""transport.bucket: no more leaves than the rate allows, by whatever way it is asked for."""

from __future__ import annotations

import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.transport.test_channel import pair
from transport.bucket import BURST, LEAST, MAX_DEBT, Bucket, RateLimit, parse_limit, reserve

RATE = 1000.0
asks = st.lists(st.tuples(st.floats(0, 5), st.integers(1, 4000)), min_size=1, max_size=40)


def leave(asked: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """(moment, bytes) at which each leaves, when one is asked for `pause` after the one before."""
    now, free_at, left = 100.0, 0.0, []
    for pause, size in asked:
        now += pause
        free_at, wait = reserve(free_at, now, size, RATE)
        now += wait
        left.append((now, size))
    return left


@given(asks)
def test_no_span_of_time_has_more_than_its_share(asked: list[tuple[float, int]]) -> None:
    left = leave(asked)
    for first in range(len(left)):
        total = 0
        for last in range(first, len(left)):
            total += left[last][1]
            span = left[last][0] - left[first][0]
            assert total <= RATE * span + max(RATE * BURST, left[first][1]) + 1e-6


@given(asks)
def test_it_is_used_to_the_full(asked: list[tuple[float, int]]) -> None:
    """Without pauses between, all of it takes no longer than the rate says."""
    left = leave([(0.0, size) for _, size in asked])
    assert left[-1][0] - 100.0 <= sum(size for _, size in left) / RATE + 1e-6


@given(st.floats(allow_nan=True, allow_infinity=True), st.integers(1, 10**9))
def test_no_state_costs_more_than_the_largest_debt(noted: float, size: int) -> None:
    _, wait = reserve(noted, 50.0, size, RATE)
    assert 0 <= wait <= MAX_DEBT + size / RATE + 1e-6


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("20M", RateLimit(20 << 20)), ("1.5G", RateLimit(1.5 * (1 << 30))),
        ("64kB/s", RateLimit(64 << 10)), ("20MiB", RateLimit(20 << 20)), ("100000", RateLimit(1e5)),
        ("20M@/run/x", RateLimit(20 << 20, "/run/x")),
    ],
)  # fmt: skip
def test_limits_are_read(text: str, limit: RateLimit) -> None:
    assert parse_limit(text) == limit
    assert parse_limit(str(limit)) == limit


@pytest.mark.parametrize(
    "text", ["", "M", "-5M", "20X", "20M@", "20M@run/x", "1e9", "nan", "10", f"{LEAST - 1}"]
)
def test_what_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"RATE|less"):
        parse_limit(text)


@given(st.text(max_size=12))
def test_any_text_is_a_limit_or_refused(text: str) -> None:
    try:
        limit = parse_limit(text)
    except ValueError:
        return
    assert limit.rate >= LEAST


def test_two_buckets_of_one_file_share_it(tmp_path: Path) -> None:
    limit = RateLimit(1000.0, str(tmp_path / "made" / "limit"))
    one, other = Bucket(limit, lambda: 10.0), Bucket(limit, lambda: 10.0)
    assert one.take(250) == 0.0  # the burst
    assert other.take(1000) == pytest.approx(1.0)
    assert one.take(1000) == pytest.approx(2.0)
    assert (tmp_path / "made" / "limit").stat().st_mode & 0o777 == 0o600


def test_a_file_with_something_else_in_it_is_taken_over(tmp_path: Path) -> None:
    for content in (b"x", struct.pack("=d", float("nan")), b"\xff" * 100):
        (tmp_path / "limit").write_bytes(content)
        bucket = Bucket(RateLimit(1000.0, str(tmp_path / "limit")), lambda: 10.0)
        assert bucket.take(1250) == pytest.approx(1.0)


def test_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "limit").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError):
        Bucket(RateLimit(1000.0, str(tmp_path / "limit")))
    assert not (tmp_path / "victim").exists()


SHARER = """
import sys, time
from pathlib import Path
from transport.bucket import Bucket, RateLimit
bucket, end, sent = Bucket(RateLimit(100_000.0, sys.argv[1])), float(sys.argv[2]), 0
while time.monotonic() < end:
    time.sleep(bucket.take(2000))
    sent += 2000
print(sent)
"""


def test_processes_share_it(tmp_path: Path) -> None:
    seconds = 1.5
    end = time.monotonic() + seconds  # for all: they begin when this machine lets them
    sharers = [
        subprocess.Popen([sys.executable, "-c", SHARER, str(tmp_path / "limit"), str(end)],
                         stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]  # fmt: skip
    sent = [int(sharer.communicate(timeout=30)[0]) for sharer in sharers]
    # All of it until then, and what each has asked for last; each alone could have had it all.
    assert sum(sent) <= 100_000 * (seconds + BURST) + 3 * 2000
    assert sum(sent) >= 20_000


def test_a_channel_keeps_to_it_and_heartbeats_go_on() -> None:
    with pair(heartbeat=0.05, silence=1.0) as (a, b):
        a.limit = Bucket(RateLimit(50_000.0))
        began = time.monotonic()
        for _ in range(2):
            a.send(1, bytes(50_000), compress=False)
        assert len(b.receive(5).payload) == 50_000
        assert len(b.receive(5).payload) == 50_000
        assert 1.6 < time.monotonic() - began < 10.0


def test_a_channel_in_a_hurry_does_not_wait_but_pays() -> None:
    with pair() as (a, b):
        clock = [10.0]
        a.limit = Bucket(RateLimit(10_000.0), lambda: clock[0])
        a.hurry = True
        began = time.monotonic()
        a.send(1, bytes(60_000), compress=False)
        assert time.monotonic() - began < 3.0  # of 5.75
        assert len(b.receive(5).payload) == 60_000
        assert a.limit.take(1) > 0.3


def test_short_frames_are_never_held_up() -> None:
    with pair() as (a, b):
        a.limit = Bucket(RateLimit(100_000.0), lambda: 10.0)
        a.limit.take(1_000_000)
        began = time.monotonic()
        a.send(1, b"a question")
        assert b.receive(5).payload == b"a question"
        assert time.monotonic() - began < 5.0  # of 10
