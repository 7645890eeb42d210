"""What is popular now: the bundle's popularity as a prior, and what the last hours add to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np

from features.tables import FloatArray, IdIndex
from recsys.live_ranking import LiveRanking
from recsys.model import FittedModel
from recsys.retrieval.popularity import PopularitySource
from recsys.stores.settings import StoreSettings

NEVER = -1


class LivePopularity:
    """`source` is replaced as a whole whenever counts come in, so that any thread may use it at any time; `round` is
    the number of the follower's round that they are of, `NEVER` where it has yet to come.

    All that the bundle knows weighs as much as `prior` live events: a shop with few visitors shows what has long been
    liked, a busy one what is taken in these hours. That is for those who have nothing else to go by; `ranking` (None:
    the model as it was trained) is for lists with a history.
    """

    def __init__(
        self, base: PopularitySource, items: IdIndex, prior: float, ranking: LiveRanking | None = None
    ) -> None:
        self.source = base
        self.ranking = ranking
        self.round = NEVER
        self._base = base
        self._items = items
        self._prior = prior

    @classmethod
    def of(cls, model: FittedModel, settings: StoreSettings) -> Self:
        """Of a model, before anything is counted."""
        ranking = LiveRanking(model) if settings.live_ranking else None
        return cls(model.fallback, model.catalogue.items, settings.live_prior, ranking)

    @property
    def num_items(self) -> int:
        """Of its model's catalogue."""
        return len(self._items)

    def following(self, model: FittedModel) -> LivePopularity:
        """The same for `model`, which is the one before with new or changed items: nothing is counted again. What
        was counted of the new items before they came is not in it.
        """
        told = self.round  # first: what another thread tells meanwhile is of a later one
        source, ranking = self.source, None if self.ranking is None else self.ranking.following(model)
        after = LivePopularity(model.fallback, model.catalogue.items, self._prior, ranking)
        if source is not self._base:
            after.source = source.following(model.fallback)
        after.round = told
        return after

    def update(self, counts: Mapping[str, float]) -> None:
        """Let the items' live event weights count; items that the catalogue lacks are left out."""
        names = sorted(counts)
        rows = self._items.rows(names)
        weights = np.array([counts[name] for name in names])[rows >= 0]
        rows = rows[rows >= 0]
        if not len(rows):
            self.source = self._base
            return
        values = self._known()
        values[rows] += weights
        self.source = self._base.with_counts(values, rows, self._items.places)

    def _known(self) -> FloatArray:
        """What the bundle knows, (n_items,), on the scale of live events."""
        counts = self._base.counts
        total = counts.sum()
        return self._prior * counts / total if total > 0 else np.zeros(len(counts))
