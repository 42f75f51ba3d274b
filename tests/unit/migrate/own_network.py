"""Runs a script in a network namespace of its own, with this checkout's modules."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[3]


def run_in_own_network(script: str) -> None:
    """Run Python code there; its failure is the test's, with all that it has printed."""
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", script], capture_output=True, text=True,
        timeout=60, check=False, cwd=REPO,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def needs_root_and(*programs: str) -> pytest.MarkDecorator:
    """Skips a test where it cannot run."""
    return pytest.mark.skipif(
        os.geteuid() != 0 or not all(map(shutil.which, ("unshare", *programs))),
        reason=f"needs root, unshare, {', '.join(programs)}",
    )
