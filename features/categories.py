"""Items by their first category: the shelf that each stands on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.tables import CATEGORY, Catalogue


def first_categories(catalogue: Catalogue) -> npt.NDArray[np.int64]:
    """A code for each item's first category, (n_items,); items without one share a code."""
    first = [values[0] if values else "" for values in catalogue.frame[CATEGORY]]
    return np.asarray(pd.factorize(np.array(first, dtype=object))[0], np.int64)


def price_steps(prices: npt.NDArray[np.float32], categories: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Where each item stands on the price ladder of its category, (n_items,): the share of the category's priced items
    that cost no more (equal prices share the mean), NaN without a price. Empty where fewer than two categories have
    prices to compare: the price itself says as much then.
    """
    priced = pd.Series(prices).groupby(categories)
    if (priced.min() < priced.max()).sum() < 2:
        return np.empty(0, np.float32)
    return np.asarray(priced.rank(pct=True), np.float32)
