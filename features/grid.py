"""Vectors on a grid, so that float32 dot products are exact and the same in any order, batch or number of threads.

With items in steps of 2^-12 and queries in steps of 2^-11, every partial sum of a product of two vectors of norm <=
1 is a multiple of 2^-23 below 1, which float32 holds without rounding. The error of the grid itself is below 1e-4
for a cosine.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_QUERY_STEPS = 2.0**11
_ITEM_STEPS = 2.0**12


def on_grid(vectors: npt.NDArray[np.floating], *, items: bool) -> npt.NDArray[np.float32]:
    """`vectors` (n, d), rows of norm <= 1, rounded to the grid of items or of queries; float32 in C order."""
    steps = _ITEM_STEPS if items else _QUERY_STEPS
    return np.asarray(np.rint(vectors * steps) / steps, np.float32, order="C")
