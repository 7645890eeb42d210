"""What all item-to-item sources share: a sparse weight matrix and the ways a history is looked at through it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from features.histories import Histories
from recsys.retrieval.scores import Scores, SparseScores

HALF_LIVES: tuple[float | None, ...] = (None, 5.0, 2.0, 0.7)
"""Half-lives in moments (None: no decay) that `train` chooses from, per source, on a held-out window."""


@dataclass(frozen=True)
class ItemItemSource:
    """`weights` (n_items, n_items) CSR float32: row = an item of the history, column = the item it speaks for."""

    weights: sp.csr_matrix
    half_life: float | None
    history_limit: int

    def scores(self, histories: Histories) -> dict[str, Scores]:
        """The sum of the history's rows: decayed by `half_life` (what it recommends by), undecayed, and the newest moment alone."""
        views = {"": self.half_life, "all": None, "last": 0.0}
        return {
            view: SparseScores((histories.weighted(half_life, self.history_limit) @ self.weights).tocsr())
            for view, half_life in views.items()
        }


def empty_weights(num_items: int) -> sp.csr_matrix:
    """No item speaks for any other."""
    return sp.csr_matrix((num_items, num_items), dtype=np.float32)


def keep_largest(matrix: sp.csr_matrix, per_row: int) -> sp.csr_matrix:
    """The `per_row` entries of largest magnitude of each row, off the diagonal, columns sorted."""
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
    if not rows:
        return sp.csr_matrix(matrix.shape, dtype=np.float32)
    coordinates = (np.concatenate(rows), np.concatenate(columns))
    kept = sp.csr_matrix((np.concatenate(values).astype(np.float32), coordinates), shape=matrix.shape)
    kept.sort_indices()
    return kept
