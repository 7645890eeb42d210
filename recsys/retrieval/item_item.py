"""What all item-to-item sources share: a sparse weight matrix and the ways a history is looked at through it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import scipy.sparse as sp

from features.histories import Histories
from features.row_changes import RowChanges
from features.runs import flat_rows
from features.tables import FloatArray, IntArray
from recsys.retrieval.scores import F32, Scores, SparseScores

HALF_LIVES: tuple[float | None, ...] = (None, 5.0, 2.0, 0.7)
"""Half-lives in moments (None: no decay) that `train` chooses from, per source, on a held-out window."""


_SORTED = 8
"""With so many items a column, sorting the columns takes less time than a pass over all items."""


@dataclass(frozen=True)
class ItemItemSource:
    """`weights` (n_items, n_items) CSR float32: row = an item of the history, column = the item it speaks for."""

    weights: sp.csr_matrix
    half_life: float | None
    history_limit: int

    def with_rows(self, changes: RowChanges) -> Self:
        """See `features.row_changes`: nothing speaks for what is new."""
        return dataclasses.replace(self, weights=changes.square(self.weights))

    def scores(self, histories: Histories) -> dict[str, Scores]:
        """The sum of the history's rows: decayed by `half_life` (what it recommends by), undecayed, and the newest
        moment alone.
        """
        views = {"": self.half_life, "all": None, "last": 0.0}
        asked = [histories.weighted(half_life, self.history_limit) for half_life in views.values()]
        found = [self._speak([weights.row(row) for weights in asked]) for row in range(len(histories))]
        columns = [known for known, _ in found]
        return {
            view: SparseScores.of([sums[k] for _, sums in found], columns, self.weights.shape[1])
            for k, view in enumerate(views)
        }

    def _speak(self, asked: Sequence[tuple[IntArray, F32]]) -> tuple[IntArray, list[F32]]:
        """The items that a history speaks for, ascending, and for each way in which it is `asked` (its items and their
        weights, the undecayed way, which has all items, second) the weighted sum of their rows. Its own loop, because
        building the matrices of a sparse product takes longer than the product when one request is answered.
        """
        rows, num_items = asked[1][0], self.weights.shape[1]
        columns, data, place = self._entries(rows)
        known, position = _distinct(columns, num_items)
        sums = []
        for own, weights in asked:
            full = np.zeros(len(rows), np.float32)
            full[np.isin(rows, own)] = weights  # all ways keep the history's order
            sums.append(np.bincount(position, data * full[place], len(known)).astype(np.float32))
        return known, sums

    def _entries(self, rows: IntArray) -> tuple[IntArray, F32, IntArray]:
        """Column, weight and place in `rows` of all that these items say; a column may come twice."""
        flat, place = flat_rows(self.weights, rows)
        return self.weights.indices[flat], self.weights.data[flat], place


def _distinct(columns: IntArray, num_items: int) -> tuple[IntArray, IntArray]:
    """The distinct `columns`, ascending, and where each is among them: by sorting where they are few of many items."""
    if _SORTED * len(columns) < num_items:
        known, position = np.unique(columns, return_inverse=True)
        return known, position
    known = np.flatnonzero(np.bincount(columns, minlength=num_items))
    places = np.zeros(num_items, np.int64)
    places[known] = np.arange(len(known))
    return known, places[columns]


def empty_weights(num_items: int) -> sp.csr_matrix:
    """No item speaks for any other."""
    return _csr([], [], [], num_items)


def keep_largest(matrix: sp.csr_matrix, per_row: int) -> sp.csr_matrix:
    """The `per_row` entries of largest magnitude of each row of a square matrix, off the diagonal, columns sorted."""
    rows, columns, values = [], [], []
    for row in range(matrix.shape[0]):
        start, stop = matrix.indptr[row], matrix.indptr[row + 1]
        names, data = matrix.indices[start:stop], matrix.data[start:stop]
        other = names != row
        names, data = names[other], data[other]
        if len(names) > per_row:
            best = np.argpartition(-np.abs(data), per_row - 1)[:per_row]
            names, data = names[best], data[best]
        rows.append(np.full(len(names), row))
        columns.append(names)
        values.append(data)
    return _csr(rows, columns, values, matrix.shape[0])


def _csr(
    rows: Sequence[IntArray], columns: Sequence[IntArray], values: Sequence[FloatArray], num_items: int
) -> sp.csr_matrix:
    """(num_items, num_items) float32 from the parts of a coordinate list."""
    none = np.empty(0, np.int64)
    places = (np.concatenate([none, *rows]), np.concatenate([none, *columns]))
    data = np.concatenate([np.empty(0, np.float32), *values]).astype(np.float32)
    kept = sp.csr_matrix((data, places), shape=(num_items, num_items))
    kept.sort_indices()
    return kept
