"""Repeat purchases: the items of the history itself, by how likely they are taken again at the next moment.

Each moment of a user is a chance for every item taken before. How often such a chance was used is learned from the
events: for the pair a Beta-Binomial mean of its own uses and the item's rate (the Poisson-Gamma idea of Bhagat et al.
2018, "Buy It Again"), times a factor for how lately and how often the item was taken (recency: Anderson et al. 2014),
times one for where in its repurchase cycle the pair stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from features.categories import first_categories
from features.cycles import Cycles, shrunk_means, usual_of_category
from features.histories import Histories
from features.row_changes import RowChanges
from features.runs import ends, rank_in_run
from features.settings import Settings
from features.touches import Floats, Ints, Standing, Touches, standing_now
from recsys.retrieval.base import FitData
from recsys.retrieval.scores import Scores, SparseScores

_TAKES = np.array([2, 3, 4, 6, 10])
_AGO = np.array([1, 2, 3, 4, 6, 10, 20, 50])
_OVERDUE = np.arange(-6.0, 4.25, 0.5)
_SWEEPS = 4
"""Rounds in which the two tables of factors are fitted in turn."""


class RepeatSettings(Settings):
    """Settings of the repeat source."""

    chances_per_user: int = Field(default=50, ge=1)
    """Newest moments of a user that are learned from."""
    max_chances: int = Field(default=4_000_000, ge=1)
    """(Pair, moment) chances to learn from, at most; with more, each user's newest moments only."""
    chances_of_item: float = Field(default=50.0, gt=0)
    """Chances that a category's rate weighs against an item's own, and the rate of all against a category's."""
    chances_of_pair: float = Field(default=10.0, gt=0)
    """Chances that an item's rate weighs against the pair's own."""


@dataclass(frozen=True)
class RepeatSource:
    """`rates` (n_items,) float64: share of the chances in which an item is taken again; `by_recency` (6, 9) float64:
    factors by takes so far and moments since; `by_cycle` (3, 22): by gaps known of the pair (0, 1, more) and octaves
    overdue.
    """

    name: ClassVar[str] = "repeat"
    cycles: Cycles
    rates: npt.NDArray[np.float64]
    by_recency: npt.NDArray[np.float64]
    by_cycle: npt.NDArray[np.float64]
    chances_of_pair: float

    @classmethod
    def fit(cls, data: FitData, settings: RepeatSettings) -> Self:
        """Where nobody takes anything twice, all items of a history are nearly equal."""
        touches = Touches.of_events(data.events, data.weights, data.num_users)
        cycles = Cycles.fit(data.catalogue, touches, data.events.has_clock)
        chances, used = _chances(touches, settings)
        n = data.num_items
        taken, offered = np.bincount(chances.item_rows, used, n), np.bincount(chances.item_rows, minlength=n)
        rates = shrunk_means(taken, offered, first_categories(data.catalogue), settings.chances_of_item)
        flat = np.ones((len(_TAKES) + 1, len(_AGO) + 1)), np.ones((3, len(_OVERDUE) + 1))
        source = cls(cycles, np.maximum(rates, 1e-6), *flat, settings.chances_of_pair)
        return source._with_factors(chances, used)

    def with_rows(self, changes: RowChanges) -> Self:
        """See `features.row_changes`; a new item is taken again as often as its category's usually are."""
        cycles = self.cycles.with_rows(changes)
        rates = usual_of_category(self.rates, changes)
        return type(self)(cycles, rates, self.by_recency, self.by_cycle, self.chances_of_pair)

    def scores(self, histories: Histories) -> dict[str, Scores]:
        """The chance that each liked item of the history is taken again; the others have none."""
        standing = standing_now(histories, self.cycles.has_clock)
        recency, cycle = self._cells(standing)
        values = self._own_rates(standing) * self.by_recency.ravel()[recency] * self.by_cycle.ravel()[cycle]
        indptr = ends(np.bincount(standing.owners, minlength=len(histories)))
        scores = SparseScores(values.astype(np.float32), standing.item_rows, indptr)
        return {"": scores}

    def _own_rates(self, standing: Standing) -> Floats:
        """The Beta-Binomial mean of each pair's rate."""
        used = standing.takes - 1 + self.chances_of_pair * self.rates[standing.item_rows]
        return np.asarray(used / (standing.chances + self.chances_of_pair), np.float64)

    def _cells(self, standing: Standing) -> tuple[Ints, Ints]:
        """Each row's cell in `by_recency` and in `by_cycle`; an unknown time is taken to be due."""
        takes = np.searchsorted(_TAKES, standing.takes, "right")
        ago = np.searchsorted(_AGO, standing.moments_ago, "right")
        overdue = np.searchsorted(_OVERDUE, np.nan_to_num(self.cycles.overdue(standing)), "right")
        known = np.minimum(standing.takes - 1, 2)
        return takes * (len(_AGO) + 1) + ago, known * (len(_OVERDUE) + 1) + overdue

    def _with_factors(self, chances: Standing, used: Floats) -> Self:
        """The tables that make expected and observed uses agree in every cell, fitted in turn."""
        base, cells = self._own_rates(chances), self._cells(chances)
        tables = [self.by_recency.ravel(), self.by_cycle.ravel()]
        seen = [np.bincount(cell, used, len(table)) for cell, table in zip(cells, tables, strict=True)]
        for _ in range(_SWEEPS):
            for k in (0, 1):
                expected = np.bincount(cells[k], base * tables[1 - k][cells[1 - k]], len(tables[k]))
                tables[k] = (seen[k] + 1) / (expected + 1)
        shaped = [tables[0].reshape(self.by_recency.shape), tables[1].reshape(self.by_cycle.shape)]
        return type(self)(self.cycles, self.rates, shaped[0], shaped[1], self.chances_of_pair)


def _chances(touches: Touches, settings: RepeatSettings) -> tuple[Standing, Floats]:
    """Every later moment of a user for every item taken before, and 1 where it took the item again, else 0."""
    num_moments = touches.num_moments[touches.owners]
    stops = np.where(touches.is_last, num_moments - 1, np.roll(touches.moments, -1))
    newest = settings.chances_per_user
    starts = np.maximum(touches.moments + 1, num_moments - newest)
    while np.maximum(stops + 1 - starts, 0).sum() > settings.max_chances and newest > 1:
        newest //= 2
        starts = np.maximum(touches.moments + 1, num_moments - newest)
    lengths = np.maximum(stops + 1 - starts, 0)
    rows = np.repeat(np.arange(len(touches)), lengths)
    moments = starts[rows] + rank_in_run(rows)
    times = touches.moment_times[touches.moment_starts[touches.owners[rows]] + moments]
    used = (moments == stops[rows]) & ~touches.is_last[rows]
    return touches.standing(rows, moments, times), used.astype(np.float64)
