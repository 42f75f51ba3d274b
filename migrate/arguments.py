"""The options of the commands that move containers, and how their values are read."""

from __future__ import annotations

import argparse

from transport.bucket import RateLimit, parse_limit

HOOK_PHASES = ("prepare", "commit", "confirm", "rollback")


def seconds(text: str) -> float:
    """A positive number, for argparse."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value


def rate(text: str) -> RateLimit:
    """`RATE[@FILE]`, for argparse, which then says what was wrong with it."""
    try:
        return parse_limit(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def hook(text: str) -> tuple[str, str]:
    """`PHASE=COMMAND`, for argparse; what the phases are is said by migrate.hooks."""
    phase, equals, command = text.partition("=")
    if phase not in HOOK_PHASES or not equals or not command.strip():
        raise ValueError(text)
    return phase, command


def natural(text: str) -> int:
    """A number from 0 on, for argparse."""
    value = int(text)
    if value < 0:
        raise ValueError(text)
    return value


def count(text: str) -> int:
    """A number from 1 on, for argparse."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def add_way(verb: argparse.ArgumentParser) -> None:
    """How a container moves."""
    verb.add_argument(
        "--tcp", choices=["established", "close"], default="established",
        help="keep open TCP connections (default), or close them",
    )  # fmt: skip
    verb.add_argument(
        "--max-freeze", type=seconds, default=120.0, metavar="SECONDS",
        help="give up when it stands still for longer (default 120)",
    )  # fmt: skip
    verb.add_argument(
        "--max-downtime", type=seconds, default=0.3, metavar="SECONDS",
        help="freeze it as soon as it would stand still for no longer than this (default 0.3)",
    )  # fmt: skip
    verb.add_argument(
        "--max-rounds", type=natural, default=30, metavar="N",
        help="rounds over the memory before the freeze at most (default 30; 0: all in the freeze)",
    )  # fmt: skip
    verb.add_argument(
        "--throttle", action="store_true",
        help="give it less CPU while it changes memory faster than it can be sent",
    )  # fmt: skip
    verb.add_argument(
        "--memory-source", choices=["auto", "scan", "predump"], default="auto",
        help="how to find the memory that has changed (default: as the kernel allows)",
    )  # fmt: skip
    verb.add_argument(
        "--restore", choices=["auto", "eager", "lazy"], default="auto",
        help="read all memory in before it runs there, or while it runs (default: by its size)",
    )  # fmt: skip
    verb.add_argument(
        "--no-cache", action="store_true",
        help="neither use nor keep memory for the way back (`migrate cache`)",
    )  # fmt: skip
    verb.add_argument(
        "--network-mode", choices=["auto", "forward", "same-l2", "frontend", "none"],
        default="auto", help="how clients find it afterwards (default: what preflight picks)",
    )  # fmt: skip
    verb.add_argument(
        "--frontend", metavar="HOST",
        help="a host with `migrate frontend`, which leads clients to wherever it runs",
    )  # fmt: skip
    verb.add_argument(
        "--buffer", type=natural, default=0, metavar="PACKETS",
        help="hold so many packets of its clients while it stands still, instead of dropping them",
    )  # fmt: skip
    verb.add_argument(
        "--hook", action="append", type=hook, default=[], metavar="PHASE=COMMAND",
        help="a shell command to run at: prepare, commit, confirm, rollback",
    )  # fmt: skip
    verb.add_argument(
        "--bwlimit", type=rate, metavar="RATE",
        help="send no more bytes per second, such as 20M; RATE@FILE shares it with all that name "
        "that file",
    )  # fmt: skip


def add_one(verb: argparse.ArgumentParser) -> None:
    """What becomes of the two copies of one container, and who listens."""
    verb.add_argument("--keep", action="store_true", help="keep the source container, stopped")
    verb.add_argument("--force", action="store_true", help="replace a stopped one of that name")
    verb.add_argument(
        "--progress-json", action="store_true", help="progress as JSON lines on stderr"
    )


def add_many(verb: argparse.ArgumentParser) -> None:
    """How several containers move."""
    verb.add_argument("--dry-run", action="store_true", help="say what would be done")
    verb.add_argument(
        "--parallel", type=count, default=0, metavar="N", help="so many at once (default: up to 4)"
    )
    verb.add_argument("--metrics", metavar="FILE", help="a text file for Prometheus")


def add_evacuate(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("hosts", metavar="HOST", nargs="*", help="where containers may go")
    for option, metavar, text in (
        ("--inventory", "SOURCE", "more hosts: `ssh` (~/.ssh/config), `docker` (contexts), a file"),
        ("--name", "PATTERN", "only containers of such a name"),
        ("--label", "KEY[=VALUE]", "only those with that label"),
        ("--project", "NAME", "only those of a compose project"),
        ("--exclude", "PATTERN", "none of such a name"),
    ):
        verb.add_argument(option, metavar=metavar, action="append", default=[], help=text)
    verb.add_argument(
        "--split", action="store_true", help="projects of compose need not stay together"
    )


def add_frontend(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "action", choices=["add", "switch", "list", "remove", "restore"],
        help="restore: lay all again, after a boot",
    )  # fmt: skip
    verb.add_argument(
        "words", nargs="*", metavar="WORD",
        help="add NAME PORT[/udp] BACKEND[:PORT]; switch NAME BACKEND[:PORT]; remove NAME",
    )  # fmt: skip


def add_return(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("containers", metavar="CONTAINER", nargs="*", help="default: all")
    verb.add_argument("--from", dest="source", metavar="HOST", help="only what is there")


def way_words(given: argparse.Namespace) -> list[str]:
    """The options of `add_way`, as words for another `migrate`; but for --tcp and --bwlimit."""
    words = [
        f"--max-freeze={given.max_freeze}", f"--max-downtime={given.max_downtime}",
        f"--max-rounds={given.max_rounds}", f"--memory-source={given.memory_source}",
        f"--restore={given.restore}", f"--network-mode={given.network_mode}",
        f"--buffer={given.buffer}",
    ]  # fmt: skip
    words += [f"--hook={phase}={command}" for phase, command in given.hook]
    words += [f"--frontend={given.frontend}"] if given.frontend else []
    words += ["--throttle"] if given.throttle else []
    return [*words, "--no-cache"] if given.no_cache else words
