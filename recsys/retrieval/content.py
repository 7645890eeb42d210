"""Scores by content: what the history's items say of themselves, in text and in attributes, against each item."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from features.histories import Histories
from features.item_sets import ItemSets
from features.runs import Pairs
from features.tables import BoolArray, IntArray
from recsys.retrieval.scores import F32, InnerProductScores, SparseScores, Top


@dataclass(frozen=True)
class ContentScores:
    """`text` scores plus `weight` times the cosine of each history's attribute profile (n, num_values) float32 and each
    item's attributes (n_items, num_values) CSR float32, both unit rows. `own_rows` are the only items that
    `top` may offer, `own_attributes` theirs.
    """

    text: InnerProductScores
    profiles: F32
    attributes: sp.csr_matrix
    weight: float
    own_rows: IntArray
    own_attributes: sp.csr_matrix

    def top(self, n: int, blocked: ItemSets, allowed: BoolArray | None = None) -> Top:
        """See `Scores.top`; only items with a positive score."""
        queries, size = len(self.text.queries), len(self.own_rows)
        own = self.text.items[self.own_rows] if self.text.own_items is None else self.text.own_items
        values = self.text.queries @ own.T
        for row in range(queries):
            values[row] += self._affinities(row, self.own_attributes)
        every = np.tile(self.own_rows, queries)
        scores = SparseScores(values.ravel(), every, np.arange(queries + 1) * size, len(self.text.items))
        return scores.top(n, blocked, allowed)

    def at(self, pairs: Pairs) -> F32:
        """See `Scores.at`."""
        out = self.text.at(pairs)
        for row, span in pairs.runs:
            out[span] += self._affinities(row, self.attributes[pairs.item_rows[span]])
        return out

    def _affinities(self, row: int, attributes: sp.csr_matrix) -> F32:
        """`weight` times the cosine of a history and each row of `attributes`; summed row by row, in one order."""
        return np.asarray((attributes @ self.profiles[row]) * np.float32(self.weight), np.float32)


def attribute_profiles(
    attributes: sp.csr_matrix, histories: Histories, half_life: float | None, history_limit: int
) -> F32:
    """(n, num_values) float32 unit rows: the weighted means of the history's attributes; zero rows where there are
    none.
    """
    sums = histories.weighted(half_life, history_limit).sums(attributes)
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.asarray(sums / np.where(norms > 0, norms, 1.0), np.float32)
