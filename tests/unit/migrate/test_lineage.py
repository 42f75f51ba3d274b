"""Who is meant by an id that a container had before its last moves."""

from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate import lineage
from migrate.lineage import heir, heirs, note

A, B, C, D = (digit * 64 for digit in "abcd")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "lineage"


def test_who_went_and_came_back_is_known_by_each_former_id(place: Path) -> None:
    note(A, B, place)
    note(B, C, place)
    assert heir(A, [C, D], place) == C
    assert heir(B, [C, D], place) == C
    assert heir(C, [C, D], place) == C
    assert heirs([C, D], place) == {A: C, B: C}


def test_who_did_not_come_back_has_no_heir(place: Path) -> None:
    note(A, B, place)
    assert heir(A, [C], place) == ""
    assert heir(D, [C], place) == ""
    assert heirs([C], place) == {}
    assert heir(A, [C], place.with_name("none")) == ""


def test_one_that_is_there_is_itself(place: Path) -> None:
    """A copy that was kept (--keep), for one."""
    note(A, B, place)
    assert heir(A, [A, B], place) == A
    assert heirs([A, B], place) == {}


@given(
    st.lists(st.tuples(st.sampled_from([A, B, C, D]), st.sampled_from([A, B, C, D]))),
    st.sets(st.sampled_from([A, B, C, D])),
)
def test_each_has_the_first_heir_that_is_there_and_circles_end(
    moves: list[tuple[str, str]], there: set[str]
) -> None:
    found = dict(moves)

    def followed(ident: str) -> str:
        for _ in range(len(found) + 1):
            if ident in there:
                return ident
            ident = found.get(ident, "")
        return ""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lineage, "_read", lambda _: found)
        expected = {one: to for one in found if one not in there and (to := followed(one))}
        assert heirs(there, Path("x")) == expected
        for one in (A, B, C, D):
            assert heir(one, there, Path("x")) == followed(one)


def test_thousands_of_moves_are_looked_up_at_once(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [f"{number:064x}" for number in range(lineage.MOST)]
    place.write_text("".join(f"{old} {new}\n" for old, new in pairwise(ids)))
    read: list[Path] = []
    reads = lineage._read

    def counted(place: Path) -> dict[str, str]:
        read.append(place)
        return reads(place)

    monkeypatch.setattr(lineage, "_read", counted)
    assert len(heirs([ids[-1]], place)) == lineage.MOST - 1
    assert read == [place]


def test_the_latest_move_counts(place: Path) -> None:
    """A failed one was noted by nobody; two of the same id come from a restored backup, say."""
    note(A, B, place)
    note(A, C, place)
    assert heir(A, [B, C], place) == C


@pytest.mark.parametrize("old", ["", "app", A[:12], f"{A}\n{B}", A.upper()])
def test_only_ids_are_noted(place: Path, old: str) -> None:
    note(old, B, place)
    note(B, old, place)
    assert not place.exists()


def test_what_is_no_line_of_ours_is_passed_over(place: Path) -> None:
    place.write_bytes(b"\xff\n" + f"{A} {B}\n\n{B} {C} {D}\n{B}".encode())
    assert heirs([B], place) == {A: B}


def test_it_does_not_grow_for_ever(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineage, "MOST", 10)
    ids = [f"{number:064x}" for number in range(40)]
    for old, new in pairwise(ids):
        note(old, new, place)
    known = heirs([ids[-1]], place)
    assert 5 <= len(known) <= 10
    assert ids[-2] in known
    assert [*place.parent.iterdir()] == [place]


def test_moves_at_the_same_time_are_all_noted(place: Path) -> None:
    threads = [
        threading.Thread(target=note, args=(f"{number:064x}", A, place)) for number in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(heirs([A], place)) == 20


def test_a_folder_that_is_not_there_stops_nothing(tmp_path: Path) -> None:
    note(A, B, tmp_path / "none" / "lineage")
    assert [*tmp_path.iterdir()] == []
