"""`migrate forward list|remove|apply`: the forwards of this host, for a person."""

from __future__ import annotations

import argparse
import json
import sys

from migrate import forward, forward_store
from migrate.errors import ContainerNotFound
from migrate.forward_record import ANCHOR, Forward
from migrate.forward_upkeep import end_both, lay_again
from transport.errors import BadTarget


def run_command(given: argparse.Namespace) -> int:
    if given.action == "list":
        return show(given)
    if given.action == "apply":
        return apply(given)
    return remove(given)


def show(given: argparse.Namespace) -> int:
    records = forward_store.read_all()
    laid = {record.id: forward.laid(record) for record in records}
    if given.json:
        shown = [
            {
                "id": r.id, "role": r.role, "container": r.name, "address": r.address,
                "ports": [f"{p.host_ip or '*'}:{p.host_port}/{p.protocol}" for p in r.ports],
                "peer": r.peer, "way": r.path.kind, "away": r.away or r.role != ANCHOR,
                "laid": laid[r.id],
            }
            for r in records
        ]  # fmt: skip
        print(json.dumps(shown))
        return 0
    for record in records:
        print(describe(record, laid=laid[record.id]))
    if not records:
        print("no forwards")
    return 0


def describe(record: Forward, *, laid: bool) -> str:
    """A forward in a line."""
    ports = " ".join(f"{p.host_ip or '*'}:{p.host_port}/{p.protocol}" for p in record.ports)
    if record.left:
        gone = f"moved on; {record.peer} still leads its clients here"
        return f"{record.id}  {record.name}  {gone} [migrate recover tells it]"
    by = "by a tunnel" if record.path.kind == "vxlan" else "directly"
    if record.role == ANCHOR:
        what = f"{ports or 'its connections'} received here, passed on to {record.peer} {by}"
    else:
        what = f"runs here; {record.peer} receives {ports or 'for it'} and passes it on {by}"
    state = "" if laid else " [not in force: migrate forward apply]"
    return f"{record.id}  {record.name}  {what}{state}"


def apply(given: argparse.Namespace) -> int:
    said, failed = lay_again()
    if given.json:
        shown = [{"error": f.code, "message": f.message, "remedy": f.remedy} for f in failed]
        print(json.dumps({"applied": said, "failed": shown}))
    else:
        print("\n".join(said or ["no forwards"]))
    for failure in failed:
        print(f"migrate: {failure.message}", file=sys.stderr)
    return failed[0].exit_code if failed else 0


def remove(given: argparse.Namespace) -> int:
    if not given.which:
        raise BadTarget("which forward? see `migrate forward list`", "")
    found = [r for r in forward_store.read_all() if given.which in (r.id, r.name)]
    if not found:
        raise ContainerNotFound(
            f"no forward `{given.which}` on this host", "see `migrate forward list`"
        )
    warnings = [problem for record in found if (problem := end_both(record))]
    if given.json:
        print(json.dumps({"removed": [r.id for r in found], "warnings": warnings}))
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return 0
