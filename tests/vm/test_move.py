"""cgroup v2 with systemd, processes of another user, two kernels: there and back again."""

from __future__ import annotations

from tests.e2e.test_files import to_and_fro
from tests.e2e.test_ping_pong import COUNTER, FAMILY, ping_pong
from tests.e2e.test_tcp import connect, end, serve
from tests.e2e.world import assert_continuous, numbers
from tests.vm.machine import Machine
from tests.vm.world import VmWorld

LIMITS = ["--memory", "64m", "--pids-limit", "40", "--cpus", "0.5"]


def test_these_machines_are_what_the_lab_is_not(world: VmWorld) -> None:
    """Else all the tests here would show nothing new."""
    config = world.a.sh("cat /boot/config-$(uname -r)").splitlines()
    assert "CONFIG_MEM_SOFT_DIRTY=y" in config
    boots = {host.sh("cat /proc/sys/kernel/random/boot_id") for host in (world.a, world.b)}
    assert len(boots) == 2
    for host in (world.a, world.b):
        info = host.sh("docker info -f '{{.CgroupDriver}} {{.CgroupVersion}} {{.SecurityOptions}}'")
        assert info.startswith("systemd 2 ")
        assert "name=cgroupns" in info
        assert "name=apparmor" in info


def test_the_link_can_be_made_slow(world: VmWorld) -> None:
    """For tests that need a network as between cities."""

    def fastest(to: str) -> float:
        line = world.a.sh(f"ping -c 3 -i 0.2 {to} | tail -1")
        return float(line.partition(" = ")[2].split("/")[0])

    world.pair.link(delay_ms=20)
    try:
        assert min(fastest("b"), fastest(world.client.address)) >= 40
    finally:
        world.pair.link()
    assert "netem" not in world.a.sh("tc qdisc show") + world.client.sh("tc qdisc show")


def test_a_counter_of_another_user(world: VmWorld) -> None:
    """There and back, between two kernels that have been up for different times."""
    output = ping_pong(world, "counter", COUNTER, 2, "--user", "1000:1000")
    counted = numbers(output)
    assert counted[0] == 1
    assert_continuous(counted)
    assert output[-1].startswith("stopped at ")


def test_a_family_keeps_its_limits_and_its_own_cgroup(world: VmWorld) -> None:
    def limits(host: Machine) -> str:
        scope = world.cgroup(host, "family")
        assert scope.endswith(f"/docker-{world.inspect(host, 'family')['Id']}.scope")
        return host.sh(
            f"cd /sys/fs/cgroup{scope} && grep . memory.max pids.max cpu.max cpu.weight &&"
            " systemctl is-active $(basename $PWD)"
        )

    world.start(world.a, "family", FAMILY, "--user", "1000", *LIMITS)
    before = limits(world.a)
    assert f"memory.max:{64 << 20}" in before
    world.wait_for_output(world.a, "family")
    members = len(world.a.sh("docker top family").splitlines())
    summary = world.migrate(world.a, "family", world.b, "--keep")
    assert summary["memory_source"] == "predump", "the kernel's tracking is used unasked"
    assert limits(world.b) == before
    assert world.state(world.a, "family") == "exited"
    world.wait_for_output(world.b, "family")
    # Some of them come and go.
    world.eventually(
        lambda: abs(len(world.b.sh("docker top family").splitlines()) - members) <= 2,
        "it has become another family",
    )
    world.b.run(["docker", "stop", "-t", "30", "family"])
    output = world.logs(world.a, "family") + world.logs(world.b, "family")
    assert not [line for line in output if "BROKEN" in line]
    assert_continuous(numbers(output))
    world.assert_clean()


def test_open_files(world: VmWorld) -> None:
    to_and_fro(world, 1, sends_image=False)


def test_a_tcp_connection(world: VmWorld) -> None:
    serve(world)
    client = connect(world)
    world.answers_come()
    world.migrate(world.a, "server", world.b)
    world.route(world.b)
    code, report = end(world, client)
    assert code == 0, report
    assert not report["errors"], report
    assert report["gaps"], "it was never away"
    world.assert_clean()


def test_a_freeze_that_takes_too_long_is_undone(world: VmWorld) -> None:
    """The way back out of a frozen cgroup of v2; these machines are never that fast."""
    world.start(world.a, "counter", COUNTER, "--user", "1000")
    world.wait_for_output(world.a, "counter")
    result = world.try_migrate(world.a, "counter", "b", "--max-freeze", "0.5")
    assert result.returncode == 55, f"{result.stdout}\n{result.stderr}"
    world.wait_for_output(world.a, "counter")
    world.assert_clean()
    assert world.state(world.b, "counter") == ""
    assert_continuous(numbers(world.logs(world.a, "counter")))
