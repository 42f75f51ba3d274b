"""The command line: words to calls, failures to messages and exit codes."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from migrate import __version__, arguments
from migrate.errors import BUG, HostUnfit
from transport.errors import Failure

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

COMMANDS = (
    "move", "fetch", "evacuate", "return", "setup", "check", "recover", "cache", "report",
    "forward", "frontend", "agent", "source", "version",
)  # fmt: skip
HERE = ("move", "fetch", "evacuate", "return")  # need this host's Docker, whatever HOST they name
USAGE = """\
migrate [move] CONTAINER HOST [options]   move a running container to HOST
migrate fetch CONTAINER HOST [options]    move a running container from HOST to here
migrate evacuate HOST... [options]        move all containers to other hosts
migrate return [options]                  bring back what was evacuated
migrate setup [HOST] [--undo]             prepare this host, or HOST
migrate check [HOST]                      say what is missing here, or at HOST
migrate recover                           bring order after a crash or a broken link
migrate cache [list | clear] [NAME]       memory kept of containers that left here
migrate report FILE [--output PICTURE]    draw what `move --json` has printed
migrate forward list|apply|remove [WHICH] what this host receives for containers that have moved
migrate frontend add|switch|list|remove|restore [NAME ...]
                                          ports of this host that lead to wherever a service runs
migrate version

HOST is [user@]host[:port] or an alias of ~/.ssh/config. `move` is only needed for a container that
is named like a command. Exit codes: see the README."""
SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="migrate", usage=USAGE, description=None, add_help=True, allow_abbrev=False
    )
    verbs = top.add_subparsers(dest="command", required=True, metavar="COMMAND", prog="migrate")

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
        made.add_argument(
            "-v", "--verbose", action="store_true", help="say more, also CRIU's words"
        )
        made.add_argument("--json", action="store_true", help="one JSON object on stdout, no prose")
        return made

    move = verb("move", "Move a running container to another host.")
    move.add_argument("container", metavar="CONTAINER", help="name or id, as `docker ps` shows it")
    move.add_argument("host", metavar="HOST", help="[user@]host[:port], or an ssh_config alias")
    arguments.add_one(move)
    arguments.add_way(move)
    fetch = verb("fetch", "Bring a running container from another host to this one.")
    fetch.add_argument("container", metavar="CONTAINER", help="its name there")
    fetch.add_argument("host", metavar="HOST", help="[user@]host[:port], or an ssh_config alias")
    arguments.add_one(fetch)
    arguments.add_way(fetch)
    evacuate = verb("evacuate", "Move all containers of this host to others.")
    arguments.add_evacuate(evacuate)
    arguments.add_many(evacuate)
    arguments.add_way(evacuate)
    back = verb("return", "Bring back what was evacuated from this host.")
    arguments.add_return(back)
    arguments.add_many(back)
    arguments.add_way(back)
    setup = verb("setup", "Prepare a host: register the OCI runtime `migrate` with its Docker.")
    setup.add_argument("host", metavar="HOST", nargs="?")
    setup.add_argument("--undo", action="store_true", help="take the runtime out again")
    check = verb("check", "Say what a host lacks; changes nothing but tries CRIU out.")
    check.add_argument("host", metavar="HOST", nargs="?")
    verb("recover", "Bring order after a crash or a broken link.")
    cache = verb("cache", "List or remove the memory that is kept of containers that left here.")
    cache.add_argument("action", choices=["list", "clear"], nargs="?", default="list")
    cache.add_argument("name", metavar="NAME", nargs="?", help="of one container only")
    report = verb("report", "Draw what `move --json` has printed: an SVG picture, or a web page.")
    report.add_argument("file", metavar="FILE", help="what it has printed; `-`: standard input")
    report.add_argument(
        "--output", metavar="PICTURE", help="OUT.svg or OUT.html; default: beside FILE, an .svg"
    )
    forward = verb("forward", "What this host receives for containers that have moved away.")
    forward.add_argument(
        "action", choices=["list", "remove", "apply"], help="apply: lay all again, after a boot"
    )
    forward.add_argument(
        "which", nargs="?", metavar="WHICH", help="to remove: a container's name, or a forward's id"
    )
    frontend = verb("frontend", "Ports of this host that lead to wherever a service runs.")
    arguments.add_frontend(frontend)
    verb("agent", "The destination's end of a migration; started over SSH.")
    source = verb("source", "The source's end of a `fetch`; started over SSH.")
    source.add_argument("container", nargs="?", metavar="CONTAINER")
    source.add_argument("--caller", required=True, metavar="NAME", help="who has called")
    source.add_argument("--session", default="", help="that has to be settled")
    arguments.add_one(source)
    arguments.add_way(source)
    verb("version", "Say the version.")
    return top


def with_command(argv: Sequence[str]) -> list[str]:
    """`migrate app hostB` is `migrate move app hostB`."""
    words = [word for word in argv if not word.startswith("-")]
    if words and words[0] not in COMMANDS:
        return ["move", *argv]
    return list(argv)


def with_sbin(path: str) -> str:
    """PATH with the folders of criu, nft and iptables, which cron and some logins leave out."""
    folders = path.split(":")
    return ":".join([*folders, *(sbin for sbin in SBIN if sbin not in folders)])


class _MayBreak(io.FileIO):
    """A descriptor whose reader may go away: then what is written is dropped, and the work goes on
    (`migrate ... | head -1`). At the exit, too, where Python would make it exit code 120."""

    def write(self, data: ReadableBuffer) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return memoryview(data).nbytes


def _may_break(stream: TextIO) -> TextIO:
    """The same stream, for a reader that may go away; as it is when it has no descriptor."""
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    try:
        raw = _MayBreak(stream.fileno(), "w", closefd=False)
    except (OSError, ValueError):  # closed
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(raw), stream.encoding, stream.errors,
        line_buffering=stream.line_buffering, write_through=stream.write_through,
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point; gives the exit code."""
    if argv is None:  # called as a program
        sys.stdout, sys.stderr = _may_break(sys.stdout), _may_break(sys.stderr)
    given = parser().parse_args(with_command(sys.argv[1:] if argv is None else argv))
    os.environ["PATH"] = with_sbin(os.environ.get("PATH", os.defpath))
    try:
        if given.command == "version":
            print(json.dumps({"version": __version__}) if given.json else f"migrate {__version__}")
            return 0
        needs_root = given.command != "report" and (given.command in HERE or not _remote(given))
        if needs_root and os.geteuid() != 0:
            raise HostUnfit("migrate needs to be root on this host", "run it with sudo")
        return _dispatch(given)
    except Failure as failure:
        return report(failure, given)
    except KeyboardInterrupt:
        return 130
    except Exception as bug:  # noqa: BLE001 - the last resort: say it, with a code of its own
        if given.verbose:
            traceback.print_exc()
        if given.json:
            print(json.dumps({"error": "Bug", "message": repr(bug), "exit_code": BUG}))
        print(f"migrate: this is a bug: {bug!r} (-v shows where)", file=sys.stderr)
        return BUG


def _remote(given: argparse.Namespace) -> bool:
    return bool(getattr(given, "host", None))


def _dispatch(given: argparse.Namespace) -> int:
    # Imported here: `migrate version` and a wrong option need none of it, and it takes 0.5 s.
    if given.command == "move":
        from migrate.command_move import move

        return move(given)
    if given.command in ("evacuate", "return", "fetch"):
        from migrate import command_evacuate as command

        run = {"evacuate": command.evacuate, "return": command.come_back}
        return run.get(given.command, command.fetch_one)(given)
    if given.command in ("setup", "check"):
        from migrate import command_host

        return command_host.run_command(given)
    if given.command == "recover":
        from migrate.command_move import recover

        return recover(given)
    if given.command == "cache":
        from migrate import command_cache

        return command_cache.run_command(given)
    if given.command == "report":
        from migrate import command_report

        return command_report.run_command(given)
    if given.command == "forward":
        from migrate import command_forward

        return command_forward.run_command(given)
    if given.command == "frontend":
        from migrate import command_frontend

        return command_frontend.run_command(given)
    if given.command == "source":
        from migrate.fetched import main as source

        return source(given)
    from migrate.agent import main as agent

    return agent()


def report(failure: Failure, given: argparse.Namespace) -> int:
    """Say what failed, why and what to do; gives its exit code."""
    if given.json:
        shown = {
            "error": failure.code,
            "message": failure.message,
            "remedy": failure.remedy,
            "logs": failure.logs,
            "exit_code": failure.exit_code,
        }
        print(json.dumps(shown))
    print(f"migrate: {failure.message}", file=sys.stderr)
    if failure.remedy:
        print(f"  {failure.remedy}", file=sys.stderr)
    if failure.logs:
        print(f"  logs: {failure.logs}", file=sys.stderr)
    return failure.exit_code


if __name__ == "__main__":
    sys.exit(main())
