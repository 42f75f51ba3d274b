"""`migrate setup` and `migrate check` on a real dockerd, here and over SSH."""

from __future__ import annotations

import json

from tests.e2e.world import World, assert_continuous, numbers

CONFIG = "/etc/docker/daemon.json"
COUNTER = ["sh", "/workloads/counter.sh"]


def runtimes(world: World) -> list[str]:
    found: dict[str, object] = json.loads(
        world.b.sh("docker info --format '{{json .Runtimes}}' 2>/dev/null")
    )
    return sorted(found)


def test_setup_keeps_what_is_there_and_stops_no_container(world: World) -> None:
    world.b.run(["migrate", "setup", "--undo"])
    assert "migrate" not in runtimes(world)
    world.b.write(CONFIG, '{\n    "log-level": "info",\n    "labels": ["rack=7"]\n}\n')
    world.start(world.b, "app", COUNTER)
    first = world.b.run(["migrate", "setup"])
    assert "registered" in first.stdout
    assert "migrate" in runtimes(world)
    written = world.b.path(CONFIG).read_text()
    config = json.loads(written)
    assert config["log-level"] == "info"
    assert config["labels"] == ["rack=7"]
    assert '    "log-level"' in written, "the indentation is the user's"
    second = world.b.run(["migrate", "setup"])
    assert "nothing to do" in second.stdout
    assert world.b.path(CONFIG).read_text() == written
    world.wait_for_output(world.b, "app")
    assert_continuous(numbers(world.logs(world.b, "app")))
    world.b.run(["docker", "rm", "-f", "app"])
    world.b.run(["migrate", "setup", "--undo"])
    assert "migrate" not in runtimes(world)
    assert json.loads(world.b.path(CONFIG).read_text()) == {
        "log-level": "info", "labels": ["rack=7"],
    }  # fmt: skip
    world.b.run(["migrate", "setup"])


def test_setup_over_ssh(world: World) -> None:
    world.b.run(["migrate", "setup", "--undo"])
    done = world.a.run(["migrate", "setup", "b"])
    assert "registered" in done.stdout
    assert "migrate" in runtimes(world)
    assert "nothing to do" in world.a.run(["migrate", "setup", "b"]).stdout


def test_broken_configuration_is_refused(world: World) -> None:
    world.b.run(["migrate", "setup", "--undo"])
    before = world.b.path(CONFIG).read_text() if world.b.path(CONFIG).exists() else None
    world.b.write(CONFIG, '{"log-level": "info",}\n')
    try:
        result = world.b.run(["migrate", "setup"], check=False)
        assert result.returncode == 34
        assert "line 1" in result.stderr
        assert world.b.path(CONFIG).read_text() == '{"log-level": "info",}\n'
    finally:
        if before is None:
            world.b.path(CONFIG).unlink()
        else:
            world.b.write(CONFIG, before)
        world.b.run(["migrate", "setup"])


def test_undo_refuses_while_containers_need_the_runtime(world: World) -> None:
    world.have_image(world.b)
    world.b.run(["docker", "create", "--name", "needs", "--runtime", "migrate", "workloads", "sh"])
    result = world.b.run(["migrate", "setup", "--undo"], check=False)
    assert result.returncode == 13
    assert "needs" in result.stderr
    assert "migrate" in runtimes(world)


def test_check_names_what_is_missing(world: World) -> None:
    good = world.a.run(["migrate", "check", "b"])
    assert "CRIU dumps and restores" in good.stdout
    world.b.sh("mv /usr/sbin/nft /usr/sbin/nft.away")
    try:
        bad = world.a.run(["migrate", "check", "b"], check=False)
        assert bad.returncode == 30
        assert "nft" in bad.stderr
    finally:
        world.b.sh("mv /usr/sbin/nft.away /usr/sbin/nft")


def test_aliases_jumps_and_sudo(world: World) -> None:
    """`HOST` is an alias of ~/.ssh/config: through a jump host, as a user with sudo."""
    world.b.sh(
        "id mover >/dev/null 2>&1 || useradd -m mover; mkdir -p /home/mover/.ssh /etc/sudoers.d;"
        " cp /root/.ssh/authorized_keys /home/mover/.ssh/; chown -R mover: /home/mover/.ssh;"
        " echo 'mover ALL=(root) NOPASSWD: /usr/local/bin/migrate agent' > /etc/sudoers.d/mover;"
        " chmod 440 /etc/sudoers.d/mover"
    )
    world.a.write(
        "/root/.ssh/config",
        f"Host there\n HostName {world.b.address}\n User mover\n ProxyJump root@client\n",
    )
    try:
        world.start(world.a, "app", COUNTER)
        moved = world.try_migrate(world.a, "app", "there")
        assert moved.returncode == 0, moved.stderr
        world.wait_for_output(world.b, "app")
        world.b.sh("rm /etc/sudoers.d/mover")
        world.start(world.a, "other", COUNTER)
        refused = world.try_migrate(world.a, "other", "there")
        assert refused.returncode == 30, refused.stdout
        assert "sudo" in json.loads(refused.stdout)["message"]
    finally:
        world.a.path("/root/.ssh/config").unlink()
        world.b.sh("rm -f /etc/sudoers.d/mover; userdel -r mover 2>/dev/null", check=False)
    world.assert_clean()
