"""migrate.given_pages against a plain dict."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from migrate.given_pages import BLOCK, EMPTY, HELD, MISSING, GivenPages

places = st.one_of(st.integers(0, 3 * BLOCK), st.sampled_from([BLOCK - 1, BLOCK, 2 * BLOCK]))
counts = st.one_of(st.integers(1, 20), st.integers(1, 3 * BLOCK), st.just(BLOCK))


@given(
    marks=st.lists(st.tuples(places, counts, st.sampled_from([EMPTY, HELD])), max_size=8),
    asked=st.tuples(places, counts),
)
def test_as_a_dict(marks: list[tuple[int, int, int]], asked: tuple[int, int]) -> None:
    pages, model = GivenPages(), dict[int, int]()
    given_, held = 0, 0
    for page, count, state in marks:
        more_given, more_held = pages.mark(page, count, state)
        given_, held = given_ + more_given, held + more_held
        model.update(dict.fromkeys(range(page, page + count), state))
    assert given_ == len(model)
    assert held == sum(state == HELD for state in model.values())
    assert len(pages) == len({page // BLOCK for page in model})
    page, count = asked
    assert pages.has(page, count) == all(p in model for p in range(page, page + count))
    assert MISSING not in model.values()
