"""What is popular now: the bundle's popularity as a prior, and what the last hours add to it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from features.tables import FloatArray, IdIndex
from recsys.live_ranking import LiveRanking, LiveSignals
from recsys.model import FittedModel
from recsys.retrieval.popularity import PopularitySource
from recsys.stores.settings import StoreSettings
from recsys.taken import Happened

NEVER = -1
FRESH = 60.0
"""Seconds by which what is known of now may be older than now, while nothing happens."""


@dataclass(frozen=True)
class LiveState:
    """What is popular among guests at a time, and what lists with a history are to see instead of the model's own
    (None: the model as it was trained).
    """

    source: PopularitySource
    signals: LiveSignals | None


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
        self._happened: Happened | None = None
        self._then: tuple[Happened | None, float, LiveState] | None = None
        self._working_out = threading.Lock()

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
        after.round, after._happened = told, self._happened
        return after

    def know(self, happened: Happened) -> None:
        """Let all that has happened count."""
        self.update(happened.counts)
        if self.ranking is not None:
            self.ranking.update(happened.taken, happened.now, happened.forgotten)
        self._happened, self._then = happened, None

    def update(self, counts: Mapping[str, float]) -> None:
        """Let the items' live event weights count; items that the catalogue lacks are left out."""
        self.source = self._source_of(counts)

    def moment(self, at: float | None) -> float:
        """Requests with a time of their own (unix seconds) are answered together where this is the same: infinite where
        they are for now (None, or just now, and nothing has happened in between), minus infinite where the model as it
        was trained knew all that had happened.
        """
        happened = self._happened
        if at is None:
            return np.inf
        if happened is None or not len(happened.taken) or at <= self._start:
            return -np.inf
        quiet = at > happened.newest and at >= happened.now - FRESH
        return np.inf if quiet or at >= happened.now else at

    def state(self, moment: float) -> LiveState:
        """What was known at a `moment`, by the events that happened before it; the last one that was asked for is
        remembered, as working it out takes as long as counting all anew.
        """
        if moment == np.inf:
            return LiveState(self.source, None if self.ranking is None else self.ranking.signals)
        happened = self._happened
        if happened is None or moment == -np.inf:
            return LiveState(self._base, None)
        with self._working_out:
            if self._then is None or self._then[0] is not happened or self._then[1] != moment:
                self._then = happened, moment, self._state_of(happened.before(moment))
            return self._then[2]

    @property
    def _start(self) -> float:
        """Up to here the model knows all by itself."""
        return -np.inf if self.ranking is None else self.ranking.trained_until

    def _state_of(self, happened: Happened) -> LiveState:
        ranking = self.ranking
        signals = None if ranking is None else ranking.signals_of(happened.taken, happened.now, happened.forgotten)
        return LiveState(self._source_of(happened.counts), signals)

    def _source_of(self, counts: Mapping[str, float]) -> PopularitySource:
        names = sorted(counts)
        rows = self._items.rows(names)
        weights = np.array([counts[name] for name in names])[rows >= 0]
        rows = rows[rows >= 0]
        if not len(rows):
            return self._base
        values = self._known()
        values[rows] += weights
        return self._base.with_counts(values, rows, self._items.places)

    def _known(self) -> FloatArray:
        """What the bundle knows, (n_items,), on the scale of live events."""
        counts = self._base.counts
        total = counts.sum()
        return self._prior * counts / total if total > 0 else np.zeros(len(counts))
