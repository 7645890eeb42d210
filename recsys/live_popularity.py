"""What is popular now: the bundle's popularity as a prior, and what the last hours add to it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from features.tables import IdIndex
from recsys.retrieval.popularity import PopularitySource


class LivePopularity:
    """`source` is replaced as a whole whenever counts come in, so that any thread may use it at any time.

    All that the bundle knows weighs as much as `prior` live events: a shop with few visitors shows what has long been
    liked, a busy one what is taken in these hours.
    """

    def __init__(self, base: PopularitySource, items: IdIndex, prior: float) -> None:
        self.source = base
        self._base = base
        self._items = items
        counts = np.expm1(base.values.astype(np.float64))
        total = counts.sum()
        self._prior = prior * counts / total if total > 0 else np.zeros(len(counts))
        self._id_order = items.places

    def update(self, counts: Mapping[str, float]) -> None:
        """Let the items' live event weights count; items that the catalogue lacks are left out."""
        names = sorted(counts)
        rows = self._items.rows(names)
        weights = np.array([counts[name] for name in names])[rows >= 0]
        self.source = self._blended(rows[rows >= 0], weights) if len(weights) else self._base

    def _blended(self, rows: npt.NDArray[np.int64], weights: npt.NDArray[np.float64]) -> PopularitySource:
        """The order of the others stays, so that only the live items need sorting."""
        values = self._prior.copy()
        values[rows] += weights
        is_live = np.zeros(len(values), bool)
        is_live[rows] = True
        others = self._base.order[~is_live[self._base.order]]
        live = rows[np.lexsort((self._id_order[rows], -values[rows]))]
        places = np.searchsorted(-values[others], -values[live], side="left")
        order = np.insert(others, places, live)
        return PopularitySource(np.log1p(values).astype(np.float32), order.astype(np.int64))
