"""transport.ssh_config: ssh_config files, as far as they concern us."""

from pathlib import Path

import pytest

from transport.errors import BadTarget
from transport.ssh_config import HostConfig, resolve
from transport.target import Target, parse_target


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SSH_AUTH_SOCK", "/agent")
    monkeypatch.setenv("LOGNAME", "me")
    return tmp_path


def look_up(home: Path, text: str, target: str = "web") -> HostConfig:
    path = home / "config"
    path.write_text(text)
    return resolve(parse_target(target), path)


def test_an_empty_config_gives_the_defaults_of_ssh(home: Path) -> None:
    config = look_up(home, "")
    assert (config.host, config.port, config.user) == ("web", 22, "me")
    assert home / ".ssh" / "id_ed25519" in config.identities
    assert config.known_hosts[0] == home / ".ssh" / "known_hosts"
    assert Path("/etc/ssh/ssh_known_hosts") in config.known_hosts
    assert config.agent == "/agent"
    assert not config.accept_new
    assert config.jumps == ()


def test_an_alias_is_resolved_and_the_command_line_goes_first(home: Path) -> None:
    text = """
        Host web
          HostName web.example.org
          User deploy
          Port 2222
          IdentityFile ~/.ssh/one
          IdentityFile "%d/two"
          IdentitiesOnly yes
          IdentityAgent none
          HostKeyAlias cluster
          UserKnownHostsFile ~/a /b
          GlobalKnownHostsFile none
          HashKnownHosts yes
    """
    config = look_up(home, text)
    assert (config.host, config.port, config.user) == ("web.example.org", 2222, "deploy")
    assert config.identities == (home / ".ssh" / "one", home / "two")
    assert config.identities_only
    assert config.agent is None
    assert config.host_key_alias == "cluster"
    assert config.known_hosts == (home / "a", Path("/b"))
    assert config.hash_known_hosts
    config = look_up(home, text, "root@web:22")
    assert (config.host, config.port, config.user) == ("web.example.org", 22, "root")


@pytest.mark.parametrize(
    ("value", "accept"),
    [("yes", False), ("ask", False), ("accept-new", True), ("no", True), ("off", True)],
)
def test_strict_host_key_checking(home: Path, value: str, accept: bool) -> None:
    assert look_up(home, f"StrictHostKeyChecking {value}").accept_new is accept


def test_jumps_in_order_and_not_for_the_jump_host_itself(home: Path) -> None:
    text = "Host *\n  ProxyJump a:2200, root@b\n"
    assert look_up(home, text).jumps == (Target("a", None, 2200), Target("b", "root"))
    assert look_up(home, text, "b").jumps == ()
    assert look_up(home, text + "  HostName b\n").jumps == ()
    # The same machine on another port is another host, such as a VM behind a forwarded port.
    text = "Host vm\n  HostName 127.0.0.1\n  Port 2222\nHost *\n  ProxyJump 127.0.0.1\n"
    assert look_up(home, text, "vm").jumps == (Target("127.0.0.1"),)
    assert look_up(home, text, "127.0.0.1").jumps == ()


def test_of_two_proxies_the_first_one_wins(home: Path) -> None:
    config = look_up(home, "ProxyCommand nc %h %p\nProxyJump a", "web:2200")
    assert (config.proxy_command, config.jumps) == ("nc web 2200", ())
    config = look_up(home, "ProxyJump a\nProxyCommand nc %h %p")
    assert (config.proxy_command, config.jumps) == (None, (Target("a"),))
    for none in ("ProxyCommand none\nProxyJump a", "ProxyJump none\nProxyCommand nc"):
        config = look_up(home, none)
        assert (config.proxy_command, config.jumps) == (None, ())


def test_agent_sockets(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER", "/other")
    assert look_up(home, "IdentityAgent $OTHER").agent == "/other"
    assert look_up(home, "IdentityAgent SSH_AUTH_SOCK").agent == "/agent"
    assert look_up(home, "IdentityAgent ~/sock").agent == str(home / "sock")
    monkeypatch.delenv("SSH_AUTH_SOCK")
    assert look_up(home, "").agent is None


def test_includes_are_followed_and_end_with_their_file(home: Path) -> None:
    (home / ".ssh").mkdir()
    (home / ".ssh" / "10.conf").write_text("Host other\n  User wrong\n")
    (home / ".ssh" / "20.conf").write_text("Host web\n  Port 2222\n")
    config = look_up(home, "Include *.conf missing.conf\nUser right\n")
    assert (config.user, config.port) == ("right", 2222)


def test_an_include_inside_a_host_block_belongs_to_it(home: Path) -> None:
    (home / "inner").write_text("User inner\n")
    text = f"Host other\n  Include {home}/inner\n  Port 2222\nHost *\n  User outer\n"
    assert look_up(home, text).user == "outer"
    config = look_up(home, text, "other")
    assert (config.user, config.port) == ("inner", 2222)


def test_includes_in_a_circle_come_to_an_end(home: Path) -> None:
    with pytest.raises(BadTarget, match="nested"):
        look_up(home, f"Include {home}/config")


@pytest.mark.parametrize(
    "text",
    ["Port x", "Port 0", "ProxyJump -x", "Host 'open", "Oneword", "UserKnownHostsFile 'open"],
)
def test_a_config_that_makes_no_sense_is_a_failure_to_act_on(home: Path, text: str) -> None:
    with pytest.raises(BadTarget):
        look_up(home, text)


def test_default_files_may_be_missing_but_a_named_one_may_not(home: Path) -> None:
    assert resolve(Target("web")).host == "web"
    (home / ".ssh").mkdir()
    (home / ".ssh" / "config").write_text("Host web\n  HostName from-home\n")
    assert resolve(Target("web")).host == "from-home"
    with pytest.raises(BadTarget, match="cannot be read"):
        resolve(Target("web"), home / "missing")
