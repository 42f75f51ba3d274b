"""migrate.docker_files: what a container has written into the files that Docker makes for it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.docker_files import BYTES, Written, added, bring, dockers_lines, written
from migrate.runtime import DOCKERS_FILES
from transport.errors import StreamCorrupt

DOCKERS = (
    "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n"
    "ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
)
RESOLVER = "nameserver 127.0.0.11\noptions ndots:0\n"


def container(
    top: Path, hosts: str, resolver: str = RESOLVER, *, address: str = "172.18.0.2", **host: Any
) -> dict[str, Any]:
    """A running container whose files are those; the digest is that of what Docker wrote."""
    top.mkdir(exist_ok=True)
    paths = {name: top / name for name in ("hosts", "resolv.conf", "resolv.conf.hash")}
    paths["hosts"].write_text(hosts, encoding=BYTES)
    paths["resolv.conf"].write_text(resolver, encoding=BYTES)
    digest = hashlib.sha256(RESOLVER.encode()).hexdigest()
    paths["resolv.conf.hash"].write_text(f"sha256:{digest}")
    endpoints = {"app": {"IPAddress": address, "GlobalIPv6Address": "fd00::2"}, "gone": None}
    return {
        "HostsPath": str(paths["hosts"]),
        "ResolvConfPath": str(paths["resolv.conf"]),
        "Config": {"Hostname": "c0ffee", "Domainname": ""},
        "HostConfig": {"ExtraHosts": None} | host,
        "NetworkSettings": {"Networks": endpoints},
    }


NOTHING = Written()


def paths(container: dict[str, Any]) -> dict[str, str]:
    return dict(
        zip(DOCKERS_FILES, (container["HostsPath"], container["ResolvConfPath"]), strict=True)
    )


OWN = "172.18.0.2\tc0ffee\nfd00::2\tc0ffee\n"


def test_what_docker_has_written_is_nothing(tmp_path: Path) -> None:
    extra = "10.0.0.7\tdb\n172.17.0.1\thost.docker.internal\nfd00::7\tsix\n"
    asked = ["db:10.0.0.7", "host.docker.internal:host-gateway", "six:[fd00::7]"]
    one = container(tmp_path, DOCKERS + extra + OWN, ExtraHosts=asked)
    assert written(one) == NOTHING


def test_a_domain_is_dockers_too(tmp_path: Path) -> None:
    one = container(tmp_path, DOCKERS + "172.18.0.2\tc0ffee.lan c0ffee\n")
    one["Config"]["Domainname"] = "lan"
    assert written(one) == NOTHING


def test_lines_that_were_added_are_found(tmp_path: Path) -> None:
    mine = "10.0.0.5 db\n\n# mine\n127.0.0.1 localhost again\n172.18.0.2 alias\n"
    found = written(container(tmp_path, DOCKERS + OWN + mine))
    assert found.hosts == tuple(line for line in mine.split("\n") if line)
    assert found.resolver is None


def test_a_resolver_that_was_changed_goes_as_a_whole(tmp_path: Path) -> None:
    assert written(container(tmp_path, DOCKERS, "nameserver 9.9.9.9\n")).resolver == (
        "nameserver 9.9.9.9\n"
    )
    one = container(tmp_path, DOCKERS, "nameserver 9.9.9.9\n")
    Path(one["ResolvConfPath"] + ".hash").unlink()
    assert written(one) == NOTHING, "nobody knows who has changed it"


def test_files_that_are_not_there_have_nothing() -> None:
    nothing: dict[str, Any] = {"Config": {}, "HostConfig": {}}
    assert written(nothing) == NOTHING
    assert written(nothing | {"HostsPath": "", "ResolvConfPath": None}) == NOTHING


def test_it_is_the_same_at_the_other_host_but_for_addresses(tmp_path: Path) -> None:
    here = container(tmp_path / "a", DOCKERS + OWN + "10.0.0.5 db\n", "nameserver 9.9.9.9\n")
    there = container(tmp_path / "b", DOCKERS + "172.18.0.9\tc0ffee\n", address="172.18.0.9")
    mounted = [Path(there[key]) for key in ("HostsPath", "ResolvConfPath")]
    before = [path.stat().st_ino for path in mounted]
    for _ in range(2):
        bring(paths(there), written(here))
        assert mounted[0].read_text() == DOCKERS + "172.18.0.9\tc0ffee\n10.0.0.5 db\n"
        assert mounted[1].read_text() == "nameserver 9.9.9.9\n"
    assert [path.stat().st_ino for path in mounted] == before
    assert written(there) == written(here), "and so it is after another move"


@given(st.binary(max_size=300))
def test_any_bytes_travel(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    top = tmp_path_factory.mktemp("files")
    here = container(top / "a", DOCKERS + text.decode(BYTES) + "\n")
    there = container(top / "b", DOCKERS)
    what = msgspec.msgpack.decode(msgspec.msgpack.encode(written(here)), type=Written)
    bring(paths(there), what)
    assert set(written(there).hosts) == set(what.hosts)


@pytest.mark.parametrize(
    "what",
    [Written(hosts=("1.2.3.4 a\n5.6.7.8 b",)), Written(hosts=("x" * 70_000,)),
     Written(resolver="x" * 70_000)],
)  # fmt: skip
def test_what_no_container_has_is_not_written(tmp_path: Path, what: Written) -> None:
    one = container(tmp_path, DOCKERS)
    with pytest.raises(StreamCorrupt):
        bring(paths(one), what)
    assert written(one) == NOTHING


def test_a_file_without_an_end_is_not_read(tmp_path: Path) -> None:
    assert written(container(tmp_path, "1.2.3.4 x\n" * 70_000)) == NOTHING


def test_where_docker_makes_no_such_files_nothing_is_written() -> None:
    bring({}, Written(hosts=("1.2.3.4 a",), resolver="nameserver 9.9.9.9"))


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    there = container(tmp_path, DOCKERS)
    target = tmp_path / "passwd"
    target.write_text("root")
    Path(there["HostsPath"]).unlink()
    Path(there["HostsPath"]).symlink_to(target)
    with pytest.raises(OSError):
        bring(paths(there), Written(hosts=("1.2.3.4 a",)))
    assert target.read_text() == "root"


def test_a_line_with_any_address() -> None:
    assert list(added("1.2.3.4 gate\n1.2.3.4 gate two", {"* gate"})) == ["1.2.3.4 gate two"]
    assert "* gate" in dockers_lines(
        {"Config": {}, "HostConfig": {"ExtraHosts": ["gate:host-gateway"]}}
    )
