"""How alike two systems' lists are, query by query, whatever is right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recsys.metrics import Floats

PERSISTENCE = 0.9
"""Of rank-biased overlap: the first ten positions then make up 86 % of the weight."""


def overlap_at_k(a: Sequence[str], b: Sequence[str], k: int) -> float:
    """The share of the first k positions' items that both lists have, whatever their order; 1 for two empty lists."""
    first, second = set(a[:k]), set(b[:k])
    longest = max(len(first), len(second))
    return len(first & second) / longest if longest else 1.0


def rank_biased_overlap(a: Sequence[str], b: Sequence[str], persistence: float = PERSISTENCE) -> float:
    """RBO of two lists without repeats, extrapolated from the depth that both reach (Webber, Moffat and Zobel 2010,
    equation 23): 1 for equal lists, 0 for lists without a common item. Two empty lists are equal.
    """
    depth = min(len(a), len(b))
    if not depth:
        return float(len(a) == len(b))
    agreements = _common(a[:depth], b[:depth]) / np.arange(1, depth + 1)
    weights = (1 - persistence) * persistence ** np.arange(depth)
    return float(weights @ agreements + agreements[-1] * persistence**depth)


def _common(a: Sequence[str], b: Sequence[str]) -> Floats:
    """How many items the first 1, 2, ... positions have in common."""
    place = {item: rank for rank, item in enumerate(b)}
    met = [max(rank, place[item]) for rank, item in enumerate(a) if item in place]
    return np.cumsum(np.bincount(np.array(met, np.int64), minlength=len(a))).astype(np.float64)
