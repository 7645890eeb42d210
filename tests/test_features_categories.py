"""The price ladder: where an item stands among those of its category, and where a user buys."""

from __future__ import annotations

import numpy as np
import pandas as pd

from features.builder import FeatureBuilder, FeatureSettings
from features.categories import first_categories, price_steps
from features.histories import Histories
from features.runs import Pairs
from features.tables import Catalogue, Events, IdIndex
from handmade import NUM_ITEMS, handmade_model
from recsys.live_items import ItemChange, ItemEditor

PRICES = np.array([1, 2, 3, 100, 300, 200, 200, np.nan], np.float32)
SHELVES = ["lamp", "lamp", "lamp", "sofa", "sofa", "sofa", "sofa", "sofa"]
CODES = pd.factorize(np.array(SHELVES))[0]


def test_a_step_is_the_share_of_the_shelf_that_costs_no_more() -> None:
    found = price_steps(PRICES, CODES)
    np.testing.assert_allclose(found, [1 / 3, 2 / 3, 1, 1 / 4, 1, 2.5 / 4, 2.5 / 4, np.nan], rtol=1e-6)


def test_one_ladder_says_no_more_than_the_price() -> None:
    assert not len(price_steps(PRICES, np.zeros(8, np.int64)))
    flat = np.where(CODES == 1, np.float32(5), PRICES)
    assert not len(price_steps(flat, CODES)), "a shelf of one price is no ladder"
    assert not len(price_steps(np.full(8, np.nan, np.float32), CODES))


def test_who_takes_the_cheapest_lamps_is_near_to_the_cheapest_sofa() -> None:
    frame = pd.DataFrame({
        "item_id": list("abcdefgh"), "category": [(shelf,) for shelf in SHELVES], "brand": [()] * 8, "price": PRICES,
        "published_at": np.nan,
    })  # fmt: skip
    catalogue = Catalogue(IdIndex("abcdefgh"), frame, ())
    one = np.ones(1, np.float32)
    events = Events(
        np.zeros(1, np.int32), np.zeros(1, np.int32), np.zeros(1, np.int16), one, one, ("view",), "timestamp"
    )
    features = FeatureBuilder.fit(catalogue, events, one, None, FeatureSettings())
    rows, times = np.array([0, 1, 4]), np.array([1.0, 2.0, 3.0])
    weights = np.array([1.0, 1.0, -1.0])  # the dearest sofa was sent away: it says nothing of what is bought
    asked = Histories.build([rows], [times], [weights], np.array([9.0]), 8, np.array([True]))
    matrix = features.build(asked, Pairs(np.zeros(8, np.int64), np.arange(8)), {})
    expected = price_steps(PRICES, first_categories(catalogue)) - (1 / 3 + 2 / 3) / 2
    np.testing.assert_allclose(matrix.column("pair:price_step"), expected, rtol=1e-5)


def test_a_new_item_stands_where_its_price_puts_it() -> None:
    """Books cost 1, 3, 5, ... 11, games 2, 4, ... 10, the one item without a category nothing that is known."""
    model = handmade_model()
    changed = ItemEditor(model, None).with_items(
        model, [ItemChange("new", {"title": "", "category": ["Books"], "price": 6.0})]
    )
    steps = changed.features.items.price_step
    np.testing.assert_allclose(steps[1::2], np.array([1, 2, 3, 5, 6, 7]) / 7)
    np.testing.assert_allclose(steps[2:NUM_ITEMS:2], np.array([1, 2, 3, 4, 5]) / 5)
    assert np.isnan(steps[0])
    assert steps[-1] == np.float32(4 / 7)
