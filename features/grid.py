"""Vectors on a grid, so that float32 dot products are exact and the same in any order, batch or number of threads.

With items in steps of 2^-12 and queries in steps of 2^-11, every partial sum of a product of two vectors of norm <=
1 is a multiple of 2^-23 below 1, which float32 holds without rounding. The error of the grid itself is below 1e-4
for a cosine.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from features.compiled import compiled, fixed

Steps = npt.NDArray[np.int16]
_QUERY_STEPS = 2.0**11
_ITEM_STEPS = 2.0**12


def on_grid(vectors: npt.NDArray[np.floating], *, items: bool) -> npt.NDArray[np.float32]:
    """`vectors` (n, d), rows of norm <= 1, rounded to the grid of items or of queries; float32 in C order."""
    steps = _ITEM_STEPS if items else _QUERY_STEPS
    return np.asarray(np.rint(vectors * steps) / steps, np.float32, order="C")


def in_steps(vectors: npt.NDArray[np.float32], *, items: bool) -> Steps:
    """Vectors that are on the grid already, counted in its steps: the same numbers in half the memory."""
    return (vectors * np.float32(_ITEM_STEPS if items else _QUERY_STEPS)).astype(np.int16)


def products(items: Steps, query: Steps) -> npt.NDArray[np.float32]:
    """`items @ query`, (n_items,), of vectors `in_steps`, in half the time that float32 takes."""
    return _products(fixed(items), fixed(query)) / np.float32(_ITEM_STEPS * _QUERY_STEPS)


@compiled
def _products(items: Steps, query: Steps) -> npt.NDArray[np.float32]:
    out = np.empty(len(items), np.float32)
    for row in range(len(items)):
        total = np.int32(0)  # numba would go on in 64 bits, which is slower
        for k in range(items.shape[1]):
            total = np.int32(total + np.int32(np.int32(items[row, k]) * np.int32(query[k])))
        out[row] = total
    return out
