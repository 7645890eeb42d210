"""Several orders made one: reciprocal rank fusion (Cormack et al. 2009), which needs no common scale of scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

K = 60
"""How little the first places differ; the value of the paper, which suits nearly everything."""
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Ranking:
    """Item rows, best first, of one opinion and what it weighs. `values` (n,), 1 for the best, where the opinion's own
    scores say how much better one is than the next; None: the places speak, (K + 1) / (K + rank).
    """

    name: str
    weight: float
    item_rows: Ints
    values: npt.NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Fused:
    """Item rows, best first, their scores (1 = first in every opinion) and the opinions that know the item."""

    item_rows: Ints
    scores: npt.NDArray[np.float64]
    names: list[tuple[str, ...]]


def fused(rankings: Sequence[Ranking], tie_order: Ints) -> Fused:
    """The weighted mean of the opinions' values, 0 where one does not know the item. `tie_order` (n_items,): who comes
    first.
    """
    kept = [ranking for ranking in rankings if ranking.weight > 0 and len(ranking.item_rows)]
    if not kept:
        return Fused(np.empty(0, np.int64), np.empty(0), [])
    rows = np.concatenate([ranking.item_rows for ranking in kept])
    parts = np.concatenate([ranking.weight * _values(ranking) for ranking in kept])
    distinct, place = np.unique(rows, return_inverse=True)
    total = sum(ranking.weight for ranking in kept)
    scores = np.round(np.bincount(place, parts, len(distinct)) / total, 6)
    order = np.lexsort((tie_order[distinct], -scores))
    known = [set(ranking.item_rows.tolist()) for ranking in kept]
    best = distinct[order]
    names = [tuple(r.name for r, own in zip(kept, known, strict=True) if row in own) for row in best.tolist()]
    return Fused(best, scores[order], names)


def _values(ranking: Ranking) -> npt.NDArray[np.float64]:
    if ranking.values is not None:
        return ranking.values
    return np.asarray((K + 1) / (K + 1.0 + np.arange(len(ranking.item_rows))))
