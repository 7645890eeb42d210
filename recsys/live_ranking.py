"""What has happened since the model was trained, as the ranker has learned to see it: popularity that goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.item import ItemFeatures
from recsys.model import FittedModel
from recsys.retrieval.popularity import PopularitySource
from recsys.taken import Taken


@dataclass(frozen=True)
class LiveSignals:
    """What takes the place of the model's own popularity: as a source, and among the statistics of the items."""

    popularity: PopularitySource
    items: ItemFeatures


class LiveRanking:
    """`signals` are replaced as a whole whenever events come in, so that any thread may use them at any time. None: the
    model has no clock, or nothing has happened since the training.

    A ranker can only use values of the kind and the scale that it was trained on: decayed weights with the half-lives
    of the training, see `features.decay.continued`.
    """

    def __init__(self, model: FittedModel) -> None:
        self.signals: LiveSignals | None = None
        self._popularity, self._items, self._ids = model.fallback, model.features.items, model.catalogue.items
        spans = (*self._items.half_lives, self._popularity.half_life)
        self._half_lives = tuple(dict.fromkeys(span for span in spans if span is not None))
        self._trained_until = model.trained_until
        self._known_ids: Sequence[str] = ()
        self._rows: npt.NDArray[np.int64] = np.empty(0, np.int64)

    @property
    def since(self) -> float:
        """The time from which on events are of interest, unix seconds; infinite where none is."""
        return self._trained_until if self._half_lives else np.inf

    def update(self, taken: Taken, now: float) -> None:
        """Let these events count that happened after the training; those of items that the catalogue lacks do not."""
        if not self._half_lives:
            return
        later = taken.after(self.since)
        rows = self._rows_of(later.item_ids)[later.codes]
        known = rows >= 0
        if not known.any():
            self.signals = None
            return
        self.signals = self._made(later.select(known), rows[known], now)

    def _made(self, later: Taken, rows: npt.NDArray[np.int64], now: float) -> LiveSignals:
        n = len(self._ids)
        sums = {span: np.bincount(rows, later.decayed(span, now), n).astype(np.float64) for span in self._half_lives}
        first, last = np.full(n, np.nan), np.full(n, np.nan)
        np.fmin.at(first, rows, later.times)
        np.fmax.at(last, rows, later.times)
        own = self._popularity.half_life
        popularity = self._popularity if own is None else self._popularity.after(sums[own], self._ids.places)
        return LiveSignals(popularity, self._items.after(sums, first, last))

    def _rows_of(self, item_ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """Each id's row, -1 for unknown ones; only ids that are new are looked up."""
        if item_ids is not self._known_ids:
            self._known_ids, self._rows = item_ids, np.empty(0, np.int64)
        added = list(item_ids[len(self._rows) :])
        if added:
            self._rows = np.concatenate([self._rows, self._ids.rows(added)])
        return self._rows
