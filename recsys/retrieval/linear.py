"""A linear item-item model in closed form: EASE (Steck 2019), bounded to the most popular items and stored sparse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import scipy.linalg
import scipy.sparse as sp

from features.settings import Settings
from recsys.retrieval.base import FitData
from recsys.retrieval.item_item import HALF_LIVES, ItemItemSource, empty_weights, keep_largest


class LinearSettings(Settings):
    """Settings of the linear source; a tuple of several values is chosen from on a held-out window."""

    regularization: tuple[float, ...] = (30.0, 150.0, 700.0)
    """L2 penalty on the weights, in units of co-occurrence counts."""
    half_life: tuple[float | None, ...] = HALF_LIVES
    max_items: int = 10_000
    """Only the most popular items take part: the solution is dense in them (10,000: 400 MB and about 20 s on two
    cores).
    """
    weights_per_item: int = 300
    """Largest weights kept of each item."""
    history_limit: int = 100
    """Newest moments looked at."""


@dataclass(frozen=True)
class LinearSource(ItemItemSource):
    """Each item's column is the ridge regression of its users on all other items."""

    name: ClassVar[str] = "linear"

    @classmethod
    def fit(cls, data: FitData, settings: LinearSettings) -> Self:
        """With fewer than two items that anybody liked, nothing speaks for anything."""
        counts = np.asarray(data.matrix.getnnz(axis=0))
        kept = np.argsort(-counts, kind="stable")[: min(settings.max_items, int((counts > 0).sum()))]
        kept = np.sort(kept)
        if len(kept) < 2:
            return cls(empty_weights(data.num_items), settings.half_life[0], settings.history_limit)
        weights = _solve(data.matrix[:, kept], settings.regularization[0])
        local = keep_largest(_sparse(weights, settings.weights_per_item), settings.weights_per_item).tocoo()
        shape = (data.num_items, data.num_items)
        full = sp.csr_matrix((local.data, (kept[local.row], kept[local.col])), shape=shape, dtype=np.float32)
        full.sort_indices()
        return cls(full, settings.half_life[0], settings.history_limit)


def _solve(matrix: sp.csr_matrix, regularization: float) -> np.ndarray:
    """(n, n) float32 weights with a zero diagonal: P = (X'X + lambda I)^-1, B_ij = -P_ij / P_jj."""
    gram = np.asfortranarray((matrix.T @ matrix).toarray(), dtype=np.float32)
    gram[np.diag_indices_from(gram)] += regularization
    factor, info = scipy.linalg.lapack.spotrf(gram, lower=1, overwrite_a=1)
    inverse, info_2 = scipy.linalg.lapack.spotri(factor, lower=1, overwrite_c=1)
    if info or info_2:
        raise np.linalg.LinAlgError(
            f"the item Gram matrix is not positive definite; raise linear.regularization ({regularization})"
        )
    symmetric = np.tril(inverse) + np.tril(inverse, -1).T
    weights: np.ndarray = symmetric / -np.diag(symmetric)[None, :]
    np.fill_diagonal(weights, 0.0)
    return weights


def _sparse(weights: np.ndarray, per_row: int) -> sp.csr_matrix:
    """The largest `per_row` magnitudes of each row, without a copy of the dense matrix's size."""
    n = len(weights)
    width = min(per_row, n)
    columns = np.empty((n, width), np.int32)
    for start in range(0, n, 1024):
        block = np.abs(weights[start : start + 1024])
        columns[start : start + 1024] = np.argpartition(-block, width - 1, axis=1)[:, :width]
    values = np.take_along_axis(weights, columns, axis=1)
    return sp.csr_matrix((values.ravel(), columns.ravel(), np.arange(0, n * width + 1, width)), shape=(n, n))
