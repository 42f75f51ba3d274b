"""`migrate evacuate` and `migrate return`: four hosts, twelve containers, and what may happen."""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.fleet import COMPOSE, COUNTER, RECORDS, Fleet, Server, fixtures
from tests.e2e.test_crash import wait_for_phase
from tests.e2e.world import assert_continuous, eventually, numbers

SHOP = (COMPOSE + "project=shop",)
SERVERS = (
    Server("tcp1", 1),
    Server("tcp2", 2),
    Server("udp1", 3, "udp"),
    Server("udp2", 4, "udp"),
    Server("db", 5, labels=(*SHOP, COMPOSE + "service=db")),
)


shared, fleet = fixtures("e2eevac")


def labelled(*labels: str) -> list[str]:
    return [word for label in labels for word in ("--label", label)]


def start_others(fleet: Fleet) -> list[str]:
    """Seven more containers beside the servers; gives the names of those that count."""
    for name in ("count1", "count2", "count3"):
        fleet.start(fleet.a, name, COUNTER, "--restart", "always")
    needs = COMPOSE + "depends_on=db:service_started:false"
    fleet.start(fleet.a, "web", COUNTER, *labelled(*SHOP, COMPOSE + "service=web", needs))
    fleet.start(fleet.a, "threads", ["python3", "/workloads/threads.py"])
    fleet.start(fleet.a, "files", ["python3", "/workloads/files.py", "/root/work", "--no-locks"])
    fleet.start(fleet.a, "port", ["python3", "/workloads/tcp_server.py", "80"], "-p", "8080:80")
    return ["count1", "count2", "count3", "web"]


def following_logs(fleet: Fleet, names: list[str]) -> dict[str, list[int]]:
    return {name: numbers(fleet.logs(fleet.a, name)) for name in names}


def test_there_and_back(fleet: Fleet) -> None:
    """One run empties a, the next has nothing to do, and all comes back: nobody noticed."""
    fleet.run_servers(SERVERS)
    counters = start_others(fleet)
    names = {*fleet.running(fleet.a)}
    assert len(names) == 12
    for server in SERVERS:
        fleet.talk(server)
    nonces = {"threads": nonce(fleet, "a", "threads"), "files": nonce(fleet, "a", "files")}
    with fleet.following(SERVERS):
        code, report = fleet.evacuate("b", "c", "d", "--metrics", "/root/m.prom")
        assert code == 0, report
        assert fleet.running(fleet.a) == set()
        places = {line["container"]: line["host"] for line in report["containers"]}
        assert fleet.everywhere() == {name: [host] for name, host in places.items()}
        assert set(places) == names
        assert set(places.values()) == {"b", "c", "d"}, report
        assert places["db"] == places["web"]
        order = [record["name"] for record in by_arrival(fleet)]
        assert order.index("db") < order.index("web")

        code, again = fleet.evacuate("b", "c", "d")
        assert (code, again["containers"], again["error"]) == (81, [], "NothingToDo")

        before = {name: numbers(fleet.logs(fleet.lab[places[name]], name)) for name in counters}
        code, report = fleet.come_back("--metrics", "/root/m.prom")
        assert code == 0, report
        assert fleet.everywhere() == {name: ["a"] for name in names}
        assert fleet.a.sh(f"ls {RECORDS}") == ""
        code, again = fleet.come_back()
        assert code == 81
    for name, seen in fleet.reports().items():
        assert seen["code"] == 0, (name, seen)
        assert len(seen["gaps"]) >= 2, (name, seen)  # it was away
        if name.startswith("udp"):
            assert seen["in_order"], seen
    for name in counters:
        fleet.wait_for_output(fleet.a, name)
        assert_continuous(before[name])
        assert_continuous(numbers(fleet.logs(fleet.a, name)))
        assert numbers(fleet.logs(fleet.a, name))[0] > before[name][-1]
    for name, known in nonces.items():
        assert nonce(fleet, "a", name) == known
        assert not last(fleet, "a", name)["broken"]
    policy = fleet.inspect(fleet.a, "count1")["HostConfig"]["RestartPolicy"]["Name"]
    assert policy == "always"
    metrics = fleet.a.sh("cat /root/m.prom")
    assert 'migrate_evacuate_containers_total{outcome="moved"} 12.0' in metrics
    assert 'migrate_return_containers_total{outcome="moved"} 12.0' in metrics
    fleet.assert_nothing_left()


def by_arrival(fleet: Fleet) -> list[dict[str, object]]:
    folder = fleet.a.path(RECORDS)
    found: list[dict[str, object]] = [json.loads(p.read_bytes()) for p in folder.glob("*.json")]
    return sorted(found, key=lambda record: str(record["at"]))


def last(fleet: Fleet, host: str, name: str) -> dict[str, object]:
    """The last line that the container has printed, which is JSON."""
    eventually(lambda: bool(fleet.logs(fleet.lab[host], name)), f"{name} prints nothing")
    found: dict[str, object] = json.loads(fleet.logs(fleet.lab[host], name)[-1])
    return found


def nonce(fleet: Fleet, host: str, name: str) -> object:
    return last(fleet, host, name)["nonce"]


def test_a_dry_run_says_everything_and_does_nothing(fleet: Fleet) -> None:
    fleet.start(fleet.a, "count", COUNTER, "-p", "8080:80")
    fleet.start(fleet.a, "bound", COUNTER, "-v", "/etc:/there")
    fleet.start(fleet.b, "taken", COUNTER, "-p", "8080:80")
    listener = fleet.lab["c"].popen(["python3", "-m", "http.server", "8080"])
    try:
        eventually(lambda: ":8080" in fleet.lab["c"].sh("ss -ltn"), "it does not listen")
        code, report = fleet.evacuate("b", "c", "d", "a", "nosuch", "--dry-run")
    finally:
        fleet.lab["c"].run(["pkill", "-f", "http.serve[r]"], check=False)
        listener.communicate()
    assert code == 80
    lines = {line["container"]: line for line in report["containers"]}
    assert lines["count"]["outcome"] == "planned"
    assert lines["count"]["host"] == "d"
    assert "in use by the container `taken`" in lines["count"]["refused"]["b"]
    assert "in use by a program" in lines["count"]["refused"]["c"]
    assert lines["bound"]["outcome"] == "stays"
    assert lines["bound"]["error"] == "Unsupported"
    left_out = {one["host"]: one["why"] for one in report["left_out"]}
    assert left_out["a"] == "it is this host"
    assert "nosuch" in left_out["nosuch"]
    assert fleet.running(fleet.a) == {"count", "bound"}
    fleet.assert_nothing_left()


def test_too_little_memory_anywhere_for_one(fleet: Fleet) -> None:
    """It stays and runs; the rest moves."""
    big = ["python3", "-c", "x = b'x' * (200 << 20); import time; time.sleep(1e6)"]
    fleet.start(fleet.a, "big", big)
    fleet.start(fleet.a, "count", COUNTER)
    eventually(lambda: rss(fleet, "big") > 200 << 20, "it does not grow")
    for name in "bcd":  # the hosts share this machine's memory: let them think otherwise
        host = fleet.lab[name]
        host.sh("sed 's/^MemAvailable:.*/MemAvailable: 300000 kB/' /proc/meminfo > /run/meminfo;"
                "mount --bind /run/meminfo /proc/meminfo")  # fmt: skip
    try:
        code, report = fleet.evacuate("b", "c", "d")
    finally:
        for name in "bcd":
            fleet.lab[name].sh("umount /proc/meminfo")
    assert code == 80, report
    lines = {line["container"]: line for line in report["containers"]}
    assert lines["count"]["outcome"] == "moved"
    assert lines["big"]["outcome"] == "stays"
    assert "MiB of memory" in lines["big"]["why"]
    assert fleet.running(fleet.a) == {"big"}
    fleet.assert_nothing_left()


def rss(fleet: Fleet, name: str) -> int:
    pid = fleet.inspect(fleet.a, name)["State"]["Pid"]
    text = fleet.a.sh(f"grep VmRSS /proc/{pid}/status", check=False)
    return int(text.split()[1]) << 10 if text else 0


def test_two_runs_at_once(fleet: Fleet) -> None:
    for number in range(6):
        fleet.start(fleet.a, f"count{number}", COUNTER)
    # One after the other, so that it still runs when the others come.
    first = fleet.a.popen(["migrate", "evacuate", "b", "c", "--json", "--parallel", "1"])
    assert wait_for_phase(fleet.a, "source", "header", first)
    second = fleet.a.run(["migrate", "evacuate", "b", "c"], check=False)
    assert second.returncode == 83, second
    assert "another" in second.stderr
    third = fleet.a.run(["migrate", "return", "--json"], check=False)
    assert third.returncode == 83
    assert json.loads(third.stdout)["error"] == "OtherRun"
    assert first.poll() is None, "they have waited for it"
    out, err = first.communicate(timeout=300)
    assert first.returncode == 0, (out, err)
    assert fleet.running(fleet.a) == set()


def test_a_destination_dies_half_way(fleet: Fleet) -> None:
    """Its containers in flight end on a living host; those that had arrived are lost with it."""
    for number in range(6):
        fleet.start(fleet.a, f"count{number}", COUNTER)
    moving = fleet.a.popen(["migrate", "evacuate", "b", "c", "--json", "--parallel", "3"])
    b = fleet.lab["b"]
    assert wait_for_phase(b, "destination", "prepare", moving)
    arrived = {f"count{number}" for number in range(6) if fleet.recorded(f"count{number}") == "b"}
    fleet.lab.switch.cut("b")  # as a power cut looks from outside
    b.stop()
    out, err = moving.communicate(timeout=300)
    fleet.lab.switch.heal("b", b.netns)
    report = json.loads(out)
    lines = {line["container"]: line for line in report["containers"]}
    living = fleet.everywhere()
    for name, line in lines.items():
        if line["outcome"] == "moved" and line["host"] == "b":
            assert name not in living  # it had arrived before
        elif line["outcome"] == "moved":
            assert living[name] == ["c"], report
        elif line["outcome"] == "unsure":  # at the moment of commit: nobody can know
            assert moving.returncode == 80
        else:
            assert living[name] == ["a"], report
    assert not any(line["outcome"] == "failed" for line in lines.values()), report
    assert any(line["attempts"] > 1 and line["host"] == "c" for line in lines.values()), (
        report, arrived, err,
    )  # fmt: skip


def test_interrupted(fleet: Fleet) -> None:
    """SIGTERM: what has not reached commit runs on here, what has runs there."""
    for number in range(6):
        fleet.start(fleet.a, f"count{number}", COUNTER)
    moving = fleet.a.popen(["migrate", "evacuate", "b", "c", "--json", "--parallel", "2"])
    assert wait_for_phase(fleet.a, "source", "pre-copy", moving)
    fleet.a.run(["pkill", "-TERM", "-f", "migrate evacuat[e]"])
    out, err = moving.communicate(timeout=200)
    report = json.loads(out)
    assert moving.returncode == 130, (out, err)
    lines = {line["container"]: line for line in report["containers"]}
    assert {line["outcome"] for line in lines.values()} <= {"moved", "left"}
    for name, hosts in fleet.everywhere().items():
        expected = lines[name]["host"] if lines[name]["outcome"] == "moved" else "a"
        assert hosts == [expected], (name, report)
    assert len(fleet.everywhere()) == 6
    for name in lines:
        host = fleet.lab[fleet.everywhere()[name][0]]
        fleet.wait_for_output(host, name)
    fleet.assert_nothing_left()


def test_killed_and_brought_back(fleet: Fleet) -> None:
    """SIGKILL of the run itself: its migrations go on, hold the lock, and `return` finds all."""
    for number in range(3):
        fleet.start(fleet.a, f"count{number}", COUNTER)
    moving = fleet.a.popen(["migrate", "evacuate", "b", "c", "--parallel", "3",
                            "--hook", "commit=sleep 3"])  # fmt: skip
    assert wait_for_phase(fleet.a, "source", "pre-copy", moving)
    fleet.a.run(["pkill", "-KILL", "-f", "migrate evacuat[e]"])
    moving.communicate(timeout=60)
    assert fleet.a.run(["migrate", "return"], check=False).returncode == 83
    eventually(lambda: not fleet.a.sh("pgrep -f 'migrate.cli mov[e]'", check=False),
               "the migrations do not end", timeout=150)  # fmt: skip
    assert set(fleet.everywhere()) == {"count0", "count1", "count2"}
    code, report = fleet.come_back()
    assert code in (0, 81), report
    assert fleet.everywhere() == {f"count{number}": ["a"] for number in range(3)}
    fleet.assert_nothing_left()


CRON = Path(__file__).resolve().parents[2] / "contrib" / "migrate.cron"
METRICS = "/var/lib/prometheus/node-exporter"


def test_cron_runs_it_and_says_nothing(fleet: Fleet) -> None:
    """A real cron and the shipped file, but for the hour; what it would mail is kept."""
    fleet.start(fleet.a, "count", COUNTER)
    a = fleet.a
    a.write("/etc/migrate/hosts", "b  # the big one\nc\nnosuch\n")
    a.write("/usr/sbin/sendmail", "#!/bin/sh\ncat >> /root/mail\n", mode=0o755)
    a.sh(f"mkdir -p {METRICS}; rm -f /root/mail")
    shipped = CRON.read_text().replace("0 3 * * 0", "* * * * *").replace("0 5 * * 0", "0 5 1 1 *")
    a.write("/etc/cron.d/migrate", shipped)
    cron = a.popen(["cron", "-f"])
    try:
        eventually(lambda: not fleet.running(a), "cron does not empty the host",
                   lambda: a.sh("cat /root/mail", check=False), timeout=200)  # fmt: skip
        eventually(lambda: "migrate_evacuate" in a.sh(f"cat {METRICS}/migrate.prom", check=False),
                   "there are no metrics")  # fmt: skip
    finally:
        a.sh("rm /etc/cron.d/migrate")
        a.run(["pkill", "-x", "cron"], check=False)
        cron.communicate(timeout=100)
    assert a.sh("cat /root/mail", check=False) == ""
    assert set(fleet.everywhere()) == {"count"}


def test_one_way_trust(fleet: Fleet) -> None:
    """The other hosts can log in nowhere: `return` works over a's own connections."""
    fleet.start(fleet.a, "count", COUNTER)
    for name in "bc":
        fleet.lab[name].sh("mv /root/.ssh/id_ed25519 /root/.ssh/known_hosts /root/")
    try:
        code, _ = fleet.evacuate("b", "c")
        assert code == 0
        before = [line for name in "bc" for line in logs_of(fleet, name)]
        code, report = fleet.come_back()
    finally:
        for name in "bc":
            fleet.lab[name].sh("mv /root/id_ed25519 /root/known_hosts /root/.ssh/")
    assert code == 0, report
    fleet.wait_for_output(fleet.a, "count")
    assert numbers(fleet.logs(fleet.a, "count"))[0] > numbers(before)[-1]
    fleet.assert_nothing_left()


def logs_of(fleet: Fleet, host: str) -> list[str]:
    return fleet.logs(fleet.lab[host], "count") if fleet.running(fleet.lab[host]) else []


def test_a_shared_limit_is_kept(fleet: Fleet) -> None:
    """Two at once with 4 MiB a second between them: 24 MiB that cannot be compressed take 6 s."""
    write = "dd if=/dev/urandom of=/root/x bs=1M count=12; exec sh /workloads/counter.sh"
    for name in ("one", "two"):
        fleet.start(fleet.a, name, ["sh", "-c", write])
        fleet.wait_for_output(fleet.a, name)
    code, report = fleet.evacuate("b", "c", "--parallel", "2", "--bwlimit", "4M")
    assert code == 0, report
    assert all(line["phases"]["pre-copy"] > 3.0 for line in report["containers"]), report
    assert report["seconds"] > 6.0
    # The freeze is not held up by it.
    for line in report["containers"]:
        assert line["downtime"] < line["phases"]["pre-copy"], report
