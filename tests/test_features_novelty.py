"""Features of what is new: attributes as tf-idf vectors, numbers against the usual, untouched items in a history."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from features.attributes import attribute_vectors
from features.histories import Histories
from features.item import ItemFeatures
from features.tables import Catalogue, Events, IdIndex
from features.user import user_columns
from handmade import handmade_catalogue

END = 1_000_000.0


def catalogue(**columns: list[object]) -> Catalogue:
    n = len(next(iter(columns.values())))
    ids = [f"i{k}" for k in range(n)]
    empty = {"title": "", "description": "", "category": (), "brand": "", "image_url": "", "available": True}
    frame = pd.DataFrame({"item_id": ids} | {name: [value] * n for name, value in empty.items()})
    frame["price"] = frame["published_at"] = np.nan
    extra = []
    for name, values in columns.items():
        extra += [] if name in frame else [name]
        frame[name] = values
    return Catalogue(IdIndex(ids), frame, tuple(extra))


def events(items: list[int], times: list[float]) -> Events:
    n = len(items)
    return Events(
        np.arange(n, dtype=np.int32), np.array(items, np.int32), np.zeros(n, np.int16), np.array(times), np.ones(n),
        ("view",), "timestamp",
    )  # fmt: skip


def test_a_rare_shared_value_weighs_more_than_a_common_one() -> None:
    vectors = attribute_vectors(
        catalogue(category=[("jazz", "cd"), ("jazz", "cd"), ("cd",), ("cd",), ("lp",), ("lp", "only here")])
    ).toarray()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    jazz, cd = np.log(6 / 2), np.log(6 / 4)
    assert vectors[0] @ vectors[2] == pytest.approx(cd / np.hypot(jazz, cd), abs=1e-6)
    assert vectors[4] @ vectors[5] == pytest.approx(1.0)  # what one item alone has says nothing
    assert vectors[0] @ vectors[4] == 0.0


def test_one_value_under_two_columns_is_two_values() -> None:
    vectors = attribute_vectors(
        catalogue(category=[("red",), ("red",), (), ()], brand=["", "", "red", "red"], colour=["x", "x", "x", "x"])
    )
    assert vectors.shape == (4, 2)  # a colour that all items have tells none apart
    assert (vectors @ vectors.T).toarray()[0, 2] == 0.0


def test_without_attributes_all_vectors_are_empty() -> None:
    assert attribute_vectors(catalogue(title=["a", "b"])).shape == (2, 0)


def test_numbers_are_told_against_what_is_taken_lately() -> None:
    """Old events of 1990 don't hide that what is taken now is of 2020: the item of 2021 is a year ahead."""
    table = catalogue(year=[1990.0, 2020.0, 2021.0, np.nan])
    known = events([0, 2, 3] * 20 + [1] * 50, [0.0] * 60 + [END] * 50)
    items = ItemFeatures.fit(table, known, np.ones(110), (0.01,))
    ahead = items.columns(np.arange(4), np.full(4, END))["item:ahead:year"]
    np.testing.assert_allclose(ahead[:3], [-30.0, 0.0, 1.0], atol=0.01)
    assert np.isnan(ahead[3])


def test_of_an_untouched_item_only_the_price_is_told() -> None:
    """Whether it is of this year or the next one tells nothing: both may be there, or neither."""
    table = catalogue(year=[2020.0, 2020.0, 2021.0], price=[1.0, 2.0, 3.0])
    items = ItemFeatures.fit(table, events([0], [END]), np.ones(1), (0.5,))
    columns = items.columns(np.arange(3), np.full(3, END))
    np.testing.assert_array_equal(columns["item:ahead:year"], [0.0, np.nan, np.nan])
    np.testing.assert_array_equal(columns["item:ahead:price"], [0.0, 1.0, 2.0])


def test_a_shift_of_all_years_changes_no_feature() -> None:
    known = events([0, 1, 2], [0.0, END, END])
    both = [
        ItemFeatures.fit(catalogue(year=[2000.0 + k, 2001.0 + k, 2002.0 + k]), known, np.ones(3), (0.5,))
        for k in (0, 20)
    ]
    first, second = (items.columns(np.arange(3), np.full(3, END))["item:ahead:year"] for items in both)
    np.testing.assert_array_equal(first, second)


def test_a_history_says_how_much_of_it_was_untouched() -> None:
    items = ItemFeatures.fit(handmade_catalogue(), events([0, 1], [0.0, END]), np.ones(2), (0.5,))
    histories = Histories.build(
        [np.array([0, 7]), np.array([7, 0]), np.array([], int)], [np.arange(2.0), np.arange(2.0), np.empty(0)],
        [np.ones(2), np.ones(2), np.empty(0)], np.full(3, END), 12, np.ones(3, bool),
    )  # fmt: skip
    found = user_columns(histories, items)
    np.testing.assert_array_equal(found["user:new_last"], [1.0, 0.0, np.nan])
    older = 0.5 ** (1 / 5)
    np.testing.assert_allclose(found["user:new_recent"][:2], [1 / (1 + older), older / (1 + older)], rtol=1e-5)


def test_without_events_nothing_is_usual() -> None:
    nothing = events([], [])
    items = ItemFeatures.fit(catalogue(year=[2000.0, 2001.0]), nothing, np.empty(0), (0.5,))
    assert np.isnan(items.columns(np.arange(2), np.zeros(2))["item:ahead:year"]).all()
