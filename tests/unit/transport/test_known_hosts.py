"""transport.known_hosts: whose key is it."""

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport import known_hosts
from transport.known_hosts import Verdict

OLD, NEW = b"\0\0\0\x0bssh-ed25519old", b"\0\0\0\x0bssh-ed25519new"


def b64(blob: bytes) -> str:
    return base64.b64encode(blob).decode()


def load(tmp_path: Path, *lines: str) -> known_hosts.KnownHosts:
    path = tmp_path / "known_hosts"
    path.write_text("".join(line + "\n" for line in lines))
    return known_hosts.load([path, tmp_path / "missing"])


@pytest.mark.parametrize(
    ("hosts", "name", "verdict"),
    [
        ("web", "web", Verdict.KNOWN),
        ("web", "web2", Verdict.UNKNOWN),
        ("a,web,b", "web", Verdict.KNOWN),
        ("*.example.org", "web.example.org", Verdict.KNOWN),
        ("*.example.org,!web.example.org", "web.example.org", Verdict.UNKNOWN),
        ("we?", "web", Verdict.KNOWN),
        ("WEB", "web", Verdict.KNOWN),
        ("[web]:2222", "[web]:2222", Verdict.KNOWN),
        ("[web]:2222", "web", Verdict.UNKNOWN),
        ("[web]:2222", "w:2222", Verdict.UNKNOWN),  # the brackets are no set of characters
        ("|1|only-a-salt", "web", Verdict.UNKNOWN),
        ("|1|no base64|no base64", "web", Verdict.UNKNOWN),
    ],
)
def test_hosts_of_a_line(tmp_path: Path, hosts: str, name: str, verdict: Verdict) -> None:
    known = load(tmp_path, f"{hosts} ssh-ed25519 {b64(OLD)} a comment")
    assert known.judge(name, OLD)[0] is verdict


def test_a_hashed_name_as_openssh_writes_it(tmp_path: Path) -> None:
    hashed = "|1|F1E1KeoE/eEWhi10WpGv4OdiO6Y=|3988QV0VE8wmZL7suNrYQLITLCg="
    known = load(tmp_path, f"{hashed} ssh-ed25519 {b64(OLD)}")
    assert known.judge("192.168.1.61", OLD)[0] is Verdict.KNOWN
    assert known.judge("192.168.1.62", OLD)[0] is Verdict.UNKNOWN


def test_another_key_is_changed_also_when_it_is_of_another_type(tmp_path: Path) -> None:
    known = load(tmp_path, f"web ssh-rsa {b64(OLD)}", f"web ssh-ed25519 {b64(b'x')}")
    verdict, entry = known.judge("web", NEW)
    assert verdict is Verdict.CHANGED
    assert entry is not None
    assert entry.path == tmp_path / "known_hosts"
    assert known.key_types("web") == ["ssh-rsa", "ssh-ed25519"]


def test_one_of_several_keys_will_do(tmp_path: Path) -> None:
    known = load(tmp_path, f"web ssh-ed25519 {b64(OLD)}", f"web ssh-ed25519 {b64(NEW)}")
    assert known.judge("web", NEW)[0] is Verdict.KNOWN


def test_a_revoked_key_is_refused_wherever_else_it_stands(tmp_path: Path) -> None:
    known = load(tmp_path, f"web ssh-ed25519 {b64(OLD)}", f"@revoked * ssh-ed25519 {b64(OLD)}")
    assert known.judge("web", OLD)[0] is Verdict.REVOKED
    assert known.judge("web", NEW)[0] is Verdict.CHANGED


def test_a_certificate_authority_is_no_host_key(tmp_path: Path) -> None:
    known = load(tmp_path, f"@cert-authority * ssh-ed25519 {b64(OLD)}")
    assert known.judge("web", OLD)[0] is Verdict.UNKNOWN
    assert known.key_types("web") == []


def test_lines_that_cannot_be_read_are_passed_over(tmp_path: Path) -> None:
    bad = ["", "# web", "web", "web ssh-ed25519", "web ssh-ed25519 !!!", "@odd web ssh-rsa AAAA"]
    known = load(tmp_path, *bad, f"web ssh-ed25519 {b64(OLD)}")
    assert len(known.entries) == 1


@given(st.text())
def test_no_line_breaks_the_reader(line: str) -> None:
    entry = known_hosts.parse_line(line)
    assert entry is None or entry.matches("web") in (True, False)


@pytest.mark.parametrize("hashed", [False, True])
def test_a_key_that_was_added_is_found(tmp_path: Path, hashed: bool) -> None:
    path = tmp_path / ".ssh" / "known_hosts"
    known_hosts.add(path, "[web]:22022", "ssh-ed25519", OLD, hashed=hashed)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert ("web" in path.read_text()) is not hashed
    assert known_hosts.load([path]).judge("[web]:22022", OLD)[0] is Verdict.KNOWN


def test_adding_completes_a_last_line_that_was_left_open(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(f"old ssh-ed25519 {b64(OLD)}")
    known_hosts.add(path, "new", "ssh-ed25519", NEW)
    known = known_hosts.load([path])
    assert known.judge("old", OLD)[0] is Verdict.KNOWN
    assert known.judge("new", NEW)[0] is Verdict.KNOWN


def test_fingerprint_is_that_of_ssh_keygen() -> None:
    # GitHub's, as it publishes it.
    key = "AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
    blob = base64.b64decode(key)
    assert known_hosts.fingerprint(blob) == "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU"


def test_the_name_to_look_up() -> None:
    assert known_hosts.lookup_name("Web", 22) == "web"
    assert known_hosts.lookup_name("::1", 2222) == "[::1]:2222"
