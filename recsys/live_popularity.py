"""What is popular now: the bundle's popularity as a prior, and what the last hours add to it."""

from __future__ import annotations

import dataclasses
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
"""Seconds by which what is known of now may be off, while nothing happens."""


@dataclass(frozen=True)
class LiveState:
    """What is popular among guests at a time, and what lists with a history are to see instead of the model's own
    (None: the model as it was trained).
    """

    source: PopularitySource
    signals: LiveSignals | None = None


@dataclass(frozen=True)
class Consequences:
    """What follows from events for a model whose popularity is `base` (n_items,).

    All that the bundle knows weighs as much as `prior` live events: a shop with few visitors shows what has long been
    liked, a busy one what is taken in these hours. That is for those who have nothing else to go by; `ranking` (None:
    the model as it was trained) is for lists with a history. The model knows by itself what happened up to
    `trained_until`.
    """

    base: PopularitySource
    items: IdIndex
    prior: float
    ranking: LiveRanking | None = None
    trained_until: float = -np.inf

    @classmethod
    def of(cls, model: FittedModel, settings: StoreSettings) -> Self:
        """For a model."""
        ranking = LiveRanking(model) if settings.live_ranking else None
        until = model.trained_until if model.histories.has_clock else np.inf  # it can't tell what it knew when
        return cls(model.fallback, model.catalogue.items, settings.live_prior, ranking, until)

    def state_of(self, happened: Happened) -> LiveState:
        """What follows from all that has happened."""
        ranking = self.ranking
        signals = None if ranking is None else ranking.signals_of(happened.taken, happened.now, happened.forgotten)
        return LiveState(self.source_of(happened.counts), signals)

    def source_of(self, counts: Mapping[str, float]) -> PopularitySource:
        """What is popular by the items' live event weights; items that the catalogue lacks are left out."""
        names = sorted(counts)
        rows = self.items.rows(names)
        weights = np.array([counts[name] for name in names])[rows >= 0]
        rows = rows[rows >= 0]
        if not len(rows):
            return self.base
        values = self._known()
        values[rows] += weights
        return self.base.with_counts(values, rows, self.items.places)

    def following(self, model: FittedModel) -> Consequences:
        """The same for `model`, which is the one before with new or changed items."""
        ranking = None if self.ranking is None else self.ranking.following(model)
        return dataclasses.replace(self, base=model.fallback, items=model.catalogue.items, ranking=ranking)

    def _known(self) -> FloatArray:
        """What the bundle knows, (n_items,), on the scale of live events."""
        counts = self.base.counts
        total = counts.sum()
        return self.prior * counts / total if total > 0 else np.zeros(len(counts))


class LiveView:
    """What is known of a time, and of those before it. It stays as it is, but for users who are forgotten, so that
    requests that are answered together see the same. `state` follows by `consequences` from what `happened` (None:
    nothing was told).
    """

    def __init__(
        self, consequences: Consequences, happened: Happened | None = None, state: LiveState | None = None
    ) -> None:
        self._consequences, self.happened = consequences, happened
        self._trained = LiveState(consequences.base)
        self.state = state or self._trained
        self._then: tuple[float, LiveState] | None = None
        self._working_out = threading.Lock()

    def moment(self, at: float | None) -> float:
        """Requests with a time of their own (unix seconds) are answered alike where this is the same: infinite where
        they are for now (None, or about now, and nothing has happened in between; what is dated ahead counts as of
        now), minus infinite for the model as it was trained, and else the time, in whole seconds.
        """
        happened, trained_until = self.happened, self._consequences.trained_until
        if happened is None:
            return -np.inf
        known = happened.newest if np.isinf(trained_until) else max(happened.newest, trained_until)
        if at is None or (abs(at - happened.now) <= FRESH and at > known):
            return np.inf
        return float(np.floor(at)) if np.floor(at) > trained_until else -np.inf

    def at(self, moment: float) -> LiveState:
        """What was known at a `moment`, by the events that happened before it. The last one that was asked for is
        remembered, as working it out takes as long as counting all anew.
        """
        if moment == np.inf:
            return self.state
        if moment == -np.inf or self.happened is None:
            return self._trained
        with self._working_out:
            if self._then is None or self._then[0] != moment:
                self._then = moment, self._consequences.state_of(self.happened.before(moment))
            return self._then[1]


class LivePopularity:
    """`view` is replaced as a whole whenever it is told what happened, so that any thread may use it at any time;
    `round` is the number of the follower's round that it is of, `NEVER` where it has yet to come.
    """

    def __init__(self, consequences: Consequences) -> None:
        self.round = NEVER
        self.view = LiveView(consequences)
        self._consequences = consequences

    @classmethod
    def of(cls, model: FittedModel, settings: StoreSettings) -> Self:
        """Of a model, before anything is counted."""
        return cls(Consequences.of(model, settings))

    @property
    def since(self) -> float:
        """The time from which on events are of interest to lists with a history, unix seconds; infinite: none is."""
        ranking = self._consequences.ranking
        return np.inf if ranking is None else ranking.since

    @property
    def num_items(self) -> int:
        """Of its model's catalogue."""
        return len(self._consequences.items)

    def know(self, happened: Happened) -> None:
        """Let all that has happened count."""
        self.view = LiveView(self._consequences, happened, self._consequences.state_of(happened))

    def following(self, model: FittedModel) -> LivePopularity:
        """The same for `model`, which is the one before with new or changed items: nothing is counted again. What
        was counted of the new items before they came is not in it.
        """
        told = self.round  # first: what another thread tells meanwhile is of a later one
        view, base = self.view, self._consequences.base
        source, signals = view.state.source, view.state.signals
        after = LivePopularity(self._consequences.following(model))
        state = LiveState(
            model.fallback if source is base else source.following(model.fallback),
            None if signals is None else signals.following(model),
        )
        after.view, after.round = LiveView(after._consequences, view.happened, state), told
        return after
