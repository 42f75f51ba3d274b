"""migrate.network_hook: which hook is known. (What is said: test_restore_supervisor.py.)"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.network_hook import NetworkHook, network_hook, without_network_hook

ARGS = ["libnetwork-setkey", "-exec-root=/var/run/docker", "c0ffee", "ab12"]


def config(*args: str, **more: Any) -> dict[str, Any]:
    """As moby 26.1.5 writes it (daemon/oci_linux.go, withLibnetwork)."""
    hooks = {"prestart": [{"path": "/proc/7/exe", "args": list(args)}], **more}
    return {"root": {"path": "r"}, "hooks": hooks}


def test_dockers_hook_is_known() -> None:
    where = "/var/run/docker/libnetwork/ab12.sock"
    assert network_hook(config(*ARGS)) == NetworkHook(where, "c0ffee")
    rest = without_network_hook(config(*ARGS, poststop=[{"path": "/p"}]))
    assert rest == {"root": {"path": "r"}, "hooks": {"poststop": [{"path": "/p"}]}}


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"hooks": None},
        {"hooks": {"prestart": []}},
        config(),
        config("nvidia-hook", *ARGS[1:]),
        config(*ARGS, "more"),
        config(*ARGS[:3], "../../evil"),
        config(ARGS[0], "-exec-root=relative", *ARGS[2:]),
        config(*ARGS, createRuntime=[{"path": "/may/need/the/network"}]),
        {"hooks": {"prestart": config(*ARGS)["hooks"]["prestart"] * 2}},
        {"hooks": {"createRuntime": config(*ARGS)["hooks"]["prestart"]}},
    ],
)
def test_another_is_left_alone(other: dict[str, Any]) -> None:
    assert network_hook(other) is None


@given(st.lists(st.text(), max_size=5))
def test_no_arguments_break_it(args: list[str]) -> None:
    found = network_hook(config(*args))
    assert found is None or args[0] == "libnetwork-setkey"
