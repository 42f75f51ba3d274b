"""The command line: words to calls, failures to messages and exit codes."""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Sequence

from migrate import __version__
from migrate.errors import HostUnfit
from transport.errors import Failure

COMMANDS = ("move", "setup", "check", "recover", "forward", "agent", "version")
USAGE = """\
migrate [move] CONTAINER HOST [options]   move a running container to HOST
migrate setup [HOST] [--undo]             prepare this host, or HOST
migrate check [HOST]                      say what is missing here, or at HOST
migrate recover                           bring order after a crash or a broken link
migrate forward list|apply|remove [WHICH] what this host receives for containers that have moved
migrate version

HOST is [user@]host[:port] or an alias of ~/.ssh/config. `move` is only needed for a container that
is named like a command. Exit codes: see the README."""
HOOK_PHASES = ("prepare", "commit", "confirm", "rollback")
SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")
BUG = 70  # sysexits.h: EX_SOFTWARE


def seconds(text: str) -> float:
    """A positive number, for argparse."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value


def hook(text: str) -> tuple[str, str]:
    """`PHASE=COMMAND`, for argparse; what the phases are is said by migrate.hooks."""
    phase, equals, command = text.partition("=")
    if phase not in HOOK_PHASES or not equals or not command.strip():
        raise ValueError(text)
    return phase, command


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="migrate", usage=USAGE, description=None, add_help=True, allow_abbrev=False
    )
    verbs = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

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
    move.add_argument("--keep", action="store_true", help="keep the source container, stopped")
    move.add_argument("--force", action="store_true", help="replace a stopped one of that name")
    move.add_argument(
        "--tcp", choices=["established", "close"], default="established",
        help="keep open TCP connections (default), or close them",
    )  # fmt: skip
    move.add_argument(
        "--max-freeze", type=seconds, default=120.0, metavar="SECONDS",
        help="give up when it stands still for longer (default 120)",
    )  # fmt: skip
    move.add_argument(
        "--network-mode", choices=["auto", "forward", "none"], default="auto",
        help="how clients find it afterwards (default: what preflight picks)",
    )  # fmt: skip
    move.add_argument(
        "--hook", action="append", type=hook, default=[], metavar="PHASE=COMMAND",
        help="a shell command to run at: prepare, commit, confirm, rollback",
    )  # fmt: skip
    setup = verb("setup", "Prepare a host: register the OCI runtime `migrate` with its Docker.")
    setup.add_argument("host", metavar="HOST", nargs="?")
    setup.add_argument("--undo", action="store_true", help="take the runtime out again")
    check = verb("check", "Say what a host lacks; changes nothing but tries CRIU out.")
    check.add_argument("host", metavar="HOST", nargs="?")
    verb("recover", "Bring order after a crash or a broken link.")
    forward = verb("forward", "What this host receives for containers that have moved away.")
    forward.add_argument(
        "action", choices=["list", "remove", "apply"], help="apply: lay all again, after a boot"
    )
    forward.add_argument(
        "which", nargs="?", metavar="WHICH", help="to remove: a container's name, or a forward's id"
    )
    verb("agent", "The destination's end of a migration; started over SSH.")
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


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point; gives the exit code."""
    given = parser().parse_args(with_command(sys.argv[1:] if argv is None else argv))
    os.environ["PATH"] = with_sbin(os.environ.get("PATH", os.defpath))
    try:
        if given.command == "version":
            print(json.dumps({"version": __version__}) if given.json else f"migrate {__version__}")
            return 0
        needs_root = given.command != "version" and not (given.command != "move" and _remote(given))
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
    if given.command in ("setup", "check"):
        from migrate import command_host

        return command_host.run_command(given)
    if given.command == "recover":
        from migrate.command_move import recover

        return recover(given)
    if given.command == "forward":
        from migrate import command_forward

        return command_forward.run_command(given)
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
