"""What is popular now: the bundle's popularity as a prior, and what the last hours add to it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from features.tables import IdIndex
from recsys.live_ranking import LiveRanking
from recsys.retrieval.popularity import PopularitySource


class LivePopularity:
    """`source` is replaced as a whole whenever counts come in, so that any thread may use it at any time.

    All that the bundle knows weighs as much as `prior` live events: a shop with few visitors shows what has long been
    liked, a busy one what is taken in these hours. That is for those who have nothing else to go by; `ranking` (None:
    the model as it was trained) is for lists with a history.
    """

    def __init__(
        self, base: PopularitySource, items: IdIndex, prior: float, ranking: LiveRanking | None = None
    ) -> None:
        self.source = base
        self.ranking = ranking
        self._base = base
        self._items = items
        counts = base.counts
        total = counts.sum()
        self._prior = prior * counts / total if total > 0 else np.zeros(len(counts))

    def update(self, counts: Mapping[str, float]) -> None:
        """Let the items' live event weights count; items that the catalogue lacks are left out."""
        names = sorted(counts)
        rows = self._items.rows(names)
        weights = np.array([counts[name] for name in names])[rows >= 0]
        rows = rows[rows >= 0]
        if not len(rows):
            self.source = self._base
            return
        values = self._prior.copy()
        values[rows] += weights
        self.source = self._base.with_counts(values, rows, self._items.places)
