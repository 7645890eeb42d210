"""Item vectors from co-occurrence, in closed form: where the sequence model begins, so that minutes of training are
enough.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.sparse.linalg import svds

F32 = npt.NDArray[np.float32]
SMOOTHING = 0.75
"""Exponent of the item counts; it keeps rare items from being close to everything (Levy, Goldberg and Dagan 2015)."""
MAX_PER_USER = 200
RIDGE = 1.0


def co_occurrence_vectors(matrix: sp.csr_matrix, size: int, rng: np.random.Generator) -> F32:
    """(n_items, size) float32: truncated SVD of the positive pointwise mutual information of items that share users,
    root mean square norm 1; zero rows for items that nobody took. `matrix` (n_users, n_items) CSR, of which only the
    pattern counts.
    """
    n = matrix.shape[1]
    out = np.zeros((n, size), np.float32)
    shared = _positive_information(matrix)
    rank = min(size, n - 1)
    if not shared.nnz or rank < 1:
        return out
    left, values, _ = svds(shared, k=rank, v0=rng.standard_normal(n))
    vectors = left * np.sqrt(np.maximum(values, 0))
    norms = np.linalg.norm(vectors, axis=1)
    taken = norms > 0
    scale = np.sqrt(np.mean(norms[taken] ** 2)) if taken.any() else 1.0
    out[:, :rank] = vectors / scale
    return out


def _positive_information(matrix: sp.csr_matrix) -> sp.csr_matrix:
    """(n_items, n_items) CSR float64: max(0, log of how much more often two items share a user than by chance)."""
    pattern = _thinned(matrix)
    per_user = np.maximum(np.diff(pattern.indptr), 1)
    weighted = sp.diags(1 / np.sqrt(per_user)) @ pattern
    counts = sp.csr_matrix(weighted.T @ weighted)
    counts.setdiag(0)
    counts.eliminate_zeros()
    totals = np.asarray(counts.sum(axis=1)).ravel()
    if not counts.nnz:
        return counts
    smoothed = totals**SMOOTHING
    chance = smoothed / smoothed.sum()
    places = counts.tocoo()
    information = np.log(places.data / (totals[places.row] * chance[places.col]))
    kept = information > 0
    return sp.csr_matrix((information[kept], (places.row[kept], places.col[kept])), shape=counts.shape)


def _thinned(matrix: sp.csr_matrix) -> sp.csr_matrix:
    """The pattern as float64, each user's row cut to `MAX_PER_USER` items evenly: pairs grow with its square."""
    lengths = np.diff(matrix.indptr)
    place = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], lengths)
    step = np.maximum(-(-lengths // MAX_PER_USER), 1)
    kept = place % np.repeat(step, lengths) == 0
    rows = np.repeat(np.arange(matrix.shape[0]), lengths)[kept]
    return sp.csr_matrix((np.ones(int(kept.sum())), (rows, matrix.indices[kept])), shape=matrix.shape)


def ridge(text: F32, vectors: F32, rows: npt.NDArray[np.int64]) -> F32:
    """(text_size, size) float32: the projection that takes the texts of `rows` closest to their vectors."""
    x = text[rows].astype(np.float64)
    penalty = RIDGE * np.eye(text.shape[1])
    return np.asarray(np.linalg.solve(x.T @ x + penalty, x.T @ vectors[rows]), np.float32)
