"""migrate.conntrack: lines of `conntrack -L` (1.4.8) read, and written for `--load-file`."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate import conntrack
from migrate.conntrack import Entry, Flow, flow, parse
from migrate.run import Result
from transport.errors import StreamCorrupt

PUBLISHED = (
    "tcp      6 431999 ESTABLISHED src=10.1.0.1 dst=10.1.0.2 sport=37134 dport=8080 "
    "src=10.2.0.9 dst=10.1.0.1 sport=80 dport=37134 [ASSURED] mark=0 use=1"
)
OPENED = (
    "tcp      6 300 ESTABLISHED src=10.2.0.9 dst=10.1.0.1 sport=4000 dport=443 "
    "src=10.1.0.1 dst=10.1.0.2 sport=443 dport=4001 [ASSURED] mark=268435456 use=2"
)
SILENT = (
    "udp      17 29 src=10.1.0.1 dst=10.1.0.2 sport=5 dport=53 [UNREPLIED] "
    "src=10.2.0.9 dst=10.1.0.1 sport=53 dport=5 mark=0 use=1"
)
OTHERS = """\
icmp     1 29 src=10.1.0.1 dst=10.1.0.2 type=8 code=0 id=7 src=10.1.0.2 dst=10.1.0.1 type=0 code=0
unknown  2 593 src=172.17.0.1 dst=224.0.0.22 [UNREPLIED] src=224.0.0.22 dst=172.17.0.1 mark=0 use=1
conntrack v1.4.8 (conntrack-tools): 2 flow entries have been shown.
tcp broken
"""


def one(line: str) -> Entry:
    (entry,) = parse(line)
    return entry


def test_an_entry_is_read() -> None:
    assert one(PUBLISHED) == Entry(
        "tcp", ("10.1.0.1", 37134), ("10.1.0.2", 8080), ("10.2.0.9", 80), ("10.1.0.1", 37134),
        431999, "ESTABLISHED", ("SEEN_REPLY", "ASSURED"),
    )  # fmt: skip
    assert one(SILENT).status == ()
    assert one(SILENT).state == ""


def test_what_has_no_ports_is_left_out() -> None:
    assert parse(OTHERS) == []
    assert len(parse("\n".join([OTHERS, PUBLISHED, OPENED]))) == 2


def test_a_flow_is_the_containers_view() -> None:
    published = Flow("tcp", ("10.1.0.1", 37134), ("10.1.0.2", 8080), 80)
    opened = Flow("tcp", ("10.1.0.1", 443), ("10.1.0.2", 4001), 4000)
    assert flow(one(PUBLISHED), "10.2.0.9") == published
    assert flow(one(OPENED), "10.2.0.9") == opened
    assert flow(one(PUBLISHED), "10.2.0.10") is None


def test_translation_is_said_as_such() -> None:
    assert one(PUBLISHED).load_line(0x10000000) == (
        "-A -t 431999 -p tcp -s 10.1.0.1 -d 10.1.0.2 --sport 37134 --dport 8080 "
        "--reply-port-src 80 --reply-port-dst 37134 -m 0x10000000 -u SEEN_REPLY,ASSURED "
        "--state ESTABLISHED -g 10.2.0.9:80 -q 10.1.0.1"
    )
    assert one(OPENED).load_line(1).endswith("-r 10.1.0.1 -n 10.1.0.2:4001")


@given(st.text())
def test_no_text_breaks_it(text: str) -> None:
    for entry in parse(f"tcp 6 1 {text}\n{text}"):
        assert entry.protocol in ("tcp", "udp")


class Table:
    """Stands for the program: a table that can be listed and loaded; `races`: entries that a
    packet makes while it is loaded."""

    def __init__(self, lines: list[str], races: list[str]) -> None:
        self.lines, self.races = lines, races
        self.loaded: list[int] = []

    def run(self, argv: list[str], *, stdin: str = "", **_: object) -> Result:
        command = tuple(argv)
        if "-R" not in argv:
            return Result(command, 0, "\n".join(self.lines), "")
        self.loaded.append(len(stdin.splitlines()))
        if self.races:
            self.lines.append(self.races.pop(0))
            return Result(command, 1, "", "Operation not supported")
        return Result(command, 0, "", "")


@pytest.mark.parametrize(
    ("there", "races", "loaded"),
    [([], [], [2]), ([PUBLISHED], [], [1]), ([PUBLISHED, OPENED], [], []), ([], [OPENED], [2, 1])],
)
def test_only_what_is_missing_is_loaded(
    monkeypatch: pytest.MonkeyPatch, there: list[str], races: list[str], loaded: list[int]
) -> None:
    table = Table(list(there), list(races))
    monkeypatch.setattr(conntrack, "run", table.run)
    conntrack.load([one(PUBLISHED), one(OPENED)], "10.2.0.9", 1)
    assert table.loaded == loaded


def test_where_there_is_nothing_to_load_the_program_is_not_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conntrack, "run", lambda *_, **__: pytest.fail("it is not installed"))
    assert conntrack.load([], "10.2.0.9", 1) == 0


def test_nothing_found_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "conntrack v1.4.6 (conntrack-tools): 0 flow entries have been deleted."
    monkeypatch.setattr(conntrack, "run", lambda argv, **_: Result(tuple(argv), 1, "", said))
    conntrack.forget("10.2.0.9")


def test_what_another_host_says_is_looked_at() -> None:
    entry = one(PUBLISHED)
    assert conntrack.checked(entry) == entry
    for wrong in (
        {"protocol": "icmp"}, {"source": ("10.1.0.1 -F", 1)}, {"target": ("10.1.0.1", 0)},
        {"reply_target": ("::1", 1)}, {"state": "X --mark"}, {"status": ("ASSURED -F",)},
        {"timeout": -1},
    ):  # fmt: skip
        with pytest.raises(StreamCorrupt):
            conntrack.checked(msgspec.structs.replace(entry, **wrong))


def test_only_what_came_by_that_port_to_that_backend_is_deleted() -> None:
    assert conntrack.delete_line("udp", 53, ("10.2.0.9", 5353), 0x20000000) == (
        "-D -p udp --orig-port-dst 53 --reply-src 10.2.0.9 --reply-port-src 5353 "
        "--mark 0x20000000/0x20000000"
    )


def test_loaded_at_once_and_in_turn_when_something_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry, asked = one(PUBLISHED), []

    def run(argv: list[str], stdin: str = "", **_: object) -> Result:
        asked.append((argv[1], stdin))
        return Result(tuple(argv), len(asked) == 1, "", "")

    monkeypatch.setattr(conntrack, "run", run)
    conntrack.load_at_once([entry], "10.2.0.9", 0)
    assert [what for what, _ in asked] == ["-R", "-L", "-L", "-R"]
    assert asked[0][1] == asked[3][1] == entry.load_line(0) + "\n"
