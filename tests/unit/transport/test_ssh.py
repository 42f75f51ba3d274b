"""transport.ssh against real SSH servers in this process."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time

import pytest

from tests.unit.transport.ssh_lab import (
    HOST_KEY,
    OTHER_KEY,
    RSA_HOST_KEY,
    USER_KEY,
    Lab,
    refused_port,
)
from tests.unit.transport.sshd import Server
from transport.channel import Channel
from transport.errors import (
    BadTarget,
    HostKeyRejected,
    HostUnreachable,
)
from transport.ssh import Connection, connect
from transport.target import Target


def test_an_alias_of_the_config(lab: Lab, server: Server) -> None:
    lab.configure(f"Host web\n  HostName 127.0.0.1\n  Port {server.port}")
    lab.knows(server.known_hosts_line())
    with lab.connect("web") as connection:
        assert connection.description == f"me@127.0.0.1:{server.port}"


def test_through_a_jump_host(lab: Lab, server: Server) -> None:
    with contextlib.closing(Server([RSA_HOST_KEY], {"jumper": OTHER_KEY})) as bastion:
        other_key = lab.path / "other"
        OTHER_KEY.write_private_key_file(str(other_key))
        lab.configure(
            f"Host web\n  HostName localhost\n  Port {server.port}\n  ProxyJump bastion\n"
            f"Host bastion\n  HostName 127.0.0.1\n  Port {bastion.port}\n  User jumper\n"
            f"  IdentityFile {other_key}"
        )
        web = server.known_hosts_line(host=f"[localhost]:{server.port}")
        lab.knows(web, bastion.known_hosts_line())
        with lab.connect("web") as connection:
            assert connection.run("cat; echo through", 5)[:2] == (0, "through\n")
            assert connection.address is None
        assert bastion.tunnels == [("localhost", server.port)]
        lab.knows(web)
        with pytest.raises(HostKeyRejected, match=str(bastion.port)):
            lab.connect("web")


def test_through_two_jump_hosts_and_one_that_cannot_go_on(lab: Lab, server: Server) -> None:
    with contextlib.closing(Server([HOST_KEY], {"me": USER_KEY})) as second:
        hops = f"127.0.0.1:{server.port},127.0.0.1:{second.port}"
        third, free = Server([HOST_KEY], {"me": USER_KEY}), refused_port()
        lab.configure(f"Host third closed\n  HostName 127.0.0.1\n  ProxyJump {hops}")
        lab.knows(*(s.known_hosts_line() for s in (server, second, third)))
        with contextlib.closing(third), lab.connect(f"third:{third.port}") as connection:
            assert connection.run("true", 5)[0] == 0
            assert connection.address == "127.0.0.1"
        assert server.tunnels == [("127.0.0.1", second.port)]
        assert second.tunnels == [("127.0.0.1", third.port)]
        with pytest.raises(HostUnreachable, match=f"through me@127.0.0.1:{second.port}"):
            lab.connect(f"closed:{free}")


def test_jumps_in_a_circle_come_to_an_end(lab: Lab) -> None:
    lab.configure("Host a\n  ProxyJump b\nHost b\n  ProxyJump a")
    with pytest.raises(BadTarget, match="circle"):
        lab.connect("a")


def test_through_a_command(lab: Lab, server: Server) -> None:
    program = lab.path / "proxy.py"
    program.write_text(PROXY)
    lab.configure(f"ProxyCommand /usr/bin/env python3 {program} %h %p")
    lab.knows(server.known_hosts_line())
    with lab.connect(server) as connection:
        assert connection.run("echo through", 5)[1] == "through\n"


def test_a_command_that_fails_is_heard(lab: Lab) -> None:
    lab.configure("ProxyCommand sh -c 'echo no route today >&2; exit 1'")
    with pytest.raises(HostUnreachable, match="no route today"):
        lab.connect("web")


def test_a_refused_port_and_a_name_that_does_not_exist(lab: Lab) -> None:
    with pytest.raises(HostUnreachable, match="refused") as failure:
        lab.connect(f"127.0.0.1:{refused_port()}")
    assert failure.value.exit_code == 20
    with pytest.raises(HostUnreachable, match="does not resolve"):
        lab.connect("no-such-host.invalid")


def test_something_that_does_not_speak_ssh(lab: Lab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        begun = time.monotonic()
        with pytest.raises(HostUnreachable, match="handshake"):
            connect(Target("127.0.0.1", None, port), config_path=lab.config, timeout=0.5)
        assert time.monotonic() - begun < 30


def test_a_handshake_that_breaks_off_leaves_nothing_behind(lab: Lab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with listener.accept()[0] as sock:
                sock.sendall(b"SSH-2.0-mumble\r\n")
                sock.recv(1)

        threading.Thread(target=answer).start()
        with pytest.raises(HostUnreachable, match="handshake"):
            lab.connect(f"127.0.0.1:{listener.getsockname()[1]}")
    # paramiko's timer would hold up the end of the program until the handshake's timeout.
    deadline = time.monotonic() + 5  # it is given 15 s and more
    while any(isinstance(t, threading.Timer) for t in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_cut_link_is_noticed_and_aes_gcm_is_preferred(connection: Connection) -> None:
    transport = connection._transport
    sock = transport.sock
    assert isinstance(sock, socket.socket)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    offered = transport.get_security_options().ciphers
    gcm = "aes128-gcm@openssh.com"  # paramiko has it since 3.5
    assert transport.local_cipher == (gcm if gcm in offered else "aes128-ctr")


def test_new_keys_on_the_way_lose_nothing(
    lab: Lab, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transport.ssh._REKEY_BYTES", 1_000_000)
    lab.knows(server.known_hosts_line())
    noise = random.Random(7).randbytes(1_000_000)
    with (
        lab.connect(server) as connection,
        connection.open("cat") as process,
        Channel.over_process(process) as channel,
    ):
        for _ in range(6):
            channel.send(1, noise)
            assert channel.receive(10).payload == noise


PROXY = """
import os, socket, sys, threading
peer = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def back():
    while data := peer.recv(65536):
        os.write(1, data)
    os._exit(0)
threading.Thread(target=back, daemon=True).start()
while data := os.read(0, 65536):
    peer.sendall(data)
"""
