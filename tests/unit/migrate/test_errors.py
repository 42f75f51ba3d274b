"""migrate.errors: what is called a full disk, and what is not."""

from __future__ import annotations

import errno

import pytest

from migrate.errors import CommandFailed, NoSpace, PlacementFailed, RestoreFailed, full_disk


@pytest.mark.parametrize(
    "problem",
    [
        OSError(errno.ENOSPC, "No space left on device", "/x"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        PlacementFailed("could not load the image: write /layer.tar: no space left on device"),
        RestoreFailed("CRIU cannot restore: Can't write: No space left on device"),
        CommandFailed("nft failed (1): No space left on device"),
        RuntimeError("[Errno 28] No space left on device"),
    ],
)
def test_want_of_space_is_one_failure_wherever_it_shows(problem: Exception) -> None:
    found = full_disk(problem, "the destination")
    assert isinstance(found, NoSpace)
    assert found.exit_code == 41
    assert found.message.startswith("the destination has no disk space left: ")
    assert found.remedy


@pytest.mark.parametrize(
    "problem",
    [
        OSError(errno.EIO, "Input/output error"),
        PlacementFailed("the port 80 is in use"),
        NoSpace("the checkpoint is larger than the space set aside for it here"),
        ValueError("28"),
    ],
)
def test_other_failures_stay_what_they_are(problem: Exception) -> None:
    assert full_disk(problem, "the destination") is None
