"""How alike lists are: numbers worked by hand, and the laws of a similarity."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.list_overlap import overlap_at_k, rank_biased_overlap

LISTS = st.lists(st.sampled_from("abcdefghij"), unique=True, max_size=8)


def test_overlap_counts_the_common_items_of_the_head() -> None:
    assert overlap_at_k("abcd", "bacx", 3) == 1.0
    assert overlap_at_k("abcd", "axyd", 2) == 0.5
    assert overlap_at_k("ab", "abcd", 4) == 0.5
    assert overlap_at_k("", "", 10) == 1.0


def test_rank_biased_overlap_of_two_swapped_items() -> None:
    """Agreement 0 at depth 1 and 1 at depth 2, which is taken to go on: .1 * (0 + .9) + .81."""
    assert rank_biased_overlap("ab", "ba", 0.9) == pytest.approx(0.9)


def test_rank_biased_overlap_cares_most_for_the_head() -> None:
    """Depths 1, 2, 3 agree by 1, 1, 2/3, or 0, 1/2, 2/3: .1 * (1 + .9 + .54) + .486, or .1 * (0 + .45 + .54) + .486."""
    assert rank_biased_overlap("abc", "abx", 0.9) == pytest.approx(0.73)
    assert rank_biased_overlap("abc", "xbc", 0.9) == pytest.approx(0.585)


def test_a_longer_list_is_read_as_far_as_the_shorter_one_goes() -> None:
    assert rank_biased_overlap("ab", "abcd") == pytest.approx(1.0)
    assert rank_biased_overlap("", "abcd") == 0.0


@given(LISTS, LISTS)
def test_both_are_symmetric_shares(a: list[str], b: list[str]) -> None:
    for likeness in (rank_biased_overlap, lambda x, y: overlap_at_k(x, y, 5)):
        assert likeness(a, b) == pytest.approx(likeness(b, a))
        assert -1e-12 <= likeness(a, b) <= 1 + 1e-12
        assert likeness(a, a) == pytest.approx(1.0)
    if a and b and not set(a) & set(b):
        assert rank_biased_overlap(a, b) == 0.0
