"""What a source answers: scores of n histories over the whole catalogue, held in the cheapest exact form.

Every form gives the same numbers however requests are grouped: a row never depends on the other rows of its batch.
Sparse products are accumulated row by row; dense products are exact because both sides lie on a grid
(`features.grid`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from features.compiled import compiled, fixed
from features.item_sets import ItemSets
from features.runs import Pairs, ends
from features.tables import BoolArray, IntArray
from recsys.retrieval.best import best_of
from recsys.retrieval.nearest import FEW_ALLOWED, Nearest

F32 = npt.NDArray[np.float32]
MAX_KEPT = 2_000_000
"""Products of one question that are kept for `at`: enough for single requests, little for a batch."""


@dataclass(frozen=True)
class Top:
    """The best items of each history: flat (query_rows, item_rows) pairs, best first within a history."""

    query_rows: npt.NDArray[np.int64]
    item_rows: npt.NDArray[np.int64]


class Scores(Protocol):
    """Scores of n histories over all items."""

    def top(self, n: int, blocked: ItemSets, allowed: BoolArray | None = None) -> Top:
        """The `n` best items a history, fewer where a source knows fewer; never one of the history's
        `blocked` items, and only `allowed` (n_items,) ones where that is given.
        """
        ...

    def at(self, pairs: Pairs) -> F32:
        """The score of each (history, item) pair, float32; 0 where the source has no opinion."""
        ...


@dataclass(frozen=True)
class SparseScores:
    """Scores in CSR form: history q's items are indices[indptr[q]:indptr[q + 1]], ascending; absent = 0 = no
    opinion.
    """

    data: F32
    indices: IntArray
    indptr: IntArray

    @classmethod
    def of(cls, values: Sequence[F32], columns: Sequence[IntArray]) -> Self:
        """From one array of scores and one of item rows a history."""
        lengths = np.array([len(own) for own in columns], np.int64)
        data = np.concatenate([np.empty(0, np.float32), *values])
        return cls(data, np.concatenate([np.empty(0, np.int64), *columns]), ends(lengths))

    def top(self, n: int, blocked: ItemSets, allowed: BoolArray | None = None) -> Top:
        """See `Scores.top`; only items with a positive score."""
        queries, items = [], []
        for row in range(len(self.indptr) - 1):
            columns, values = self._row(row)
            best = best_of(values, columns, n, 0.0, blocked.row(row), allowed)
            items.append(best)
            queries.append(np.full(len(best), row))
        return Top(_joined(queries), _joined(items))

    def at(self, pairs: Pairs) -> F32:
        """See `Scores.at`."""
        own = fixed(self.indptr), fixed(self.indices), fixed(self.data)
        return _looked_up(*own, fixed(pairs.query_rows), fixed(pairs.item_rows))

    def _row(self, row: int) -> tuple[IntArray, F32]:
        start, stop = self.indptr[row], self.indptr[row + 1]
        return self.indices[start:stop], self.data[start:stop]


@dataclass(frozen=True)
class InnerProductScores:
    """Scores `scale * queries @ items.T`, both on their grid; a zero query has no opinion. `own_rows`, where given, are
    the only items that `top` may offer, and `own_items` their vectors. `nearest`, where given, proposes what `top`
    looks at, in catalogues too large to look at everything.
    """

    queries: F32
    items: F32
    scale: F32
    own_rows: IntArray | None = None
    own_items: F32 | None = None
    nearest: Nearest | None = None

    @cached_property
    def _products(self) -> dict[int, F32]:
        """The products with all items that `top` has made already, by history: `at` need not repeat them."""
        return {}

    def top(self, n: int, blocked: ItemSets, allowed: BoolArray | None = None) -> Top:
        """See `Scores.top`."""
        if self.nearest is not None:
            return self._nearest_top(self.nearest, n, blocked, allowed)
        num_items = len(self.items)
        rows = np.arange(num_items) if self.own_rows is None else self.own_rows
        asked = np.flatnonzero(self.queries.any(axis=1))
        scored = self.queries[asked] @ (self.items if self.own_items is None else self.own_items).T
        queries, items = [], []
        keep = self.own_rows is None and len(asked) * num_items <= MAX_KEPT
        for row, values in zip(asked.tolist(), scored, strict=True):
            if keep:
                self._products[row] = values
            best = best_of(values, rows, n, -np.inf, blocked.row(row), allowed)
            items.append(best)
            queries.append(np.full(len(best), row))
        return Top(_joined(queries), _joined(items))

    def _nearest_top(self, index: Nearest, n: int, blocked: ItemSets, allowed: BoolArray | None) -> Top:
        """The best of what the index proposes. One history at a time, so that none depends on the others."""
        few = np.flatnonzero(allowed) if allowed is not None and np.count_nonzero(allowed) <= FEW_ALLOWED else None
        queries, items = [], []
        for row in np.flatnonzero(self.queries.any(axis=1)).tolist():
            query = self.queries[row]
            if few is not None:
                rows = few
            else:
                later = np.concatenate([index.moved, np.arange(index.num_items, len(self.items))])
                later = later if allowed is None else later[allowed[later]]
                proposed = index.propose(query, n + len(blocked.row(row)), allowed)
                rows = np.union1d(proposed, later) if len(later) else proposed
            best = best_of(self.items[rows] @ query, rows, n, -np.inf, blocked.row(row))
            items.append(best)
            queries.append(np.full(len(best), row))
        return Top(_joined(queries), _joined(items))

    def at(self, pairs: Pairs) -> F32:
        """See `Scores.at`."""
        out = np.empty(len(pairs), np.float32)
        for row, span in pairs.runs:
            known = self._products.get(row)
            products = (
                pairs.taken(self.items, span) @ self.queries[row] if known is None else known[pairs.item_rows[span]]
            )
            out[span] = products * self.scale[row]
        return out


@dataclass(frozen=True)
class SharedScores:
    """The same score for everybody: `values` (n_items,) float32 and `order`, the items best first."""

    values: F32
    order: npt.NDArray[np.int64]
    num_queries: int

    def top(self, n: int, blocked: ItemSets, allowed: BoolArray | None = None) -> Top:
        """See `Scores.top`."""
        items = [self._best(n, row, blocked, allowed) for row in range(self.num_queries)]
        return Top(_joined([np.full(len(best), row) for row, best in enumerate(items)]), _joined(items))

    def _best(self, n: int, row: int, blocked: ItemSets, allowed: BoolArray | None) -> npt.NDArray[np.int64]:
        """The first n of the order that may be shown; no more of it is looked at than these need."""
        size = n + len(blocked.row(row))
        while True:
            head = self.order[:size]
            shown = ~blocked.holds(row, head)
            if allowed is not None:
                shown &= allowed[head]
            best = head[shown]
            if len(best) >= n or size >= len(self.order):
                return best[:n]
            size *= 8

    def at(self, pairs: Pairs) -> F32:
        """See `Scores.at`."""
        return np.asarray(self.values[pairs.item_rows], np.float32)


@compiled
def _looked_up(indptr: IntArray, columns: IntArray, values: F32, query_rows: IntArray, item_rows: IntArray) -> F32:
    """The values of a CSR matrix, columns ascending, at some places; 0 where it has none."""
    out = np.zeros(len(item_rows), np.float32)
    for pair in range(len(item_rows)):
        start, stop = indptr[query_rows[pair]], indptr[query_rows[pair] + 1]
        place = start + np.searchsorted(columns[start:stop], item_rows[pair])
        if place < stop and columns[place] == item_rows[pair]:
            out[pair] = values[place]
    return out


def _joined(parts: list[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
