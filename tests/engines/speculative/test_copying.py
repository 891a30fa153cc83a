"""Where the end of a text occurred before: the index that prompt lookup and CopySpec share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.speculative.copying import NgramIndex, Which


def by_hand(text: list[int], shortest: int, longest: int, which: Which) -> tuple[int, int] | None:
    """The definition, by scanning."""
    for n in range(min(longest, len(text) - 1), shortest - 1, -1):
        ends = [end for end in range(n, len(text)) if text[end - n : end] == text[-n:]]
        if ends:
            return (ends[-1] if which == "latest" else ends[0]), n
    return None


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=40),
    st.integers(1, 3),
    st.integers(0, 2),
    st.sampled_from(["latest", "first"]),
    st.sets(st.integers(1, 40)),
)
def test_the_index_agrees_with_scanning_while_the_text_grows(
    text: list[int], shortest: int, more: int, which: Which, looks: set[int]
) -> None:
    index = NgramIndex(shortest, shortest + more, which)
    for stop in sorted({min(look, len(text)) for look in looks} | {len(text)}):
        assert index.find(text[:stop]) == by_hand(text[:stop], shortest, shortest + more, which)


@pytest.mark.parametrize("text", [[1, 2, 3, 4], [1]])
def test_nothing_is_found_in_a_text_without_repeats(text: list[int]) -> None:
    assert NgramIndex(1, 3, "latest").find(text) is None
