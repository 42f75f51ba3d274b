"""`migrate setup [HOST]` and `migrate check [HOST]`: locally, or by the same command over SSH."""

from __future__ import annotations

import argparse
import json
import shlex
import sys

import msgspec

from migrate.agent_link import COMMAND
from migrate.criu_probe import probe
from migrate.errors import ToolMissing
from migrate.host_facts import Finding, facts
from migrate.host_findings import findings
from migrate.host_setup import SetupReport, setup, undo
from transport.ssh import connect
from transport.target import parse_target

REMOTE_TIMEOUT = 120.0


def run_command(given: argparse.Namespace) -> int:
    """Do it here or there; exit code 0 when the host is fit, else that of the first finding."""
    if given.host:
        return _remote(given)
    if given.command == "check":
        report = SetupReport([], [*findings(facts()), _probe()])
    elif given.undo:
        report = undo()
    else:
        report = setup()
        report = SetupReport(report.changes, [*report.findings, _probe()])
    if given.json:
        print(msgspec.json.encode(report).decode())
    else:
        show(report, verbose=given.verbose or given.command == "check")
    if given.command == "setup" and given.undo:
        return 0
    bad = [finding for finding in report.findings if not finding.ok]
    return bad[0].failure().exit_code if bad else 0


def _probe() -> Finding:
    result = probe()
    if result.ok:
        return Finding(True, f"CRIU dumps and restores a process here ({result.seconds:.1f} s)")
    return Finding(
        False, f"CRIU cannot dump and restore here: {result.reason}",
        "install a CRIU that works with this kernel (>= 4.2 for Linux >= 6.16)", "CriuUnfit",
    )  # fmt: skip


def show(report: SetupReport, *, verbose: bool) -> None:
    """Changes on stdout, what is missing on stderr; all findings when `verbose`."""
    for change in report.changes:
        print(change)
    for finding in report.findings:
        if not finding.ok:
            print(f"missing: {finding.what}\n  {finding.remedy}", file=sys.stderr)
        elif verbose:
            advice = f" ({finding.remedy})" if finding.remedy else ""
            print(f"ok: {finding.what}{advice}")
    if not report.changes and all(finding.ok for finding in report.findings) and not verbose:
        print("nothing to do: this host is ready")


def _remote(given: argparse.Namespace) -> int:
    words = [given.command]
    for flag in ("undo", "verbose", "json"):
        if getattr(given, flag, False):
            words.append(f"--{flag}")
    with connect(parse_target(given.host)) as connection:
        command = COMMAND.format(shlex.join(words))
        code, out, err = connection.run(command, REMOTE_TIMEOUT)
        if code == 127:
            raise ToolMissing(f"`migrate` is not installed at {connection.description}")
    sys.stdout.write(out)
    if not given.json:
        sys.stderr.write(err)
    elif code and not out:
        print(json.dumps({"error": "HostUnfit", "message": err.strip(), "exit_code": code}))
    return code
