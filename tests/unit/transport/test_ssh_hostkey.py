"""transport.ssh_hostkey: against real SSH servers in this process."""

from __future__ import annotations

import pytest

from tests.unit.transport.ssh_lab import (
    HOST_KEY,
    OTHER_KEY,
    RSA_HOST_KEY,
    Lab,
)
from tests.unit.transport.sshd import Server
from transport.errors import (
    HostKeyRejected,
)
from transport.known_hosts import fingerprint
from transport.ssh import connect
from transport.target import Target


def test_a_known_host_is_let_through(lab: Lab, server: Server) -> None:
    lab.knows(server.known_hosts_line())
    with lab.connect(server) as connection:
        assert connection.run("echo out; echo err >&2; exit 3", 5) == (3, "out\n", "err\n")
        assert connection.address == "127.0.0.1"
        assert connection.description == f"me@127.0.0.1:{server.port}"


def test_an_unknown_host_is_refused_with_what_to_compare(lab: Lab, server: Server) -> None:
    with pytest.raises(HostKeyRejected) as failure:
        lab.connect(server)
    assert "is unknown" in failure.value.message
    assert fingerprint(HOST_KEY.asbytes()) in failure.value.message
    assert str(lab.known_hosts) in failure.value.message
    assert failure.value.exit_code == 21


@pytest.mark.parametrize("how", ["argument", "accept-new", "no"])
def test_an_unknown_host_is_recorded_when_asked_to(lab: Lab, server: Server, how: str) -> None:
    if how != "argument":
        lab.configure(f"StrictHostKeyChecking {how}")
    lab.connect(server, accept=how == "argument").close()
    assert lab.known_hosts.read_text() == server.known_hosts_line()
    lab.configure("StrictHostKeyChecking yes")
    lab.connect(server).close()


@pytest.mark.parametrize("how", ["yes", "accept-new", "no"])
def test_a_changed_key_is_refused_always(lab: Lab, server: Server, how: str) -> None:
    lab.configure(f"StrictHostKeyChecking {how}")
    lab.knows(server.known_hosts_line(OTHER_KEY))
    with pytest.raises(HostKeyRejected) as failure:
        lab.connect(server, accept=True)
    assert "has changed" in failure.value.message
    for key in (HOST_KEY, OTHER_KEY):
        assert fingerprint(key.asbytes()) in failure.value.message
    assert "ssh-keygen -R" in failure.value.remedy
    assert lab.known_hosts.read_text() == server.known_hosts_line(OTHER_KEY)


def test_the_type_that_is_known_is_asked_for(lab: Lab, server: Server) -> None:
    # Left alone, paramiko prefers the ECDSA key, and the host would look like another one.
    lab.knows(server.known_hosts_line(RSA_HOST_KEY))
    lab.connect(server).close()


def test_a_revoked_key_is_refused(lab: Lab, server: Server) -> None:
    lab.knows(server.known_hosts_line(), "@revoked " + server.known_hosts_line(host="*"))
    with pytest.raises(HostKeyRejected, match="revoked"):
        lab.connect(server)


def test_a_key_recorded_without_the_port_will_do(lab: Lab, server: Server) -> None:
    lab.knows(server.known_hosts_line(host="127.0.0.1"))
    lab.connect(server).close()


def test_an_alias_for_the_key(lab: Lab, server: Server) -> None:
    lab.configure("HostKeyAlias cluster")
    lab.knows(server.known_hosts_line(host="cluster"))
    lab.connect(server).close()


def test_known_hosts_of_the_caller_stand_for_those_of_the_config(lab: Lab, server: Server) -> None:
    lab.knows(server.known_hosts_line(OTHER_KEY))
    mine = lab.path / "mine"
    mine.write_text(server.known_hosts_line())
    target = Target("127.0.0.1", None, server.port)
    connect(target, config_path=lab.config, known_hosts=[mine]).close()
