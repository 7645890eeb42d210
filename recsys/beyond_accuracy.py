"""Beyond accuracy: how new, how varied and how popular the shown items are. Pure functions over lists of item rows.

`lists` is (n_queries, width) int32, `ABSENT` where there is no item; means are those over queries.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from features.runs import Pairs
from features.tables import IntArray
from recsys.list_rows import ABSENT
from recsys.metrics import Floats

Rows = npt.NDArray[np.int32]
Vectors = sp.csr_matrix | npt.NDArray[np.float32]
MAX_LISTS = 2000
"""Lists, evenly spread over the queries, of which the diversity is taken: its mean then has an error below .01."""


def taken(user_rows: IntArray, item_rows: IntArray, num_users: int, num_items: int) -> sp.csr_matrix:
    """(n_items, num_users) float32: 1 where the user has an event with the item, from one entry an event."""
    ones = np.ones(len(item_rows), np.float32)
    matrix = sp.csr_matrix((ones, (item_rows, user_rows)), shape=(num_items, num_users))
    matrix.data[:] = 1.0
    return matrix


def self_information(num_users_with_item: npt.NDArray[np.int64], num_users: int) -> Floats:
    """(n_items,) bits: -log2 of the chance that a user knows the item (Zhou et al. 2010), one user more counted on
    either side, so that an item nobody knows is finite.
    """
    return -np.log2((num_users_with_item + 1) / (num_users + 1))


def mean_of_lists(lists: Rows, values: Floats) -> Floats:
    """Each list's mean of `values` (n_items,), NaN for an empty list."""
    inside = lists != ABSENT
    sums = np.where(inside, values[lists], 0.0).sum(axis=1)
    return _share(sums, inside.sum(axis=1))


def mean_of_pairs(pairs: Pairs, values: Floats, num_queries: int) -> Floats:
    """Each query's mean of `values` (n_items,) over its items in `pairs`, NaN without any."""
    sums = np.bincount(pairs.query_rows, values[pairs.item_rows], num_queries)
    return _share(sums, np.bincount(pairs.query_rows, minlength=num_queries))


def diversity(lists: Rows, vectors: Vectors) -> Floats:
    """Each list's mean distance (1 - cosine) between its items (Ziegler et al. 2005), by `vectors` (n_items, size) of
    unit length. Items with a zero vector say nothing and are left out; NaN where fewer than two are left.
    """
    chosen = np.unique(np.linspace(0, len(lists) - 1, min(MAX_LISTS, len(lists))).astype(np.int64))
    lists = lists[chosen]
    squares = _squares(vectors)
    inside = (lists != ABSENT) & (squares[lists] > 0)
    counts = inside.sum(axis=1)
    members = sp.csr_matrix(
        (np.ones(counts.sum(), np.float32), lists[inside], np.concatenate([[0], np.cumsum(counts)])),
        shape=(len(lists), vectors.shape[0]),
    )
    # The squared length of a sum of vectors is the sum of their own plus twice the sum of all pairs' products.
    sums = np.concatenate([_squares(members[start : start + 256] @ vectors) for start in range(0, len(lists), 256)])
    return 1 - _share(sums - members @ squares, counts * (counts - 1))


def unit_rows(matrix: sp.csr_matrix) -> sp.csr_matrix:
    """The rows of `matrix` with length 1; zero rows stay zero. Of what users have `taken`, they make items alike as
    far as the same users have them.
    """
    lengths = np.sqrt(_squares(matrix))
    scaled: sp.csr_matrix = (sp.diags(1 / np.where(lengths > 0, lengths, 1.0)) @ matrix).tocsr()
    return scaled.astype(np.float32)


def _squares(vectors: Vectors) -> Floats:
    """The squared length of each row."""
    if isinstance(vectors, np.ndarray):
        return np.asarray(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64), np.float64)
    return np.asarray(vectors.multiply(vectors).sum(axis=1), np.float64).ravel()


def _share(part: npt.NDArray[Any], whole: npt.NDArray[np.int64]) -> Floats:
    shares: Floats = np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
    return shares
