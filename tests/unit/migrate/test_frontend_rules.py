"""migrate.frontend_rules: nft takes it, a switch changes one element, all or nothing."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migrate import frontend_rules
from migrate.conntrack import Entry
from migrate.frontend_record import Frontend
from tests.unit.migrate.test_forward_rules import needs_nft, nft

GAME = Frontend("game", "udp", 27960, ("10.0.0.1", 27999))
WEB = Frontend("web", "tcp", 80, ("10.0.0.1", 8080), (("10.0.0.9", 8080),))
MOVED = GAME.led_to(("10.0.0.2", 27999))
PLAYER = Entry(
    "udp", ("192.0.2.1", 5000), ("10.0.0.3", 27960), ("10.0.0.2", 27999), ("10.0.0.3", 1024)
)


def flat(text: str) -> str:
    return re.sub(r"\s+", " ", text)


@needs_nft
def test_nft_takes_it_twice_and_lets_go_of_it() -> None:
    text = frontend_rules.ruleset([GAME, WEB])
    listed = flat(nft(text + text))
    assert "udp . 27960 : 10.0.0.1 . 27999" in listed
    assert "tcp . 10.0.0.9 . 8080" in listed  # where it led once: nothing of it may be answered
    assert nft(text + frontend_rules.removal()) == ""
    assert nft(frontend_rules.removal()) == ""


@needs_nft
def test_a_switch_is_one_element_and_the_neighbour_stays() -> None:
    text = frontend_rules.ruleset([GAME, WEB])
    switch = frontend_rules.lead([MOVED], [PLAYER])
    listed = flat(nft(text + switch + switch))
    assert "udp . 27960 : 10.0.0.2 . 27999" in listed
    assert "27960 : 10.0.0.1" not in listed
    assert "tcp . 80 : 10.0.0.1 . 8080" in listed
    assert re.search(
        r"192\.0\.2\.1 \. 5000 \. 10\.0\.0\.2 \. 27999 .*: 10\.0\.0\.3 \. 1024", listed
    )
    # What is kept is for this switch alone.
    assert "192.0.2.1" not in nft(text + switch + frontend_rules.lead([GAME], []))


@needs_nft
def test_a_switch_of_what_is_not_there_changes_nothing() -> None:
    text = frontend_rules.ruleset([WEB])
    with pytest.raises(AssertionError, match="No such file"):
        nft(text + frontend_rules.lead([WEB.led_to(("10.0.0.7", 1)), MOVED], []))


addresses = st.ip_addresses(v=4).map(str)
ports = st.integers(1, 65535)
ends = st.tuples(addresses, ports)
protocols = st.sampled_from(["tcp", "udp"])
frontends = st.lists(
    st.builds(Frontend, st.just("x"), protocols, ports, ends, st.tuples(ends, ends)),
    min_size=1, max_size=4, unique_by=lambda one: (one.protocol, one.port),
)  # fmt: skip
entries = st.lists(
    st.builds(Entry, protocols, ends, ends, ends, ends), max_size=4,
    unique_by=lambda entry: entry.source,
)  # fmt: skip


@needs_nft
@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(frontends, entries, ends)
def test_nft_takes_whatever_there_may_be(
    there: list[Frontend], known: list[Entry], to: tuple[str, int]
) -> None:
    after = there[0].led_to(to)
    listed = flat(nft(frontend_rules.ruleset(there) + frontend_rules.lead([after], known)))
    assert f"{after.port} : {to[0]} . {to[1]}" in listed
