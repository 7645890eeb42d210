"""Lists and right answers as rows: what is where, whatever is missing."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from features.tables import IdIndex
from recsys.list_rows import ABSENT, ListRows, pairs_of

ITEMS = IdIndex(["a", "b", "c", "d"])


def test_short_lists_end_in_absent_and_long_ones_are_cut():
    lists = ListRows.of([["b", "a"], [], ["d", "c", "b", "a"]], ITEMS, 3, [[0.5, 0.25], [], [4, 3, 2, 1]])
    assert lists.item_rows.tolist() == [[1, 0, ABSENT], [ABSENT] * 3, [3, 2, 1]]
    np.testing.assert_equal(lists.scores, [[0.5, 0.25, np.nan], [np.nan] * 3, [4, 3, 2]])


def test_pairs_are_the_distinct_known_items_of_each_query():
    pairs = pairs_of([["c", "a", "c"], [], ["nobody's", "d"]], ITEMS)
    assert pairs.query_rows.tolist() == [0, 0, 2]
    assert pairs.item_rows.tolist() == [0, 2, 3]
    assert len(pairs_of([], ITEMS)) == 0


def test_an_item_that_nobody_knows_is_no_hit():
    """`ABSENT` of query 1 must not be taken for the last item of query 0."""
    lists = ListRows.of([["a"], ["unknown"]], ITEMS, 2)
    found = lists.found(pairs_of([["d"], ["b"]], ITEMS), len(ITEMS))
    assert found.tolist() == [[ABSENT] * 2] * 2


_lists = st.lists(st.lists(st.sampled_from("abcd"), unique=True, max_size=4), min_size=1, max_size=5)


@given(_lists, st.data())
def test_what_is_found_is_what_a_set_would_find(lists, data):
    truths = data.draw(st.lists(st.sets(st.sampled_from("abcd")), min_size=len(lists), max_size=len(lists)))
    truth = pairs_of([sorted(own) for own in truths], ITEMS)
    found = ListRows.of(lists, ITEMS, 4).found(truth, len(ITEMS))
    for query, items in enumerate(lists):
        right = [None if place == ABSENT else ITEMS.ids[truth.item_rows[place]] for place in found[query]]
        assert right == [item if item in truths[query] else None for item in items] + [None] * (4 - len(items))
