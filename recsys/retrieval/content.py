"""Scores by content: what the history's items say of themselves, in text and in attributes, against each item."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from features.compiled import compiled, fixed
from features.grid import Steps, in_steps, products
from features.histories import Histories
from features.item_sets import ItemSets
from features.runs import Pairs
from features.tables import BoolArray, IntArray
from recsys.retrieval.best import best_of
from recsys.retrieval.nearest import FEW_ALLOWED, NearestOf
from recsys.retrieval.scores import F32, InnerProductScores, SparseScores, Top

_BY_ATTRIBUTES = 4
"""Items that match best by attributes alone and are looked at beside those near by text, as a multiple of what is
wanted.
"""


@dataclass(frozen=True)
class OwnItems:
    """The only items that a source may offer: their `rows` (ascending), their `texts`' embeddings in steps of the grid
    and their attributes, taken out of the catalogue's because beside each other they are read faster. `nearest`, where
    there are too many to look at them all, proposes some; `texts` is empty then.
    """

    rows: IntArray
    texts: Steps
    attributes: sp.csr_matrix
    nearest: NearestOf | None = None


@dataclass(frozen=True)
class ContentScores:
    """`text` scores plus `weight` times the cosine of each history's attribute profile (n, num_values) float32 and each
    item's attributes (n_items, num_values) CSR float32, both unit rows. `top` offers `own` items alone.
    """

    text: InnerProductScores
    profiles: F32
    attributes: sp.csr_matrix
    weight: float
    own: OwnItems

    def top(self, n: int, blocked: ItemSets, allowed: BoolArray | None = None) -> Top:
        """See `Scores.top`; only items with a positive score."""
        queries = self.text.queries
        if self.own.nearest is None:
            rows = [self.own.rows] * len(queries)
            every = np.arange(len(self.own.rows))
            asked = in_steps(queries, items=False)
            values = [
                products(self.own.texts, query) + self._affinities(row, self.own.attributes, every)
                for row, query in enumerate(asked)
            ]
        else:
            wanted = [n + len(blocked.row(row)) for row in range(len(queries))]
            rows = [self._looked_at(row, size, self.own.nearest, allowed) for row, size in enumerate(wanted)]
            values = [
                self.text.items[own] @ queries[row] + self._affinities(row, self.attributes, own)
                for row, own in enumerate(rows)
            ]
        return SparseScores.of(values, rows).top(n, blocked, allowed)

    def _looked_at(self, row: int, n: int, nearest: NearestOf, allowed: BoolArray | None) -> IntArray:
        """Own items, ascending, that hold the best `n` of one history, most probably: those near by text, those near by
        attributes.
        """
        own = self.own.rows
        if not len(own):
            return own
        if allowed is not None and np.count_nonzero(allowed[own]) <= FEW_ALLOWED:
            return own[allowed[own]]
        found: list[IntArray] = [nearest.propose(self.text.queries[row], n, allowed)]
        if self.weight and self.profiles[row].any():
            affinities = self._affinities(row, self.own.attributes, np.arange(len(own)))
            found.append(best_of(affinities, own, n * _BY_ATTRIBUTES, 0.0, allowed=allowed))
        rows = np.unique(np.concatenate(found))
        return np.asarray(rows[own[np.minimum(np.searchsorted(own, rows), len(own) - 1)] == rows])

    def at(self, pairs: Pairs) -> F32:
        """See `Scores.at`."""
        out = self.text.at(pairs)
        for row, span in pairs.runs:
            out[span] += self._affinities(row, self.attributes, pairs.item_rows[span])
        return out

    def _affinities(self, row: int, of: sp.csr_matrix, rows: IntArray) -> F32:
        """`weight` times the cosine of a history's attributes and each of some rows of attributes."""
        products = _products(
            fixed(of.indptr), fixed(of.indices), fixed(of.data), fixed(rows), fixed(self.profiles[row])
        )
        return products * np.float32(self.weight)


@compiled
def _products(indptr: IntArray, indices: IntArray, data: F32, rows: IntArray, vector: F32) -> F32:
    """Some rows of a CSR matrix times `vector`, each summed in its own order. Its own loop: taking the rows out of the
    matrix first takes four times as long.
    """
    out = np.zeros(len(rows), np.float32)
    for k in range(len(rows)):
        for entry in range(indptr[rows[k]], indptr[rows[k] + 1]):
            out[k] += data[entry] * vector[indices[entry]]
    return out


def attribute_profiles(
    attributes: sp.csr_matrix, histories: Histories, half_life: float | None, history_limit: int
) -> F32:
    """(n, num_values) float32 unit rows: the weighted means of the history's attributes; zero rows where there are
    none.
    """
    sums = histories.weighted(half_life, history_limit).sums(attributes)
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.asarray(sums / np.where(norms > 0, norms, 1.0), np.float32)
