"""Columns of a changed catalogue are what they would be if they were made anew."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from features.tables import IdIndex
from handmade import handmade_catalogue
from recsys.attributes import Attributes, Values
from recsys.filters import parse_filter

VALUES = st.one_of(st.sampled_from(["", "a", "b"]), st.lists(st.sampled_from("abcd"), max_size=3).map(tuple))


def meaning(values: Values) -> list[list[str]]:
    names = {code: name for name, code in values.codes_by_name.items()}
    return [[names[code] for code in own] for own in values.of_items(np.arange(len(values.indptr) - 1))]


@given(st.lists(VALUES, max_size=6), st.dictionaries(st.integers(0, 5), VALUES), st.lists(VALUES, max_size=3))
def test_changed_values_are_those_of_a_new_column(
    column: list[str | tuple[str, ...]], changes: dict[int, str | tuple[str, ...]], new: list[str | tuple[str, ...]]
) -> None:
    changes = {row: value for row, value in changes.items() if row < len(column)}
    after = [changes.get(row, value) for row, value in enumerate(column)] + new
    rows = np.array(sorted([*changes, *range(len(column), len(after))]), np.int64)
    made = Values.of(pd.Series(column, dtype=object)).with_rows([after[row] for row in rows], rows, len(after))
    anew = Values.of(pd.Series(after, dtype=object))
    assert meaning(made) == meaning(anew)
    for name in "abcd":
        np.testing.assert_array_equal(made.has(name), anew.has(name))


def test_filters_of_a_changed_catalogue_see_the_changes() -> None:
    before = handmade_catalogue()
    attributes = Attributes(before)
    attributes.warm_up()
    frame = pd.concat([before.frame, before.frame.iloc[[4]]], ignore_index=True)
    frame["brand"] = ["Äcme", "Novum", *frame["brand"][2:12], "Novum"]
    frame["price"] = frame["price"] + 1
    after = dataclasses.replace(before, items=IdIndex([*before.items.ids, "new"]), frame=frame)
    rows = np.array([1, 12])
    following = attributes.following(after, rows)
    for text in ("brand:Novum", "brand:Äcme", "brand!=Äcme", "category:Toys", "price<4", "tags:b"):
        expression = parse_filter(text)
        np.testing.assert_array_equal(following.mask(expression), Attributes(after).mask(expression))
    assert np.flatnonzero(following.mask(parse_filter("brand:Novum"))).tolist() == [1, 12]
    assert len(attributes.mask(parse_filter("brand:Novum"))) == 12
