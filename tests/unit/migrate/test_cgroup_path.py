"""migrate.cgroup_path: the same path that runc comes to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.cgroup_path import own_unified, unified_path

WORD = st.text("abcdefghijklmnopqrstuvwxyz0123456789_", min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("given_path", "path"),
    [
        ("system.slice:docker:12ab", "/system.slice/docker-12ab.scope"),
        ("a-b-c.slice:docker:12ab", "/a.slice/a-b.slice/a-b-c.slice/docker-12ab.scope"),
        ("-.slice:docker:12ab", "/docker-12ab.scope"),
        ("my.slice:docker:inner.slice", "/my.slice/inner.slice"),
        ("", None),
        ("/docker/12ab", None),
        ("system.slice:docker", None),
    ],
)
def test_with_systemd(given_path: str, path: str | None) -> None:
    assert unified_path(given_path, systemd=True, own="/elsewhere") == path


@pytest.mark.parametrize(
    ("given_path", "path"),
    [
        ("/docker/12ab", "/docker/12ab"),
        ("mine/12ab", "/system.slice/mine/12ab"),
        ("", None),
    ],
)
def test_without_systemd(given_path: str, path: str | None) -> None:
    own = "/system.slice/containerd.service"
    assert unified_path(given_path, systemd=False, own=own) == path


@given(st.lists(WORD, min_size=1, max_size=5), WORD)
def test_every_slice_lies_in_the_one_that_its_name_begins_with(words: list[str], name: str) -> None:
    found = unified_path(f"{'-'.join(words)}.slice:docker:{name}", systemd=True, own="/")
    assert found
    *slices, unit = found.strip("/").split("/")
    assert unit == f"docker-{name}.scope"
    assert slices == [f"{'-'.join(words[: n + 1])}.slice" for n in range(len(words))]


def test_the_own_cgroup_is_the_line_without_controllers() -> None:
    text = "1:name=systemd:/init\n0::/system.slice/docker.service\n"
    assert own_unified(text) == "/system.slice/docker.service"
    assert own_unified("4:freezer:/docker/x\n") == ""
