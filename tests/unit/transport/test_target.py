"""transport.target: what a person may write as HOST."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.errors import BadTarget
from transport.target import Target, parse_target, same_host

_names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
_hosts = _names | st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(str)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("web1", Target("web1")),
        ("root@web1.example.org:2222", Target("web1.example.org", "root", 2222)),
        ("10.0.0.1:22", Target("10.0.0.1", None, 22)),
        ("[::1]:22", Target("::1", None, 22)),
        ("[::1]", Target("::1")),
        ("::1", Target("::1")),
        ("root@fe80::1%eth0", Target("fe80::1%eth0", "root")),
        ("user@[fe80::1%eth0]", Target("fe80::1%eth0", "user")),
        ("me@corp.org@bastion", Target("bastion", "me@corp.org")),
    ],
)
def test_reads_what_ssh_and_scp_read(text: str, target: Target) -> None:
    assert parse_target(text) == target
    assert parse_target(str(target)) == target


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "@",
            "@web",
            "root@",
            ":22",
            "web:",
            "web:0",
            "web:65536",
            "web:x",
            "web:1 ",
            "web:-1",
        ),
        *("-oProxyCommand=id", "-l@web", "we b", "web\n", "web\x1b[2J", "web;id", "$(id)", "`id`"),
        *("a/b", "a|b", "web\\", "we'b", "we*b", "ro ot@web", "$u@web", "web:٢٢"),
        *("[::1", "[::1]22", "[]", "[]:22", "::g", "1:2:3", "[fe80::1%e;d]", "fe80::1%", "[web:1]"),
    ],
)
def test_refuses_the_rest(text: str) -> None:
    with pytest.raises(BadTarget) as failure:
        parse_target(text)
    assert failure.value.exit_code == 2
    assert "\x1b" not in failure.value.message


@given(_hosts, st.none() | _names, st.none() | st.integers(1, 65535))
def test_a_target_is_read_back_from_its_text(host: str, user: str | None, port: int | None) -> None:
    target = Target(host, user, port)
    assert parse_target(str(target)) == target


@given(st.text())
def test_whatever_is_accepted_is_harmless(text: str) -> None:
    try:
        target = parse_target(text)
    except BadTarget:
        return
    for part in (target.host, target.user or "x"):
        assert not part.startswith("-")
        assert not set(part) & set(" \t\n\r\0;|&<>(){}$`\"'\\*?!#~")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("b", "b", True), ("b", "root@b", True), ("x@b", "y@b:22", True), ("b", "b:2222", False),
        ("b:2222", "root@b:2222", True), ("b", "c", False), ("B", "b", True),
        ("::1", "[::1]:22", True), ("[::1]:23", "::1", False), ("-x", "-x", True),
        ("-x", "b", False), ("b", "-x", False),
    ],
)  # fmt: skip
def test_which_are_one_host(one: str, other: str, same: bool) -> None:
    assert same_host(one, other) == same
    assert same_host(other, one) == same
