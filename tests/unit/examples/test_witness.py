"""The demo goes on without the real client where it cannot be had."""

from __future__ import annotations

import subprocess

import pytest

from examples.quake import witness


@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError("the tree player could not be built, see LOG:\nE: no such package"),
        subprocess.TimeoutExpired("mmdebstrap", 900),
        FileNotFoundError("mmdebstrap"),
    ],
)
def test_why_it_cannot_be_had_is_one_line(
    failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tree(flavour: str) -> None:
        assert flavour == "player"
        raise failure

    monkeypatch.setattr(witness, "tree", tree)
    why = witness.obtain()
    assert why
    assert "\n" not in why


def test_when_it_is_there_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(witness, "tree", lambda flavour: flavour)
    assert witness.obtain() is None
