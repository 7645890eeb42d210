"""What has happened since the model was trained, as the ranker has learned to see it: popularity and transitions that
go on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from features.item import ItemFeatures
from features.runs import ends
from features.tables import IdIndex
from recsys.model import FittedModel
from recsys.retrieval.popularity import PopularitySource
from recsys.retrieval.transitions import Moments, TransitionsSource
from recsys.taken import Taken

_NEWEST = 10_000
"""Events whose users' steps from item to item are counted."""
_MOST_STEPS = 1_000_000
"""Pairs of items so many moments apart that are counted at most, whoever sends what: some 24 MB for three moments."""
Ints = npt.NDArray[np.int64]
_NO_ROWS: Ints = np.empty(0, np.int64)


@dataclass(frozen=True)
class LiveSignals:
    """What takes the place of the model's own: popularity, other sources by name, and the statistics of the items."""

    popularity: PopularitySource
    sources: Mapping[str, Any]
    items: ItemFeatures

    def following(self, model: FittedModel) -> LiveSignals:
        """The same for `model`, which is the one before with new or changed items."""
        sources: dict[str, Any] = {source.name: source for source in model.sources}
        return LiveSignals(
            self.popularity.following(model.fallback),
            {name: source.following(sources[name]) for name, source in self.sources.items()},
            self.items.following(model.features.items),
        )


class LiveRanking:
    """What events make of a model's signals. Threads may share it.

    A ranker can only use values of the kind and the scale that it was trained on: decayed weights with the half-lives
    of the training (see `features.decay.continued`), steps divided by the totals of the training.
    """

    def __init__(self, model: FittedModel) -> None:
        self._model, self._popularity, self._items = model, model.fallback, model.features.items
        sources: tuple[Any, ...] = model.sources
        usable = (source for source in sources if isinstance(source, TransitionsSource) and len(source.out_of))
        self._transitions: TransitionsSource | None = next(usable, None)
        spans = (*self._items.half_lives, self._popularity.half_life)
        self._half_lives = tuple(dict.fromkeys(span for span in spans if span is not None))
        self._item_rows, self._user_rows = _Rows(model.catalogue.items), _Rows(model.users)

    @property
    def since(self) -> float:
        """The time from which on events are of interest, unix seconds; infinite where none is."""
        return self._model.trained_until if self._half_lives else np.inf

    def signals_of(self, taken: Taken, now: float, forgotten: Collection[str] = ()) -> LiveSignals | None:
        """What these events change that happened after the training; those of items that the catalogue lacks do not
        count. Of users who were `forgotten` nothing from before is looked at. None: the model has no clock, or nothing
        has happened since.
        """
        if not self._half_lives:
            return None
        later = taken.after(self.since, now)
        rows = self._item_rows.of(later.item_ids)[later.items]
        known = rows >= 0
        return self._made(later.select(known), rows[known], now, forgotten) if known.any() else None

    def following(self, model: FittedModel) -> LiveRanking:
        """The same for `model`, which is the one before with new or changed items."""
        after = LiveRanking(model)
        after._item_rows, after._user_rows = self._item_rows.over(model.catalogue.items), self._user_rows
        return after

    def _made(self, later: Taken, rows: Ints, now: float, forgotten: Collection[str]) -> LiveSignals:
        n = len(self._model.catalogue)
        sums = {span: np.bincount(rows, later.decayed(span, now), n).astype(np.float64) for span in self._half_lives}
        first, last = np.full(n, np.nan), np.full(n, np.nan)
        np.fmin.at(first, rows, later.times)
        np.fmax.at(last, rows, later.times)
        own, places = self._popularity.half_life, self._model.catalogue.items.places
        popularity = self._popularity if own is None else self._popularity.after(sums[own], places)
        sources: dict[str, Any] = {}  # each is fitted with settings of its own, which mypy holds against it
        if self._transitions is not None:
            active = np.isin(later.users, later.users[-_NEWEST:])
            moments = self._moments(later.select(active), rows[active], forgotten, self._transitions.history_limit)
            window = self._model.settings.retrieval.transitions.window
            sources[self._transitions.name] = self._transitions.after(
                moments.counts(window, np.asarray(moments.times > self.since), _MOST_STEPS)
            )
        return LiveSignals(popularity, sources, self._items.after(sums, first, last))

    def _moments(self, later: Taken, rows: Ints, forgotten: Collection[str], limit: int) -> Moments:
        """The moments of all users who did something later, and what the source looks at of what the model knows."""
        owners = np.unique(later.users)
        stored, of_users = self._model.histories, self._user_rows.of(later.user_ids)[owners]
        gone = np.array([later.user_ids[owner] in forgotten for owner in owners.tolist()], bool)
        there = np.flatnonzero((of_users >= 0) & ~gone)
        stops = stored.indptr[of_users[there] + 1]
        starts = np.maximum(stored.indptr[of_users[there]], stops - limit)
        indptr = ends(stops - starts)
        flat = np.arange(indptr[-1]) + np.repeat(starts - indptr[:-1], stops - starts)
        liked = stored.weights[flat] > 0
        before = np.repeat(owners[there], stops - starts)[liked], flat[liked]
        return Moments.of(
            np.concatenate([before[0], later.users]),
            np.concatenate([stored.item_rows[before[1]].astype(np.int64), rows]),
            np.concatenate([stored.times[before[1]], later.times]),
            len(self._model.catalogue),
        )


class _Rows:
    """Rows of ids that come more and more; only those that are new are looked up. `known`: ids that were, and their
    rows, in an index that `index` has grown from. Threads may share it.
    """

    def __init__(self, index: IdIndex, known: tuple[Sequence[str], Ints] = ((), _NO_ROWS)) -> None:
        self._index = index
        self._known = (*known, True)
        """The ids, their rows, and whether those that had none may have one by now; replaced as a whole."""

    def over(self, index: IdIndex) -> _Rows:
        """The same for an index that this one's has grown to; another thread may go on with this one."""
        return _Rows(index, self._known[:2])

    def of(self, ids: Sequence[str]) -> Ints:
        """Each id's row, -1 for unknown ones."""
        known, rows, grown = self._known  # before the size, so that there are no more rows than that
        size = len(ids)  # once: another thread may add to them
        if ids is not known:
            rows, grown = _NO_ROWS, False
        unknown = np.flatnonzero(rows < 0) if grown else _NO_ROWS
        wanted = np.concatenate([unknown, np.arange(len(rows), size)])
        if len(wanted):
            rows = np.concatenate([rows, np.empty(size - len(rows), np.int64)])
            rows[wanted] = self._index.rows([ids[k] for k in wanted.tolist()])
        self._known = (ids, rows, False)
        return rows
