"""Slices: bands known by counting, and figures of a slice worked by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.tables import IdIndex
from recsys.list_rows import ListRows, pairs_of
from recsys.slices import (
    Slice,
    by_history_length,
    by_item_popularity,
    by_text_length,
    head_items,
    judge_slices,
    terciles,
)

ITEMS = IdIndex(["a", "b", "c", "d"])
TRUTH = pairs_of([["a"], ["b", "d"], ["c"], ["d"]], ITEMS)
"""The pairs in order: (0, a), (1, b), (1, d), (2, c), (3, d)."""


def test_terciles_part_six_values_into_pairs():
    assert terciles(np.array([5, 1, 3, 2, 6, 4])) == [("low", 1, 2), ("middle", 3, 4), ("high", 5, 6)]


def test_equal_values_are_never_parted():
    assert terciles(np.array([7, 7, 7])) == [("all alike", 7, 7)]
    assert terciles(np.array([1, 1, 1, 1, 9])) == [("low", 1, 1), ("high", 9, 9)]
    assert terciles(np.array([], np.int64)) == []


@given(st.lists(st.integers(0, 20), min_size=1, max_size=30))
def test_every_value_is_in_exactly_one_band(values):
    bands = terciles(np.array(values))
    assert all(sum(low <= value <= high for _, low, high in bands) == 1 for value in values)


def test_the_head_is_the_fewest_items_with_half_of_the_events():
    assert head_items(np.array([1, 5, 0, 4])).tolist() == [False, True, False, False]
    assert head_items(np.array([3, 3, 3, 3])).tolist() == [True, True, False, False]
    assert not head_items(np.zeros(3, np.int64)).any()


def test_users_with_two_events_are_new_and_the_others_are_banded():
    slices = by_history_length(TRUTH, np.array([2, 3, 30, 300]))
    assert {one.name: one.part.tolist() for one in slices} == {
        "new: up to 2 events": [True, False, False, False, False],
        "light: 3 events": [False, True, True, False, False],
        "medium: 30 events": [False, False, False, True, False],
        "heavy: 300 events": [False, False, False, False, True],
    }


def test_items_are_new_tail_or_head_and_empty_slices_are_left_out():
    slices = by_item_popularity(TRUTH, np.array([0, 9, 1, 1]))
    assert {one.name: np.flatnonzero(one.part).tolist() for one in slices} == {
        "new: no event": [0],
        "tail: 2 items": [2, 3, 4],
        "head: 1 items": [1],
    }
    assert [one.name for one in by_item_popularity(TRUTH, np.zeros(4, np.int64))] == ["new: no event"]


def test_text_bands_are_those_of_the_right_items():
    slices = by_text_length(TRUTH, np.array([0, 10, 1000, 0]))
    assert {one.name: np.flatnonzero(one.part).tolist() for one in slices} == {
        "text-poor: 0 characters": [0, 2, 4],
        "middling: 10 characters": [1],
        "text-rich: 1,000 characters": [3],
    }
    assert by_text_length(TRUTH, np.zeros(4, np.int64)) == []


def test_a_query_is_judged_by_its_right_items_of_the_slice_alone():
    """Of the right b and d, the slice holds d, which stands second: 1 / log2(3). Query 3 finds d at once."""
    lists = {
        "product": ListRows.of([["a"], ["b", "d"], [], ["d"]], ITEMS, 2),
        "other": ListRows.of([[], ["d", "b"], [], []], ITEMS, 2),
    }
    part = np.array([False, False, True, False, True])
    product, other = judge_slices([Slice("item", "d", part)], lists, TRUTH, 4, ["u", "v", "w", "x"], seed=0)
    assert (product["by"], product["slice"], product["queries"], product["users"]) == ("item", "d", 2, 2)
    assert product["ndcg@10"] == pytest.approx((1 / math.log2(3) + 1) / 2)
    assert other["ndcg@10"] == pytest.approx(1 / 2)
    assert (product["recall@10"], other["recall@50"]) == (1.0, 0.5)
    assert other["product_ahead"] == pytest.approx(product["ndcg@10"] - other["ndcg@10"])
    assert product["low"] <= product["ndcg@10"] <= product["high"]


def test_the_interval_resamples_users_not_queries():
    """A single user with all of the queries is one observation: his mean has no spread to measure."""
    truth = pairs_of([["a"]] * 4, ITEMS)
    lists = {"product": ListRows.of([["a"], [], ["a"], []], ITEMS, 1)}
    one_slice = [Slice("all", "all", np.ones(4, bool))]
    alone = judge_slices(one_slice, lists, truth, 4, ["u"] * 4, seed=0)[0]
    apart = judge_slices(one_slice, lists, truth, 4, ["u", "v", "w", "x"], seed=0)[0]
    assert alone["low"] == alone["high"] == 0.5
    assert apart["low"] < 0.5 < apart["high"]
