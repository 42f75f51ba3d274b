"""migrate.frontend_record: what is read is checked, and who has to be led elsewhere is found."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.errors import FrontendUnfit
from migrate.forward_record import Published
from migrate.frontend_record import (
    REMEMBERED,
    Backend,
    Frontend,
    Lead,
    checked,
    checked_leads,
    leads,
    parse_backend,
    parse_port,
    show,
)
from migrate.network_facts import NetworkFacts
from tests.unit.migrate.forwards import FAR, A, B
from transport.errors import BadTarget, StreamCorrupt

GAME = Frontend("game", "udp", 27960, ("10.77.0.11", 27999))
WEB = Frontend("web", "tcp", 80, ("10.77.0.11", 8080))
PORTS = (Published("udp", "", 27999, 27960), Published("tcp", "", 8081, 80))
ports = st.integers(1, 65535)
protocols = st.sampled_from(["tcp", "udp"])


@given(ports, protocols)
def test_a_port_is_read(port: int, protocol: str) -> None:
    assert parse_port(f"{port}/{protocol}") == (protocol, port)
    assert parse_port(str(port)) == ("tcp", port)


@given(st.ip_addresses(v=4).map(str) | st.just("host-b.example"), ports, ports)
def test_a_backend_is_read(host: str, port: int, default: int) -> None:
    assert parse_backend(f"{host}:{port}", default) == (host, port)
    assert parse_backend(host, default) == (host, default)


@given(st.text(max_size=20))
def test_any_other_text_is_refused(text: str) -> None:
    """What is accepted can be put into a rule."""
    with suppress(BadTarget):
        protocol, port = parse_port(text)
        assert protocol in ("tcp", "udp")
        assert 0 < port < 65536
    with suppress(BadTarget):
        host, port = parse_backend(text, 80)
        assert host.isascii()
        assert not set(host) & set(" {}:;\"'\n")
        assert 0 < port < 65536


@pytest.mark.parametrize(
    "text", ["0", "65536", "", "80/", "80/sctp", "/udp", "1/udp/tcp", "٣", "-1"]
)
def test_no_ports(text: str) -> None:
    with pytest.raises(BadTarget):
        parse_port(text)


@pytest.mark.parametrize("text", ["", ":80", "a:0", "a:99999", "a:b", "::1", "a b", "a:80:90", "é"])
def test_no_backends(text: str) -> None:
    with pytest.raises(BadTarget):
        parse_backend(text, 80)


@pytest.mark.parametrize(
    "wrong",
    [
        Frontend("a b", "udp", 1, ("10.0.0.1", 1)), Frontend("", "udp", 1, ("10.0.0.1", 1)),
        Frontend("../x", "udp", 1, ("10.0.0.1", 1)), Frontend("a" * 64, "udp", 1, ("10.0.0.1", 1)),
        Frontend("a", "sctp", 1, ("10.0.0.1", 1)), Frontend("a", "udp", 0, ("10.0.0.1", 1)),
        Frontend("a", "udp", 1, ("10.0.0.1", 0)), Frontend("a", "udp", 1, ("hostb", 1)),
        Frontend("a", "udp", 1, ("127.0.0.1", 1)), Frontend("a", "udp", 1, ("0.0.0.0", 1)),
        Frontend("a", "udp", 1, ("224.0.0.1", 1)),
        Frontend("a", "udp", 1, ("10.0.0.1", 1), (("x; flush ruleset", 1),)),
    ],
)  # fmt: skip
def test_what_is_no_front_end(wrong: Frontend) -> None:
    with pytest.raises(BadTarget):
        checked(wrong)


def test_a_lead_of_another_host_is_hostile() -> None:
    fine = Lead("game", ("10.0.0.1", 1), ("10.0.0.2", 1))
    assert checked_leads([fine]) == (fine,)
    with pytest.raises(StreamCorrupt):
        checked_leads([fine, Lead("game", ("10.0.0.1", 1), ("10.0.0.2 }", 1))])


backends = st.tuples(st.ip_addresses(v=4).map(str), ports)


@given(st.lists(backends, max_size=20))
def test_where_it_led_is_remembered_but_not_for_ever(wanderings: list[Backend]) -> None:
    one = GAME
    for backend in wanderings:
        one = one.led_to(backend)
    assert one.backend == (wanderings[-1] if wanderings else GAME.backend)
    assert len(one.before) <= REMEMBERED
    assert one.backend not in one.before
    assert len(set(one.before)) == len(one.before)
    last_but_one = next(
        (b for b in reversed([GAME.backend, *wanderings]) if b != one.backend), None
    )
    assert (one.before[0] if one.before else None) == last_but_one


def test_only_the_containers_own_ports_are_led_elsewhere() -> None:
    other = Frontend("other", "udp", 1, ("10.77.0.12", 27999))
    assert leads([GAME, WEB, other], PORTS, A, B, "") == (
        Lead("game", ("10.77.0.11", 27999), ("10.77.0.12", 27999)),
    )


def test_a_port_bound_to_another_address_is_not_behind_it() -> None:
    bound = (Published("udp", "192.0.2.1", 27999, 27960),)
    with pytest.raises(FrontendUnfit, match=r"it has game to 10\.77\.0\.11:27999"):
        leads([GAME], bound, A, B, "")


def test_the_new_address_is_in_the_old_ones_subnet_else_what_we_reach() -> None:
    assert leads([GAME], PORTS, A, B, "192.0.2.7")[0].new == ("10.77.0.12", 27999)
    assert leads([GAME], PORTS, A, FAR, "192.0.2.7")[0].new == ("192.0.2.7", 27999)
    with pytest.raises(FrontendUnfit, match="not known"):
        leads([GAME], PORTS, A, FAR, "")


def test_nothing_leads_here() -> None:
    with pytest.raises(FrontendUnfit, match="none at all"):
        leads([], PORTS, A, B, "")
    with pytest.raises(FrontendUnfit):
        leads([GAME], PORTS, NetworkFacts(), B, "10.77.0.12")


def test_back_is_the_other_way() -> None:
    lead = Lead("game", ("10.0.0.1", 1), ("10.0.0.2", 1))
    assert lead.back().back() == lead
    assert show(lead.back().new) == "10.0.0.1:1"
