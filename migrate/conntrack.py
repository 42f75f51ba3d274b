"""The kernel's table of connections, by the program `conntrack`: the only module that calls it."""

from __future__ import annotations

import ipaddress
import re
import shutil
from collections.abc import Iterable, Sequence

import msgspec

from migrate.errors import CommandFailed
from migrate.run import run
from transport.errors import StreamCorrupt

# `conntrack -L` ends with 1 and this on stderr when nothing was found in some versions.
NOTHING = "0 flow entries"


class Entry(msgspec.Struct, frozen=True):
    """One connection: where the first packet came from and went to (`source`, `target`), and from
    where to where the answers go; they differ by what NAT does. Addresses and ports."""

    protocol: str
    source: tuple[str, int]
    target: tuple[str, int]
    reply_source: tuple[str, int]
    reply_target: tuple[str, int]
    timeout: int = 0
    state: str = ""
    status: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, tuple[str, int], tuple[str, int]]:
        return self.protocol, self.source, self.target

    def load_line(self, mark: int) -> str:
        """The line for `conntrack --load-file` that makes this entry again, with a mark."""
        words = [
            "-A", "-t", str(max(self.timeout, 1)), "-p", self.protocol,
            "-s", self.source[0], "-d", self.target[0],
            "--sport", str(self.source[1]), "--dport", str(self.target[1]),
            "--reply-port-src", str(self.reply_source[1]),
            "--reply-port-dst", str(self.reply_target[1]), "-m", f"{mark:#x}",
        ]  # fmt: skip
        if self.status:
            words += ["-u", ",".join(self.status)]
        if self.state:
            words += ["--state", self.state]
        # That an address is translated must be said as such: else no packet would be. With the
        # port: where both are, conntrack (1.4.8) forgets --reply-port-src and --reply-port-dst.
        for plain, translated, was, now in (
            ("-r", "-g", self.target, self.reply_source),
            ("-q", "-n", self.source, self.reply_target),
        ):
            words += [plain, now[0]] if now == was else [translated, f"{now[0]}:{now[1]}"]
        return " ".join(words)

    def aimed_at(self, target: tuple[str, int]) -> Entry:
        """The same connection of a container that is reached by another address."""
        return msgspec.structs.replace(self, target=target)


class Flow(msgspec.Struct, frozen=True):
    """A connection of a container, seen from its host: `remote` knows it as `outside`; the
    container itself uses its own port `port`."""

    protocol: str
    remote: tuple[str, int]
    outside: tuple[str, int]
    port: int


def parse(text: str) -> list[Entry]:
    """Read the output of `conntrack -L`; lines of protocols without ports are left out."""
    return [entry for line in text.splitlines() if (entry := _parse_line(line))]


def _parse_line(line: str) -> Entry | None:
    words = line.split()
    if not words or words[0] not in ("tcp", "udp") or len(words) < 3 or not words[2].isdigit():
        return None
    values: dict[str, list[str]] = {}
    status = []
    for word in words[3:]:
        name, equals, value = word.partition("=")
        if equals:
            values.setdefault(name, []).append(value)
        elif word.startswith("["):
            status.append(word.strip("[]"))
    try:
        (one, two), (to_one, to_two) = values["src"], values["dst"]
        ports, to_ports = values["sport"], values["dport"]
        return Entry(
            protocol=words[0],
            source=(one, int(ports[0])),
            target=(to_one, int(to_ports[0])),
            reply_source=(two, int(ports[1])),
            reply_target=(to_two, int(to_ports[1])),
            timeout=int(words[2]),
            state=words[3] if words[0] == "tcp" and "=" not in words[3] else "",
            # Without UNREPLIED there was an answer, which is not listed as such.
            status=tuple(
                name for name, there in (
                    ("SEEN_REPLY", "UNREPLIED" not in status), ("ASSURED", "ASSURED" in status)
                ) if there
            ),
        )  # fmt: skip
    except (KeyError, ValueError, IndexError):
        return None


def flow(entry: Entry, address: str) -> Flow | None:
    """The entry as a flow of the container with this address; None when it is none of its."""
    if entry.reply_source[0] == address:
        return Flow(entry.protocol, entry.source, entry.target, entry.reply_source[1])
    if entry.source[0] == address:
        return Flow(entry.protocol, entry.target, entry.reply_target, entry.source[1])
    return None


def checked(entry: Entry) -> Entry:
    """Give it back, or raise StreamCorrupt: what another host says becomes words for conntrack."""
    ends = (entry.source, entry.target, entry.reply_source, entry.reply_target)
    try:
        for address, _ in ends:
            ipaddress.IPv4Address(address)
    except ValueError as problem:
        raise StreamCorrupt(f"not a connection: {problem}") from problem
    if not (
        entry.protocol in ("tcp", "udp")
        and all(0 < port < 1 << 16 for _, port in ends)
        and re.fullmatch(r"[A-Z_0-9]{0,16}", entry.state)
        and set(entry.status) <= {"SEEN_REPLY", "ASSURED"}
        and 0 <= entry.timeout < 1 << 31
    ):
        raise StreamCorrupt(f"not a connection: {entry}")
    return entry


def present() -> bool:
    """Whether the program is installed."""
    return shutil.which("conntrack") is not None


def entries_of(address: str) -> list[Entry]:
    """All TCP and UDP connections that a container of that address takes part in.

    Raises CommandFailed when the table cannot be read.
    """
    found: dict[object, Entry] = {}
    for option in ("--reply-src", "--orig-src"):
        for entry in parse(_conntrack(["-L", option, address])):
            found[entry.key] = entry
    return list(found.values())


def delete_line(protocol: str, port: int, backend: tuple[str, int], mark: int) -> str:
    """The line for `conntrack --load-file` that deletes what came to that port of this host, was
    led to that backend, and has this bit in its mark: one pass over the table for all of them."""
    words = [
        "-D", "-p", protocol, "--orig-port-dst", str(port), "--reply-src", backend[0],
        "--reply-port-src", str(backend[1]), "--mark", f"{mark:#x}/{mark:#x}",
    ]  # fmt: skip
    return " ".join(words)


def entries_to(protocol: str, port: int, mark: int) -> list[Entry]:
    """All connections that came to that port of this host and have this bit in their marks."""
    words = ["-L", "-p", protocol, "--orig-port-dst", str(port), "--mark", f"{mark:#x}/{mark:#x}"]
    return parse(_conntrack(words))


def load_at_once(entries: Sequence[Entry], address: str, mark: int) -> None:
    """As `load`, when every millisecond counts and most likely none of them is there."""
    lines = "".join(entry.load_line(mark) + "\n" for entry in entries)
    if not run(["conntrack", "-R", "-"], stdin=lines, check=False, timeout=60).ok:
        load(entries, address, mark)


def load(entries: Sequence[Entry], address: str, mark: int, tries: int = 3) -> int:
    """Make these entries of a container anew where they are missing; gives how many were.

    A packet may be faster and make one itself, which ends the loading of the rest: then again.
    """
    if not entries:  # as where the program is not installed
        return 0
    missing: list[Entry] = []
    made = 0
    for _ in range(tries):
        there = {entry.key for entry in entries_of(address)}
        missing = [entry for entry in entries if entry.key not in there]
        if not missing:
            break
        lines = "".join(entry.load_line(mark) + "\n" for entry in missing)
        made = len(missing)
        if run(["conntrack", "-R", "-"], stdin=lines, check=False, timeout=60).ok:
            break
    return made


def forget(address: str) -> None:
    """Delete what is known of an address that nobody here has now: it may be out of date."""
    for option in ("--orig-src", "--orig-dst"):
        _conntrack(["-D", option, address])


def _conntrack(words: Iterable[str]) -> str:
    result = run(["conntrack", *words, "-f", "ipv4"], check=False, timeout=60)
    if not result.ok and NOTHING not in result.stderr:
        raise CommandFailed(f"conntrack failed: {result.stderr.strip()}")
    return result.stdout
