"""What all item-to-item sources share: a sparse weight matrix and the ways a history is looked at through it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import scipy.sparse as sp

from features.compiled import compiled, fixed
from features.histories import Histories, HistoryWeights
from features.row_changes import RowChanges
from features.runs import ends
from features.tables import FloatArray, IntArray
from recsys.retrieval.scores import F32, Scores, SparseScores

HALF_LIVES: tuple[float | None, ...] = (None, 5.0, 2.0, 0.7)
"""Half-lives in moments (None: no decay) that `train` chooses from, per source, on a held-out window."""


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
        found = [self._speak(asked, row) for row in range(len(histories))]
        columns = np.concatenate([np.empty(0, np.int64), *(known for known, _ in found)])
        sums = np.concatenate([np.empty((len(views), 0), np.float32), *(own for _, own in found)], axis=1)
        indptr = ends(np.array([len(known) for known, _ in found], np.int64))
        return {view: SparseScores(sums[k], columns, indptr) for k, view in enumerate(views)}

    def _speak(self, asked: Sequence[HistoryWeights], query_row: int) -> tuple[IntArray, F32]:
        """The items that a history speaks for, ascending, and for each way in which it is `asked` (the undecayed way,
        which has all its items, second) the weighted sum of their rows. Its own loop, because building the matrices
        of a sparse product takes longer than the product when one request is answered.
        """
        every = asked[1].span(query_row)
        columns, data, place = self._entries(asked[1].indices[every])
        places = asked[1].places[every]
        full = np.zeros((len(asked), len(places)), np.float32)
        for way, weights in zip(full, asked, strict=True):
            own = weights.span(query_row)
            way[np.searchsorted(places, weights.places[own])] = weights.data[own]
        return column_sums(columns, data, place, full)

    def _entries(self, rows: IntArray) -> tuple[IntArray, F32, IntArray]:
        """Column, weight and place in `rows` of all that these items say; a column may come twice."""
        return rows_of(self.weights, rows)


def rows_of(matrix: sp.csr_matrix, rows: IntArray) -> tuple[IntArray, F32, IntArray]:
    """Column, value and place in `rows` of all entries of some rows of a CSR matrix; IndexError for rows that it lacks,
    which the compiled loop would read all the same.
    """
    if len(rows) and int(rows.max()) >= matrix.shape[0]:
        raise IndexError(f"row {rows.max()} of a matrix of {matrix.shape[0]} rows")
    return _rows_of(fixed(matrix.indptr), fixed(matrix.indices), fixed(matrix.data), fixed(rows))


@compiled
def _rows_of(indptr: IntArray, indices: IntArray, data: F32, rows: IntArray) -> tuple[IntArray, F32, IntArray]:
    size = 0
    for row in rows:
        size += indptr[row + 1] - indptr[row]
    columns, values = np.empty(size, indices.dtype), np.empty(size, np.float32)
    place, n = np.empty(size, np.int64), 0
    for k, row in enumerate(rows):
        for entry in range(indptr[row], indptr[row + 1]):
            columns[n], values[n], place[n] = indices[entry], data[entry], k
            n += 1
    return columns, values, place


def column_sums(columns: IntArray, data: F32, place: IntArray, weights: F32) -> tuple[IntArray, F32]:
    """The columns of entries, each once, ascending, and for each row of `weights` (n_ways, n_rows) the sum over a
    column's entries of `data` times the weight of its `place`, in the order of the entries.
    """
    # Stable keeps that order, and merges the rows, each of which is in order already, in a fifth of a quicksort's time.
    return _sums(np.argsort(columns, kind="stable"), columns, data, place, weights)


@compiled
def _sums(order: IntArray, columns: IntArray, data: F32, place: IntArray, weights: F32) -> tuple[IntArray, F32]:
    """See `column_sums`; `order` are the entries' places by column."""
    found = np.empty(len(columns), np.int64)
    sums = np.zeros((len(weights), len(columns)), np.float64)
    n, last = 0, np.int64(-1)
    for entry in order:
        if columns[entry] != last:
            last = np.int64(columns[entry])
            found[n] = last
            n += 1
        for way in range(len(weights)):
            sums[way, n - 1] += data[entry] * weights[way, place[entry]]
    return found[:n], sums[:, :n].astype(np.float32)


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
