"""`migrate CONTAINER HOST` and `migrate recover`, as commands."""

from __future__ import annotations

import argparse
import json
import sys

from migrate import failure_logs
from migrate.move_options import Options
from migrate.progress import Progress
from migrate.recover_remote import recover_all
from migrate.source import Migration


def move(given: argparse.Namespace) -> int:
    """Move one container; says the summary on stdout."""
    progress = Progress(quiet=given.json, verbose=given.verbose)
    options = Options(
        container=given.container, host=given.host, tcp=given.tcp, keep=given.keep,
        force=given.force, max_freeze=given.max_freeze, max_downtime=given.max_downtime,
        max_rounds=given.max_rounds, throttle=given.throttle, memory_source=given.memory_source,
        restore=given.restore, cache=not given.no_cache,
    )  # fmt: skip
    try:
        summary = Migration(options, progress).run()
    finally:
        failure_logs.sweep()
    print(summary.to_json() if given.json else summary.text())
    return 0


def recover(given: argparse.Namespace) -> int:
    """Recover all dead sessions of this host; the exit code is that of the first failure."""
    said, failed = recover_all()
    if given.json:
        shown = [{"error": f.code, "message": f.message, "remedy": f.remedy} for f in failed]
        print(json.dumps({"recovered": said, "failed": shown}))
    else:
        for line in said:
            print(line)
        if not said and not failed:
            print("nothing to recover")
    for failure in failed:
        print(f"migrate: {failure.message}\n  {failure.remedy}", file=sys.stderr)
    return failed[0].exit_code if failed else 0
