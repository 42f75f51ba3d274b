"""transport.ssh_auth: against real SSH servers, and an agent, in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.transport.ssh_lab import (
    OTHER_KEY,
    USER_KEY,
    Lab,
)
from tests.unit.transport.sshd import Server, agent
from transport.errors import (
    AuthenticationFailed,
)


def test_a_key_that_is_not_accepted(lab: Lab, server: Server) -> None:
    lab.knows(server.known_hosts_line())
    with pytest.raises(AuthenticationFailed, match=str(lab.key)) as failure:
        lab.connect(f"someone@127.0.0.1:{server.port}")
    assert failure.value.exit_code == 22


def test_no_key_at_all(lab: Lab, server: Server) -> None:
    lab.knows(server.known_hosts_line())
    lab.key.unlink()
    with pytest.raises(AuthenticationFailed, match="no key to show"):
        lab.connect(server)


def test_a_host_that_wants_passwords_is_not_given_one(lab: Lab, server: Server) -> None:
    lab.knows(server.known_hosts_line())
    with pytest.raises(AuthenticationFailed, match="it allows: password"):
        lab.connect(f"password-only@127.0.0.1:{server.port}")


def test_a_key_with_a_passphrase_is_named(lab: Lab, server: Server) -> None:
    lab.knows(server.known_hosts_line())
    lab.key.unlink()
    USER_KEY.write_private_key_file(str(lab.key), password="secret")
    with pytest.raises(AuthenticationFailed, match=f"passphrase needed.*{lab.key}"):
        lab.connect(server)


def test_the_second_file_is_tried_after_the_first(lab: Lab, server: Server) -> None:
    wrong = lab.path / "wrong"
    OTHER_KEY.write_private_key_file(str(wrong))
    lab.configure(f"IdentityFile {lab.path}/missing\nIdentityFile {wrong}")
    lab.knows(server.known_hosts_line())
    lab.connect(server).close()


def test_default_key_files(lab: Lab, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (lab.path / ".ssh").mkdir()
    lab.key.rename(lab.path / ".ssh" / "id_ecdsa")
    lab.config.write_text(f"User me\nUserKnownHostsFile {lab.known_hosts}")
    lab.knows(server.known_hosts_line())
    lab.connect(server).close()


def test_a_key_of_the_agent(lab: Lab, server: Server) -> None:
    lab.key.unlink()
    lab.configure(f"IdentityAgent {lab.path}/agent")
    lab.knows(server.known_hosts_line())
    with agent(lab.path / "agent", [OTHER_KEY, USER_KEY]) as signed:
        lab.connect(server).close()
    assert signed == [OTHER_KEY.asbytes(), USER_KEY.asbytes()]


def test_of_the_agent_only_the_keys_that_are_named(lab: Lab, server: Server) -> None:
    lab.key.unlink()
    lab.configure(f"IdentityAgent {lab.path}/agent\nIdentitiesOnly yes")
    lab.knows(server.known_hosts_line())
    with agent(lab.path / "agent", [OTHER_KEY, USER_KEY]) as signed:
        with pytest.raises(AuthenticationFailed, match="no key to show"):
            lab.connect(server)
        public = f"{USER_KEY.get_name()} {USER_KEY.get_base64()} me\n"
        Path(f"{lab.key}.pub").write_text(public)
        lab.connect(server).close()
    assert signed == [USER_KEY.asbytes()]
