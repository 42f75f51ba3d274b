"""migrate.forward_rules: nft takes every ruleset, and each rule is as narrow as it should be."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migrate import forward_rules
from migrate.conntrack import Flow
from migrate.forward_record import Forward, Published
from tests.unit.migrate.forwards import IDENT, TARGETED, TUNNELLED, forward

BOTH = [forward(), TUNNELLED, TARGETED]
FLOWS = [
    Flow("tcp", ("192.0.2.1", 443), ("10.77.0.11", 4001), 4000),
    Flow("udp", ("192.0.2.1", 5), ("10.77.0.11", 27960), 27960),
]
needs_nft = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("nft"), reason="needs root and nft"
)


def nft(text: str) -> str:
    """Load a ruleset into an empty network namespace; gives what nft then lists."""
    done = subprocess.run(
        ["unshare", "-n", "sh", "-c", "nft -f - && nft list ruleset"], input=text,
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_nft
@pytest.mark.parametrize("record", BOTH, ids=["anchor", "tunnelled", "target"])
@pytest.mark.parametrize("adopting", [True, False])
def test_nft_takes_it_twice_and_lets_go_of_it(record: Forward, adopting: bool) -> None:
    text = forward_rules.ruleset(record, FLOWS, adopting=adopting)
    assert f"table ip migrate_{IDENT}" in nft(text + text)
    assert nft(text + forward_rules.removal(record)) == ""
    assert nft(forward_rules.removal(record)) == ""


addresses = st.ip_addresses(v=4).map(str)
ports = st.integers(1, 65535)
protocols = st.sampled_from(["tcp", "udp"])
flows = st.builds(Flow, protocols, st.tuples(addresses, ports), st.tuples(addresses, ports), ports)


@needs_nft
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.lists(flows, max_size=5, unique_by=(lambda f: (f.protocol, f.remote, f.outside),
                                           lambda f: (f.protocol, f.port, f.remote))),
    st.lists(st.builds(Published, protocols, st.just("") | addresses, ports, ports), max_size=3),
)  # fmt: skip
def test_nft_takes_any_flows_and_ports(known: list[Flow], published: list[Published]) -> None:
    record = forward(ports=tuple(published))
    listed = nft(forward_rules.ruleset(record) + forward_rules.more_flows(record, known))
    assert listed.count("timeout") >= 3 * len(known)


@needs_nft
def test_adopting_begins_and_ends() -> None:
    record = forward()
    empty = forward_rules.ruleset(record)
    started = nft(empty + forward_rules.start_adopting(record))
    assert started == nft(forward_rules.ruleset(record, adopting=True))
    assert nft(empty) == nft(
        empty + forward_rules.start_adopting(record) + forward_rules.end_adopting(record)
    )


def test_no_flows_nothing_to_say() -> None:
    assert forward_rules.more_flows(forward(), []) == ""


def test_only_the_other_host_itself_gets_in() -> None:
    for record in (forward(), TARGETED):
        text = forward_rules.ruleset(record)
        (line,) = [line for line in text.splitlines() if line.startswith('iifname "eth0"')]
        assert f"ether saddr {record.path.peer_mac}" in line
    assert f"ip saddr != {TUNNELLED.path.there} drop" in forward_rules.ruleset(TUNNELLED)


@pytest.mark.parametrize("record", BOTH)
def test_rules_among_dockers_name_mark_and_forward(record: Forward) -> None:
    found = forward_rules.filters(record)
    assert len(found) == (3 if record is TARGETED else 2)
    for _, _, rule in found:
        assert "0x10000000/0x10000000" in rule
        assert rule[-3:] == [f"migrate:{IDENT}", "-j", "ACCEPT"]
        assert "10.99.0.10/32" in rule


def test_the_clients_address_is_never_translated() -> None:
    """Only what the container sends, and what its neighbours send, changes its source."""
    for record in BOTH:
        for line in forward_rules.ruleset(record, adopting=True).splitlines():
            if "jump outside_address" in line:
                assert "ip saddr 10.99.0.10" in line
            elif "masquerade" in line and "ip daddr 10.99.0.10" in line:
                assert "10.99.0.0/24" in line or line == "ip daddr 10.99.0.10 masquerade"


def test_each_slot_has_its_own_table_and_priority() -> None:
    words = [forward_rules.rule(forward(slot=slot)) for slot in (0, 1)]
    assert words[0] == ("priority 7700 to 10.99.0.10/32 fwmark 0x10000000/0x10000000 lookup 77000")
    assert words[1].startswith("priority 7701 ")
    assert forward_rules.rule(TARGETED).startswith("priority 7700 from 10.99.0.10/32 ")
    assert forward_rules.way(forward(slot=3)) == [
        "route replace 10.99.0.10/32 via 10.77.0.12 dev eth0 onlink table 77003"
    ]
