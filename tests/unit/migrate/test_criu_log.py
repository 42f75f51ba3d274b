"""migrate.criu_log: the line that says why, out of a thousand that do not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.criu_log import criu_reason, interesting_lines

# criu 3.17.1 on Linux 6.18, as it was written
TOO_OLD = """\
(00.031824) 	LD: Got link 10, type 1
(00.034616) Error (criu/vdso.c:381): vdso: Unexpected rt vDSO area bounds
(00.034626) Error (criu/vdso.c:613): vdso: Failed to fill self vdso symtable
(00.034629) Error (criu/kerndat.c:1615): kerndat_vdso_fill_symtable failed when initializing kerndat.
(00.034692) Error (criu/crtools.c:260): Could not initialize kernel features detection.
"""  # noqa: E501

# the ends of a good dump of criu 4.2.1 without CAP_SYS_RESOURCE
GOOD = """\
(00.000021) Version: 4.2.1 (gitid 0)
(00.000028) Running on vm Linux 6.18.44 #1 SMP PREEMPT_DYNAMIC x86_64
(00.073083) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted
(00.073100) irmap: Searching irmap cache in work dir
(00.081000) Warn  (criu/kerndat.c:1204): Can't keep kdat cache on non-tempfs
(00.116353) Unfreezing tasks into 2
(00.117183) Writing stats
(00.117209) Dumping finished successfully
"""  # noqa: E501


def test_the_first_error_is_the_cause() -> None:
    assert criu_reason(TOO_OLD) == ("Error (criu/vdso.c:381): vdso: Unexpected rt vDSO area bounds")


def test_a_good_run_has_no_reason_though_it_has_an_error_line() -> None:
    assert criu_reason(GOOD) == ""


def test_a_harmless_error_does_not_hide_the_cause() -> None:
    assert "vdso.c:381" in criu_reason(GOOD + TOO_OLD)


@pytest.mark.parametrize(
    ("before", "cause"),
    [
        # restoring: the pid of the task that speaks stands in front
        ("(00.002408)  24411: Error (criu/tty.c:1435): tty: No task found with sid 22997",) * 2,
        ("pie: 7: Error (criu/pie/restorer.c:944): Ring setup failed with -1",) * 2,
        ("(05.27) pie: 50: 51: Error (criu/pie/restorer.c:1): x",) * 2,
        # 4.1.1 on Linux 6.16, where other errors' texts follow
        ("(00.1) Error (criu/sockets.c:300): sockets: Can't get 1:16 opt: No such file",) * 2,
        # what a helper says about itself is no cause when one follows
        (
            "(00.1) Error (criu/util.c:811): exited, status=3\n"
            "(00.2) Error (criu/net.c:3071): Unable create a network namespace: Not permitted",
            "Error (criu/net.c:3071): Unable create a network namespace: Not permitted",
        ),
    ],
)
def test_the_cause_is_found_among_what_follows_from_it(before: str, cause: str) -> None:
    log = (
        f"{GOOD}{before}\n"
        "(00.21) Error (criu/cr-dump.c:1698): Dump files (pid: 353704) failed with -1\n"
        "(00.22) Error (criu/cr-restore.c:1262): 24411 killed by signal 9: Killed\n"
        "(00.23) Error (criu/cr-restore.c:2324): Restoring FAILED.\n"
    )
    assert criu_reason(log) == cause[cause.index("Error") :]


def test_a_consequence_is_better_than_nothing() -> None:
    log = (
        "(01.328) Error (criu/cr-restore.c:1262): 3127 killed by signal 9: Killed\n"
        "(01.338) Error (criu/cr-restore.c:2324): Restoring FAILED.\n"
    )
    assert criu_reason(log) == "Error (criu/cr-restore.c:1262): 3127 killed by signal 9: Killed"


def test_a_process_that_prints_error_is_not_criu() -> None:
    assert criu_reason("(00.1) comm: Error (not a place): Error in name\nError: x\n") == ""


@given(st.text())
def test_any_text_is_survived(text: str) -> None:
    assert criu_reason(text) == "" or "Error" in text
    assert all(line in text for line in interesting_lines(text))


def test_verbose_shows_errors_warnings_and_results_with_their_times() -> None:
    assert [line.split()[0] for line in interesting_lines(GOOD)] == [
        "(00.000021)",
        "(00.000028)",
        "(00.073083)",
        "(00.081000)",
        "(00.117209)",
    ]
    stats = "Displaying dump stats:\nFrozen time: 812 us\nMemory pages written: 9 (0x9)\n"
    assert interesting_lines(stats) == stats.splitlines()


def test_a_skeleton_dump_has_not_failed() -> None:
    log = (
        "(00.000100) Dumping processes (pid: 402 comm: sh)\n"
        "(00.268000) Starting lazy pages server\n"
        "(00.338000) Error (criu/cr-dump.c:1883): Lazy pages transfer FAILED.\n"
        "(00.338700) Error (criu/cr-dump.c:1975): Dumping FAILED.\n"
    )
    assert interesting_lines(log) == ["(00.000100) Dumping processes (pid: 402 comm: sh)"]
