"""`migrate evacuate` and `migrate return` when what they look at is odd, changes or goes away."""

from __future__ import annotations

import json

from tests.e2e.fleet import COMPOSE, COUNTER, RECORDS, Fleet, fixtures
from tests.e2e.test_crash import kill, wait_for_phase
from tests.e2e.test_memory import SERVER, slow_pages, starve
from tests.e2e.test_memory import start as start_pages
from tests.e2e.world import assert_continuous, eventually, numbers

shared, fleet = fixtures("e2eodd")


def lines_of(report: dict[str, list[dict[str, str]]]) -> dict[str, dict[str, str]]:
    return {line["container"]: line for line in report["containers"]}


def records(fleet: Fleet) -> dict[str, str]:
    """The files of a's records, by name, with when they were written."""
    found = fleet.a.sh(f"stat -c '%n %y' {RECORDS}/*.json", check=False)
    return dict(line.rpartition("/")[2].split(" ", 1) for line in found.splitlines())


def test_memory_that_is_lost_after_commit_is_not_a_success(fleet: Fleet) -> None:
    """It is at the destination, dead: neither gone nor moved, and never tried again."""
    start_pages(fleet, 48, 1)
    b = fleet.lab["b"]
    with slow_pages(b) as cgroup:
        moving = fleet.a.popen(
            ["migrate", "evacuate", "b", "--restore", "lazy", "--max-downtime", "0.01", "--json"]
        )
        assert wait_for_phase(b, "destination", "restored", moving)
        starve(cgroup)
        assert wait_for_phase(fleet.a, "source", "confirmed", moving)
        kill(b, SERVER)
        out, err = moving.communicate(timeout=150)
    assert moving.returncode == 80, (out, err)
    (line,) = json.loads(out)["containers"]
    assert (line["outcome"], line["error"], line["attempts"]) == ("unsure", "MemoryLost", 1), line
    assert "docker start" in line["remedy"]
    assert list(records(fleet)) == ["app.json"]  # where to look for it
    code, report = fleet.come_back()
    assert code == 80, report
    assert lines_of(report)["app"]["error"] == "ContainerNotRunning"
    assert list(records(fleet)) == ["app.json"]


def test_what_is_not_where_its_record_says(fleet: Fleet) -> None:
    """Each is said, and its record goes only when its host has it no more."""
    b = fleet.lab["b"]
    for name in ("removed", "stopped", "taken", "fine", "web", "anew"):
        fleet.start(fleet.a, name, COUNTER)
    code, report = fleet.evacuate("b", "--metrics", "/root/m.prom")
    assert code == 0, report
    b.sh("docker rm -f removed anew; docker stop -t 0 stopped", timeout=60)
    fleet.start(b, "anew", COUNTER)  # another one of that name, which has never been on a
    fleet.start(fleet.a, "taken", COUNTER)
    for name, after in (("web", "stopped"), ("fine", "fine")):  # what it needs; a circle
        path = fleet.a.path(f"{RECORDS}/{name}.json")
        path.write_text(json.dumps(json.loads(path.read_bytes()) | {"after": [after]}))
    fleet.a.write(f"{RECORDS}/evil.json", json.dumps({"name": "../x", "host": "b", "at": 1.0}))

    before, figures = records(fleet), fleet.a.sh("cat /root/m.prom; stat -c %y /root/m.prom")
    code, report = fleet.come_back("--dry-run", "--from", "root@b:22", "--metrics", "/root/m.prom")
    assert code == 80, report
    found = {name: (one["outcome"], one["error"]) for name, one in lines_of(report).items()}
    assert found == {
        "removed": ("stays", "ContainerNotFound"), "stopped": ("stays", "ContainerNotRunning"),
        "taken": ("stays", "NameTaken"), "fine": ("planned", ""), "web": ("stays", "NotAllMoved"),
        "anew": ("stays", "ContainerNotFound"),
    }  # fmt: skip
    assert records(fleet) == before
    assert fleet.a.sh("cat /root/m.prom; stat -c %y /root/m.prom") == figures

    code, report = fleet.come_back("--from", "root@b:22")
    assert code == 80, report
    found = {name: (one["outcome"], one["error"]) for name, one in lines_of(report).items()}
    assert found == {
        "removed": ("failed", "ContainerNotFound"), "stopped": ("failed", "ContainerNotRunning"),
        "taken": ("failed", "NameTaken"), "fine": ("moved", ""), "web": ("failed", ""),
        "anew": ("failed", "ContainerNotFound"),
    }  # fmt: skip
    assert "`stopped`, on which it depends" in lines_of(report)["web"]["why"]
    assert len(report["notes"]) == 2, report
    assert set(records(fleet)) == {"evil.json", "stopped.json", "taken.json", "web.json"}
    assert "migrate fetch anew b" in lines_of(report)["anew"]["remedy"]
    assert fleet.running(b) == {"taken", "web", "anew"}
    assert fleet.running(fleet.a) == {"taken", "fine"}
    code, report = fleet.come_back("web")
    assert code == 0, report
    fleet.assert_nothing_left()


def test_who_has_been_elsewhere_meanwhile_comes_back(fleet: Fleet) -> None:
    """b was emptied in its turn, and filled again: the id that is on record here is gone."""
    fleet.start(fleet.a, "count", COUNTER)
    b, c = fleet.lab["b"], fleet.lab["c"]
    code, report = fleet.evacuate("b")
    assert code == 0, report
    fleet.migrate(b, "count", c)
    fleet.migrate(c, "count", b)
    code, report = fleet.come_back("--dry-run")
    assert code == 0, report
    code, report = fleet.come_back()
    assert code == 0, report
    assert fleet.running(fleet.a) == {"count"}
    fleet.wait_for_output(fleet.a, "count")
    counted = numbers(fleet.logs(fleet.a, "count"))
    assert counted[0] > 1, "it began anew"
    assert_continuous(counted)
    assert records(fleet) == {}
    fleet.assert_nothing_left()


def test_a_run_that_is_ended_while_it_plans(fleet: Fleet) -> None:
    """It does not wait for a host that does not answer, and the metrics have it."""
    fleet.start(fleet.a, "count", COUNTER)
    c = fleet.lab["c"]
    tool, kept = "/usr/local/bin/migrate", "/root/migrate"
    c.sh(f"mv {tool} {kept}")
    c.write(tool, "#!/bin/sh\nexec sleep 98765\n", mode=0o755)
    try:
        words = ["migrate", "evacuate", "c", "--json", "--metrics", "/root/p.prom"]
        planning = fleet.a.popen(words)
        eventually(lambda: c.sh("pgrep -f 'sleep 9876[5]'", check=False) != "", "c is not asked")
        fleet.a.run(["pkill", "-TERM", "-f", "migrate evacuat[e]"])
        out, err = planning.communicate(timeout=60)
    finally:
        c.sh(f"mv {kept} {tool}; pkill -f 'sleep 9876[5]'", check=False)
    assert planning.returncode == 130, (out, err)
    assert json.loads(out)["error"] == "Interrupted"
    assert "migrate_evacuate_last_run_exit_code 130.0" in fleet.a.sh("cat /root/p.prom")
    assert fleet.running(fleet.a) == {"count"}


def test_a_dry_run_makes_no_folder_elsewhere(fleet: Fleet) -> None:
    fleet.start(fleet.a, "count", COUNTER)
    folder = "ls -d /run/migrate"  # as after a boot
    for name in "ac":
        fleet.lab[name].sh("rm -rf /run/migrate")
    code, report = fleet.evacuate("c", "a", "--dry-run")
    assert code == 0, report
    assert [(one["host"], one["why"]) for one in report["left_out"]] == [("a", "it is this host")]
    for name in "ac":
        assert fleet.lab[name].sh(folder, check=False) == ""
    code, report = fleet.evacuate("c")
    assert code == 0, report


def test_containers_that_come_and_go_stop_nothing(fleet: Fleet) -> None:
    """Short-lived ones beside a lasting one: each run is told of those that went, and goes on."""
    fleet.start(fleet.a, "lasting", COUNTER)
    image = fleet.inspect(fleet.a, "lasting")["Config"]["Image"]
    short = f"docker run --rm --network none --entrypoint sleep {image} 0.2"
    churn = fleet.a.popen(
        [
            "sh",
            "-c",
            f"exec >/dev/null 2>&1; rm -f /root/stop; while ! [ -e /root/stop ]; do {short} &"
            f" {short}; done; wait",
        ]
    )
    try:
        eventually(lambda: len(fleet.running(fleet.a)) > 1, "none comes")
        for _ in range(6):
            code, report = fleet.evacuate("b", "--dry-run")
            assert code in (0, 80), report
            assert lines_of(report)["lasting"]["outcome"] == "planned", report
            outcomes = {line["outcome"] for line in report["containers"]}
            assert outcomes <= {"planned", "gone", "stays"}, report
    finally:
        fleet.a.sh("touch /root/stop")
        churn.communicate(timeout=60)


def test_a_second_run_keeps_a_project_together(fleet: Fleet) -> None:
    """And nonsense in the inventory, a reader that goes away, and a name that nobody has."""
    for name in ("db", "web", "cache"):
        fleet.start(
            fleet.a, name, COUNTER, "--label", f"{COMPOSE}project=shop",
            "--label", f"{COMPOSE}service={name}",
        )  # fmt: skip
    for number in range(3):
        fleet.start(fleet.a, f"other{number}", COUNTER)
    fleet.a.write("/root/hosts", "b\n-x\nc:99999\nd\n")
    code, report = fleet.evacuate("c", "--name", "db", "--inventory", "/root/hosts")
    assert code == 0, report
    assert [one["why"].partition(": ")[0] for one in report["left_out"]] == [
        "/root/hosts, line 2", "/root/hosts, line 3",
    ]  # fmt: skip
    place = lines_of(report)["db"]["host"]
    piped = "migrate evacuate b c d --project shop --json | true; echo ${PIPESTATUS[0]}"
    done = fleet.a.run(["bash", "-c", piped], timeout=200)
    assert done.stdout.strip() == "0", done
    assert "Traceback" not in done.stderr + done.stdout
    assert "Broken" not in done.stderr
    assert {fleet.recorded(name) for name in ("db", "web", "cache")} == {place}
    code, report = fleet.evacuate("b", "--name", "wbe", "--metrics", "/root/n.prom")
    assert (code, report["notes"]) == (81, ["no running container matches --name wbe"])
    done = fleet.a.run(
        ["sh", "-c", "umask 077; migrate evacuate --inventory /no/such --metrics /root/n.prom"],
        check=False,
    )  # fmt: skip
    assert done.returncode == 82
    figures = fleet.a.sh("cat /root/n.prom")
    assert "migrate_evacuate_last_run_exit_code 82.0" in figures
    assert "migrate_evacuate_last_run_success 0.0" in figures
    assert fleet.a.sh("stat -c %a /root/n.prom").strip() == "644"
