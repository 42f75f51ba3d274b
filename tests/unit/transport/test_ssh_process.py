"""transport.ssh_process: commands on a real SSH server in this process."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import pytest

from tests.unit.transport.sshd import Server
from transport.channel import Channel
from transport.errors import (
    ConnectionLost,
)
from transport.ssh import Connection


def test_much_data_both_ways(connection: Connection) -> None:
    noise = random.Random(5).randbytes(1024 * 1024)
    with connection.open("cat") as process:
        received = bytearray()
        buffer = memoryview(bytearray(256 * 1024))

        def read() -> None:
            while count := process.readinto(buffer, 10):
                received.extend(buffer[:count])

        reader = threading.Thread(target=read)
        reader.start()
        for _ in range(16):
            process.write(noise)
        process.close_stdin()
        reader.join(30)
        assert bytes(received) == noise * 16
        assert process.exit_status(5) == 0


def test_frames_over_a_process_with_heartbeats(connection: Connection) -> None:
    with (
        connection.open("cat") as process,
        Channel.over_process(process, heartbeat=0.05) as channel,
    ):
        channel.send(3, b"a" * 100_000, 9)
        frame = channel.receive(5)
        assert (frame.kind, frame.stream, frame.payload) == (3, 9, b"a" * 100_000)
        assert channel.sent_wire < 1000
        with pytest.raises(TimeoutError):
            channel.receive(0.3)


def test_an_agent_that_dies_is_reported_with_its_last_words(connection: Connection) -> None:
    command = "head -c 10; echo first >&2; echo out of memory >&2; exit 7"
    with connection.open(command) as process, Channel.over_process(process) as channel:
        channel.send(1, b"only the first 10 bytes of this come back")
        with pytest.raises(ConnectionLost, match=r"middle of a frame.* 7, saying: out of mem"):
            channel.receive(5)
        assert process.stderr_tail() == "first\nout of memory\n"


def test_a_link_that_is_cut_while_we_wait(connection: Connection, server: Server) -> None:
    with connection.open("cat") as process, Channel.over_process(process) as channel:
        threading.Timer(0.2, server.drop).start()
        with pytest.raises(ConnectionLost, match=r"connection to me@.* broke") as failure:
            channel.receive(10)
        assert failure.value.exit_code == 51
        with pytest.raises(ConnectionLost):
            channel.send(1, b"x")
    with pytest.raises(ConnectionLost):
        connection.run("true", 5)


def test_a_process_that_does_not_read_holds_up_nothing_but_the_writer(
    connection: Connection, tmp_path: Path
) -> None:
    noise = random.Random(6).randbytes(8_000_000)  # more than the window of the server
    with (
        connection.open(f"until [ -e {tmp_path}/go ]; do sleep 0.05; done; exec cat") as process,
        Channel.over_process(process, heartbeat=0.05) as channel,
    ):
        writer = threading.Thread(target=lambda: channel.send(1, noise))
        writer.start()
        assert connection.run("echo alive", 30)[1] == "alive\n"
        assert writer.is_alive()
        (tmp_path / "go").touch()
        assert channel.receive(20).payload == noise
        writer.join()


def test_the_tail_of_a_long_stderr(connection: Connection) -> None:
    with connection.open("seq 1 200000 >&2; echo done") as process:
        buffer = memoryview(bytearray(100))
        assert process.readinto(buffer, 10) == 5
        assert process.exit_status(5) == 0
        process.wait_stderr(5)
        assert len(process.stderr_tail()) == 64 * 1024
        assert process.stderr_tail().endswith("\n200000\n")


def test_reads_and_exit_codes_can_be_waited_for_in_vain(connection: Connection) -> None:
    with connection.open("cat") as process:
        with pytest.raises(TimeoutError):
            process.readinto(memoryview(bytearray(10)), 0.1)
        assert process.exit_status(0.1) is None


def test_a_command_that_does_not_end_in_time(connection: Connection) -> None:
    begun = time.monotonic()
    for command in ("sleep 100", "yes"):
        with pytest.raises(ConnectionLost, match=f"`{command}` did not end within 0.3 s"):
            connection.run(command, 0.3)
    assert time.monotonic() - begun < 30
