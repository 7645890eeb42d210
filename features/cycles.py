"""Repurchase cycles: how long after a purchase an item is bought again, and what that says of a pair."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from features.builder import FeatureBuilder, FeatureMatrix
from features.categories import first_categories
from features.histories import Histories
from features.item import DAY, Columns, ItemFeatures
from features.row_changes import RowChanges
from features.runs import Pairs
from features.tables import Catalogue, FloatArray
from features.touches import Floats, Ints, Standing, Touches, standing_now

GAPS_OF_ITEM = 5.0
"""Gaps that a category's mean weighs against those of an item, and the mean of all against a category's."""
GAPS_OF_PAIR = 1.0
"""Gaps that an item's cycle weighs against a user's own gaps."""


@dataclass(frozen=True)
class Cycles:
    """`octaves` (n_items,) float64: the mean log2 of the time between two takes of the item by one user, shrunk to its
    category's and to that of all items; of seconds with a clock, else of the user's moments.
    """

    octaves: npt.NDArray[np.float64]
    has_clock: bool

    @classmethod
    def fit(cls, catalogue: Catalogue, touches: Touches, has_clock: bool) -> Self:
        """From the gaps between the takes of one item by one user; where nobody takes anything twice all are equal."""
        again = touches.takes > 1
        rows, n = touches.item_rows[again], len(catalogue)
        sums, counts = np.bincount(rows, touches.gaps[again], n), np.bincount(rows, minlength=n)
        return cls(shrunk_means(sums, counts, first_categories(catalogue), GAPS_OF_ITEM), has_clock)

    def with_rows(self, changes: RowChanges) -> Self:
        """See `features.row_changes`; a new item has its category's usual cycle."""
        return type(self)(usual_of_category(self.octaves, changes), self.has_clock)

    def own(self, standing: Standing) -> Floats:
        """Octaves of the pair's cycle: the mean of its own gaps and the item's cycle, (n_rows,)."""
        total = standing.gap_sums + GAPS_OF_PAIR * self.octaves[standing.item_rows]
        return np.asarray(total / (standing.takes - 1 + GAPS_OF_PAIR), np.float64)

    def overdue(self, standing: Standing) -> Floats:
        """Octaves by which the time since the last take exceeds the pair's cycle, (n_rows,): 0 = due; NaN: no time."""
        return np.asarray(standing.since - self.own(standing), np.float64)

    def columns(self, histories: Histories, pairs: Pairs) -> Columns:
        """Features of (history, item) pairs, each (n_pairs,) float32, NaN for items that the history has not taken."""
        standing = standing_now(histories, self.has_clock)
        unit = np.log2(DAY) if self.has_clock else 0.0
        gaps = standing.takes - 1
        with np.errstate(divide="ignore", invalid="ignore"):
            own = np.where(gaps > 0, standing.since - standing.gap_sums / gaps, np.nan)
        found = {
            "touch:takes": standing.takes,
            "touch:moments_ago": standing.moments_ago,
            "touch:share_of_moments": standing.takes / (standing.chances + 1),
            "touch:since": standing.since - unit,
            "touch:past_item_cycle": standing.since - self.octaves[standing.item_rows],
            "touch:past_own_cycle": own,
            "touch:overdue": self.overdue(standing),
        }
        place, known = _places(standing, pairs, histories.num_items)
        out: Columns = {}
        for name, values in found.items():
            out[name] = np.full(len(pairs), np.nan, np.float32)
            out[name][known] = values[place]
        return out


@dataclass(frozen=True)
class RepeatFeatures:
    """The features of every list, and those of earlier touches: for lists that may hold what was seen."""

    base: FeatureBuilder
    cycles: Cycles

    def with_items(self, items: ItemFeatures) -> Self:
        """See `FeatureBuilder.with_items`."""
        return dataclasses.replace(self, base=self.base.with_items(items))

    def build(self, histories: Histories, pairs: Pairs, source_columns: Mapping[str, FloatArray]) -> FeatureMatrix:
        """See `FeatureBuilder.build`."""
        return self.base.build(histories, pairs, dict(source_columns) | self.cycles.columns(histories, pairs))


def shrunk_means(sums: npt.NDArray[Any], counts: npt.NDArray[Any], groups: Ints, prior: float) -> Floats:
    """sums / counts of each item, (n_items,), as if `prior` more had been seen at the mean of its group, and the
    group's mean likewise at the mean of all (0 where nothing is counted).
    """
    overall = sums.sum() / max(float(counts.sum()), 1e-9)
    group_sums, group_counts = np.bincount(groups, sums), np.bincount(groups, counts)
    means = (group_sums + prior * overall) / (group_counts + prior)
    return np.asarray((sums + prior * means[groups]) / (counts + prior), np.float64)


def usual_of_category(values: Floats, changes: RowChanges) -> Floats:
    """`values` (num_before,) and for each new item the median of its category's, of all where it has none."""
    out = changes.lengthened(values, float(np.median(values)) if len(values) else 0.0)
    for row in changes.rows[changes.new].tolist():
        same = values[changes.categories[: changes.num_before] == changes.categories[row]]
        if len(same):
            out[row] = np.median(same)
    return out


def _places(standing: Standing, pairs: Pairs, num_items: int) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Which of the pairs are in `standing` (n_pairs,), and where those are."""
    keys = standing.owners * num_items + standing.item_rows
    wanted = pairs.query_rows * num_items + pairs.item_rows
    place = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
    known = keys[place] == wanted if len(keys) else np.zeros(len(wanted), bool)
    return place[known], known
