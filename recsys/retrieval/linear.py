"""A linear item-item model in closed form: EASE (Steck 2019), bounded to the most popular items and stored sparse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.sparse as sp
from pydantic import Field

from features.settings import Settings
from recsys.retrieval.base import FitData
from recsys.retrieval.item_item import HALF_LIVES, ItemItemSource, empty_weights, keep_largest

Dense = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
BLOCK = 1024
"""Rows of a dense matrix worked on at a time."""


class LinearSettings(Settings):
    """Settings of the linear source; a tuple of several values is chosen from on a held-out window."""

    regularization: tuple[float, ...] = Field(default=(30.0, 150.0, 700.0), min_length=1)
    """L2 penalty on the weights, in units of co-occurrence counts."""
    half_life: tuple[float | None, ...] = Field(default=HALF_LIVES, min_length=1)
    max_items: int = Field(default=10_000, ge=1)
    """Only the most popular items take part: the solution is dense in them (10,000: about 1 GB for a while, 20 s)."""
    weights_per_item: int = Field(default=300, ge=1)
    """Largest weights kept of each item."""
    history_limit: int = Field(default=100, ge=1)
    """Newest moments looked at."""


@dataclass(frozen=True)
class LinearSource(ItemItemSource):
    """Each item's column is the ridge regression of its users on all other items."""

    name: ClassVar[str] = "linear"

    @classmethod
    def fit(cls, data: FitData, settings: LinearSettings) -> Self:
        """With fewer than two items that anybody liked, nothing speaks for anything."""
        kept = most_popular(data, settings.max_items)
        if len(kept) < 2:
            return cls(empty_weights(data.num_items), settings.half_life[0], settings.history_limit)
        dense = _solve(data.matrix[:, kept], settings.regularization[0])
        weights = largest_weights(dense, kept, data.num_items, settings.weights_per_item)
        return cls(weights, settings.half_life[0], settings.history_limit)


def most_popular(data: FitData, limit: int) -> Ints:
    """Up to `limit` items that most users liked, ascending; only items that anybody liked."""
    counts = np.asarray(data.matrix.getnnz(axis=0))
    return np.sort(np.argsort(-counts, kind="stable")[: min(limit, int((counts > 0).sum()))])


def largest_weights(dense: Dense, kept: Ints, num_items: int, per_item: int) -> sp.csr_matrix:
    """(num_items, num_items) CSR float32: of each row of `dense` (n_kept, n_kept) the `per_item` largest magnitudes."""
    local = keep_largest(_sparse(dense, per_item), per_item).tocoo()
    shape = (num_items, num_items)
    full = sp.csr_matrix((local.data, (kept[local.row], kept[local.col])), shape=shape, dtype=np.float32)
    full.sort_indices()
    return full


def _solve(matrix: sp.csr_matrix, regularization: float) -> Dense:
    """(n, n) float32 weights with a zero diagonal: P = (X'X + lambda I)^-1, B_ij = -P_ij / P_jj."""
    gram = np.asfortranarray((matrix.T @ matrix).toarray(), dtype=np.float32)
    gram[np.diag_indices_from(gram)] += regularization
    factor, info = scipy.linalg.lapack.spotrf(gram, lower=1, overwrite_a=1)
    inverse: Dense
    inverse, info_2 = scipy.linalg.lapack.spotri(factor, lower=1, overwrite_c=1)
    if info or info_2:
        raise np.linalg.LinAlgError(
            f"the item Gram matrix is not positive definite; raise linear.regularization ({regularization})"
        )
    _mirror(inverse)
    inverse /= -np.diag(inverse)[None, :]
    np.fill_diagonal(inverse, 0.0)
    return inverse


def _mirror(lower: Dense) -> None:
    """Fill the upper triangle, which LAPACK leaves alone, from the lower one; in blocks, because a copy is 400 MB."""
    for start in range(0, len(lower), BLOCK):
        stop = start + BLOCK
        square = lower[start:stop, start:stop]
        square[:] = np.tril(square) + np.tril(square, -1).T
        lower[start:stop, stop:] = lower[stop:, start:stop].T


def _sparse(weights: Dense, per_row: int) -> sp.csr_matrix:
    """The largest `per_row` magnitudes of each row, without a copy of the dense matrix's size."""
    n = len(weights)
    width = min(per_row, n)
    columns = np.empty((n, width), np.int32)
    for start in range(0, n, BLOCK):
        block = np.abs(weights[start : start + BLOCK])
        columns[start : start + BLOCK] = np.argpartition(-block, width - 1, axis=1)[:, :width]
    values = np.take_along_axis(weights, columns, axis=1)
    return sp.csr_matrix((values.ravel(), columns.ravel(), np.arange(0, n * width + 1, width)), shape=(n, n))
