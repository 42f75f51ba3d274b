"""The parts of the peers that decide and read."""

from __future__ import annotations

import json

import pytest

from migrate.run import Result
from tests.bench import figures, matrix
from tests.bench.figures import Answer, Sample
from tests.bench.measure import SETTLE, judge
from tests.bench.peers.base import Moved, durations, parse_marks
from tests.bench.peers.dockerway import create_words
from tests.bench.peers.migrateway import why
from tests.bench.peers.podmanway import WRAPPER
from tests.bench.peers.runcway import NETNS, configured
from tests.bench.plan import WORKLOADS, Workload, heart
from tests.bench.world import BenchError, container_command, last_words


def test_marks_among_other_output() -> None:
    marks = parse_marks("@checkpoint 10.5\napp\n@copy 12.0\n x@no 1\n@end 12.25\n")
    assert marks == [("checkpoint", 10.5), ("copy", 12.0), ("end", 12.25)]
    assert durations(marks) == {"checkpoint": 1.5, "copy": 0.25}


def test_the_words_of_a_failure_are_the_ones_that_say_why() -> None:
    said = "Restoring\nError: no such image\nsee the manual\n"
    assert last_words(Result((), 125, "", said)) == "exit code 125: Error: no such image"
    assert last_words(Result((), 1, "", "")) == "exit code 1: it said nothing"


def test_the_tools_own_words() -> None:
    assert why(json.dumps({"error": "NoSpace", "message": "full"}), "") == "NoSpace: full"
    assert why("", "Traceback\nBoom\n") == "Traceback\nBoom"


def test_every_workload_has_a_command() -> None:
    for workload in WORKLOADS:
        assert container_command(workload)[0].startswith("/")
    assert container_command(heart(16, 10, "text")) == ["/heart", "16", "10", "text"]
    assert container_command(heart(16, 10, forks=True))[-1] == "forks"


def test_an_empty_argument_survives_the_shell() -> None:
    redis = next(one for one in WORKLOADS if one.kind == "redis")
    assert create_words(redis, "10.99.0.10").endswith("--save ''")


def test_the_bundle_of_runc() -> None:
    spec = {
        "process": {"terminal": True, "args": ["sh"]},
        "root": {"path": "rootfs", "readonly": True},
        "linux": {"namespaces": [{"type": "pid"}, {"type": "network"}]},
    }
    made = configured(spec, heart(16, 0), "bench-a")
    assert made["process"] == {"terminal": False, "args": ["/heart", "16", "0", "random"]}
    assert made["linux"]["namespaces"][1]["path"] == f"/run/netns/{NETNS}"
    assert made["linux"]["cgroupsPath"] == "/bench-a/app"


def test_only_the_cgroup_is_filled_into_podmans_wrapper() -> None:
    text = WRAPPER.replace("@PARENT@", "x")
    assert "PODMAN_IGNORE_CGROUPSV1_WARNING=1" in text
    assert "@" not in text.replace('"$@"', "")


# -- from what the client heard to a sample --------------------------------------------------------


def heard(*parts: tuple[float, float], start: int = 1) -> list[Answer]:
    """An answer every 10 ms in each part, 50 bytes changed between two."""
    times = [at / 100 for begin, end in parts for at in range(int(begin * 100), int(end * 100))]
    return [Answer(at, n, 50.0 * n) for n, at in enumerate(times, start)]


def judged(answers: list[Answer], workload: Workload, **client: object) -> Sample:
    found = Sample(workload.name, "unshaped", "docker", 1, client=dict(client))
    judge(found, answers, Moved(begun=10.0, ended=14.0, handover=12.0), workload)
    return found


HEART = heart(16, 10)
REDIS = next(one for one in WORKLOADS if one.kind == "redis")


def test_the_gap_is_the_silence_of_the_move() -> None:
    found = judged(heard((8, 11), (13.5, 14 + SETTLE)), HEART)
    assert found.gap == pytest.approx(2.51)
    assert found.noise == pytest.approx(0.01)
    assert found.dirty_rate is not None
    assert found.dirty_rate[0] == pytest.approx(5000)
    assert found.dirty_rate[1] < 5000


def test_a_container_that_is_silent_afterwards_has_failed() -> None:
    with pytest.raises(BenchError, match="nothing after the move"):
        judged(heard((8, 11)), HEART)


def test_a_container_that_began_anew_has_failed() -> None:
    answers = heard((8, 11)) + heard((13.5, 15))
    with pytest.raises(BenchError, match="did not go on"):
        judged(answers, HEART)


def test_a_client_that_had_to_connect_anew_is_a_failure() -> None:
    answers = heard((8, 11), (13, 16))
    assert judged(answers, REDIS, reconnects=0).gap == pytest.approx(2.01)
    with pytest.raises(BenchError, match="connect anew"):
        judged(answers, REDIS, reconnects=1, errors=["reset"])


# -- the command -----------------------------------------------------------------------------------


def test_quick_is_a_part_of_the_standard_run() -> None:
    quick = {cell for cell, _ in matrix.planned(matrix.arguments(["--quick"]))}
    standard = {cell for cell, _ in matrix.planned(matrix.arguments([]))}
    everything = {cell for cell, _ in matrix.planned(matrix.arguments(["--all"]))}
    assert quick < standard < everything


def test_samples_and_patterns_of_the_command_line() -> None:
    given = matrix.arguments(["--samples", "3", "--peer", "docker", "--workload", "16-10-random",
                              "--link", "unshaped"])  # fmt: skip
    assert [number for _, number in matrix.planned(given)] == [1, 2, 3]


def test_quick_and_all_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        matrix.arguments(["--quick", "--all"])
    assert "not allowed" in capsys.readouterr().err


def test_progress_says_what_failed() -> None:
    bad = Sample("w", "l", "p", 2, error="broken")
    assert matrix.progress_line(bad) == "l w p #2: FAILED: broken"
    good = Sample("w", "l", "p", 2, gap=0.25, total=1.0, wire=2_000_000)
    assert matrix.progress_line(good) == "l w p #2: gap 250 ms, total 1.00 s, 2.0 MB"
    assert figures.by_row([bad, good]) == {("l", "w", "p"): [bad, good]}


def test_duration() -> None:
    assert matrix.duration(3 * 3600 + 125) == "3 h 02 min"
