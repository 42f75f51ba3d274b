"""`migrate source`: started here over SSH by a `migrate fetch` elsewhere, to which it sends.

First it settles what an earlier one has left, since only then can anybody: the caller is at hand.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from contextlib import suppress

import msgspec

from migrate import failure_logs, lineage
from migrate.agent import claim_streams
from migrate.agent_link import CALLER
from migrate.caller_link import CallerLink, Report, Streams
from migrate.candidates import name_of
from migrate.docker_host import DockerHost
from migrate.errors import Busy
from migrate.host_setup import make_state_dirs
from migrate.journal import read_all
from migrate.move_options import options_of
from migrate.progress import Progress
from migrate.protocol import REPORT
from migrate.recover_remote import recover_source
from migrate.source import Migration
from transport.errors import ConnectionLost, Failure


def main(given: argparse.Namespace) -> int:
    """Serve the connection on stdin and stdout; `given` as in `migrate move`."""
    make_state_dirs()
    link = CallerLink(Streams(*claim_streams()), given.caller)
    report = Report()
    try:
        report.settled, failed = settle(link)
        if given.container:
            report.summary = _move(given, link)
        else:
            _raise_first(failed, given.session)
    except Failure as failure:
        report.error, report.message = failure.code, failure.message
        report.remedy, report.exit_code = failure.remedy, failure.exit_code
    except Exception as bug:  # noqa: BLE001 - the caller must be told whatever it is
        print(traceback.format_exc(), file=sys.stderr)
        report.error, report.message, report.exit_code = "Bug", repr(bug), 70
    link.channel.check = lambda: None  # a signal that came does not take the last word away
    with suppress(ConnectionLost):
        link.channel.send(REPORT, msgspec.json.encode(report))
    link.channel.close()
    return report.exit_code


def _move(given: argparse.Namespace, link: CallerLink) -> str:
    # What is on record at the caller may be an id that the container had before it was elsewhere.
    there = {str(item["Id"]): name_of(item) for item in DockerHost().containers()}
    heir = lineage.heir(given.container, there)
    if heir and heir != given.container:
        given.container = there[heir]
    options = options_of(given, link.peer)
    try:
        summary = Migration(options, Progress(quiet=True), lambda _: link).run()
    finally:
        failure_logs.sweep()
    return summary.to_json()


def settle(link: CallerLink) -> tuple[list[str], list[tuple[str, Failure]]]:
    """End what is left of sessions whose destination was this caller; it is asked about them.

    Gives what was done, and what failed by session: Busy when that session's process still lives.
    """
    said: list[str] = []
    failed: list[tuple[str, Failure]] = []
    mine = [h for h in read_all() if h.role == "source" and h.peer == link.peer]
    host_id = link.greet().host_id if mine else ""
    for header in mine:
        if header.peer_id != host_id:
            continue  # another host of that name
        try:
            said.append(recover_source(header.session, lambda _: link).replace(CALLER, ""))
        except FileNotFoundError:
            continue
        except ConnectionLost:
            raise
        except Failure as failure:
            failed.append((header.session, failure))
    return said, failed


def _raise_first(failed: list[tuple[str, Failure]], session: str) -> None:
    """Raise what stands in the way of order. A live session does not, but the one asked about."""
    for of, failure in failed:
        if of == session or not isinstance(failure, Busy):
            raise failure
