"""Systems compared on the same lists, how sure a difference is, and the halves of users that tell it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from features.tables import BoolArray, IntArray
from recsys.metrics import Floats


@dataclass(frozen=True)
class Difference:
    """The mean of a - b over the same lists and its standard error, clustered by user."""

    mean: float
    error: float

    @classmethod
    def of(cls, a: Floats, b: Floats, users: IntArray) -> Difference:
        """`a`, `b`, `users`: (n_lists,); no difference without lists."""
        if not len(users):
            return cls(0.0, 0.0)
        each = a - b
        places = np.unique(users, return_inverse=True)[1]
        residuals = np.bincount(places, each - each.mean())
        return cls(float(each.mean()), float(np.sqrt((residuals**2).sum()) / len(each)))

    def __str__(self) -> str:
        return f"{self.mean:+.4f} ± {self.error:.4f}"


def halves(users: IntArray, seed: int) -> BoolArray:
    """(n_lists,) bool: the lists of one half of the users, drawn at random; of two or more users neither is empty."""
    distinct, place = np.unique(users, return_inverse=True)
    return np.asarray((np.random.default_rng([seed, 11]).permutation(len(distinct)) % 2 == 0)[place])
