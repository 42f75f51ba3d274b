"""Read CRIU's log: which of its lines says why it failed.

The shape of a line is CRIU's `criu/include/log.h` and `criu/log.c`: an optional time
`(00.123456)`, while restoring the pid of the task that speaks (`   123: `, or `pie: 123: ` from
inside a task), then `Error (criu/file.c:123): text`, `Warn  (criu/file.c:123): text` or text.
"""

from __future__ import annotations

import re

_SPEAKER = r"(?:\(\d+\.\d+\)\s*)?(?:pie:\s*)?(?:\d+:\s*)*"
_LINE = re.compile(
    rf"^{_SPEAKER}(?P<what>(?P<level>Error|Warn)\s+\([^)\s]+:\d+\):\s*(?P<said>.*))$"
)
_STAMP = re.compile(r"^\(\d+\.\d+\)\s*")

# CRIU feels its way over the kernel before it works, and calls what it finds missing an error.
# Seen in logs of dumps that went well, on CRIU 3.x and 4.x.
_HARMLESS = (
    re.compile(r"rlimi\w: Can't setup RLIMIT_NOFILE for self"),  # needs CAP_SYS_RESOURCE
    re.compile(r"Unable to create tun"),  # criu/tun.c, check_tun_netns_cr: returns 0 all the same
    re.compile(r"Can't check tun support"),
)

# What CRIU says after the cause: that the step failed, or that somebody it called or waited for
# is gone. Shown only when there is nothing better. Texts from criu/cr-dump.c, cr-restore.c, util.c.
_CONSEQUENCE = (
    re.compile(r"\bFAILED\b"),
    re.compile(r"Killing processes because of failure on restore"),
    re.compile(r"\(pid: \d+\) failed with -?\d+$"),
    re.compile(r"^(\d+ )?(exited, status=|killed by signal )"),
    re.compile(r"Can't (interrupt|catch|attach to) .*(No such process|all tasks)"),
)

_SUMMARY = re.compile(
    r"^(Version:|Running on |Loaded kdat cache|Dumping processes|Restoring processes"
    r"|net: (Lock|Unlock) network|Displaying .* stats|Freezing time|Frozen time"
    r"|Memory (dump|write|pages)|IRMAP resolve|Pages (compared|skipped|restored)"
    r"|Restore time|Forking time|Lazy memory|.* finished successfully)"
)


def criu_reason(log_text: str) -> str:
    """The line of a CRIU log that explains the failure, as `Error (criu/x.c:1): text`.

    The first error is the cause and the later ones follow from it, save the errors that also
    stand in the logs of good runs and those that only say that a step failed. Without any other,
    such a line is better than none. Empty when the log has no error at all.
    """
    follow_up = ""
    for line in log_text.splitlines():
        match = _LINE.match(line.rstrip())
        if match is None or match["level"] != "Error":
            continue
        said = match["said"]
        if any(pattern.search(said) for pattern in _HARMLESS):
            continue
        if not any(pattern.search(said) for pattern in _CONSEQUENCE):
            return match["what"]
        # Of the follow-ups the first is nearest to the cause: `123 killed by signal 9` says more
        # than the `Restoring FAILED` after it.
        follow_up = follow_up or match["what"]
    return follow_up


def interesting_lines(log_text: str) -> list[str]:
    """What `-v` shows of a CRIU log: errors, warnings, versions, results and times, in order.

    The lines keep CRIU's time stamps. A skeleton dump is complete when it would serve its pages: it
    is not let (migrate/criu.py), and what CRIU says of that is no failure.
    """
    complete = log_text.partition("Starting lazy pages server")[0]
    return [
        line
        for line in (raw.rstrip() for raw in complete.splitlines())
        if _LINE.match(line) or _SUMMARY.match(_STAMP.sub("", line))
    ]
