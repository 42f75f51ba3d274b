"""Pre-copy where the kernel knows which pages were written to (soft-dirty): CRIU's pre-dumps."""

from __future__ import annotations

import json
from typing import Any

from tests.vm.machine import Machine
from tests.vm.world import VmWorld

MIB = 12
PAGES = MIB << 8
MEMORY = ["python3", "/workloads/memory.py", str(MIB), "0.1", "plain"]


def said(world: VmWorld, host: Machine) -> list[dict[str, Any]]:
    return [json.loads(line) for line in world.logs(host, "memory") if line.startswith("{")]


def check(world: VmWorld, host: Machine) -> dict[str, Any]:
    """Have the program compare all of its memory with what must be there."""
    before = len(said(world, host))
    host.run(["docker", "kill", "-s", "USR1", "memory"])

    def answers() -> list[dict[str, Any]]:
        return [line for line in said(world, host)[before:] if "checked" in line]

    world.eventually(lambda: bool(answers()), "it does not compare its memory")
    return answers()[0]


def test_rounds(world: VmWorld) -> None:
    """There with pre-dumps, back by scanning: later rounds read what was written to, or all there
    is; every page arrives both ways."""
    # Else a page here and there in 16 GiB takes 2 MiB each; one of the areas asks for huge pages.
    for host in (world.a, world.b):
        host.sh("echo madvise > /sys/kernel/mm/transparent_hugepage/enabled")
    world.start(world.a, "memory", MEMORY)
    world.eventually(lambda: len(said(world, world.a)) > 3, "the workload does not start")
    nonce = said(world, world.a)[0]["nonce"]
    for source, here, there in (("predump", world.a, world.b), ("scan", world.b, world.a)):
        summary = world.migrate(
            here, "memory", there, "--memory-source", source, "--max-rounds", "3"
        )
        assert summary["memory_source"] == source
        rounds, final = summary["rounds"], summary["final"]
        assert len(rounds) > 1, summary
        assert rounds[0]["scanned"] > PAGES
        for one in [*rounds[1:], final]:
            # A child that was forked just then is a copy of it all, and not what is meant here.
            copies = one["duplicate"] + one["zero"]
            read = one["scanned"] - copies
            if source == "predump":
                assert read < rounds[0]["scanned"] / 4, summary
            else:
                assert read > PAGES, summary
            assert one["dirty"] - copies < rounds[0]["dirty"] / 4, summary
        found = check(world, there)
        assert not found["broken"], found
        assert found["checked"] > PAGES
    assert {line["nonce"] for line in said(world, world.a) if "nonce" in line} == {nonce}
    world.assert_clean()
