"""Grades: what a right item counts for in LambdaMART, by the strongest event that made it right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from ranking.examples import RankingExamples

ALIKE = (0.0, 1.0)
"""The gains where all right items count the same."""
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Grades:
    """`labels` (n_pairs,) float32: 0 where an item is not right, k where it counts `gains[k]`; `gains` ascend from 0.
    `weights` (n_pairs,) float32, 1 in the mean of the lists, say what a whole list counts: NDCG is relative to the best
    list, so that gains alone can't tell a list in which all is bought from one in which all is viewed. None: all
    lists count the same.
    """

    labels: F32
    gains: tuple[float, ...]
    weights: F32 | None

    @classmethod
    def of(cls, examples: RankingExamples, power: float) -> Self:
        """An item counts its label to the `power`, and a list what its best item counts. Where all right items count
        the same, that is 1, and no list has a weight.
        """
        right = np.flatnonzero(examples.labels > 0)
        counts = examples.labels[right].astype(np.float64) ** power
        distinct, place = np.unique(counts, return_inverse=True)
        labels = np.zeros(len(examples.labels), np.float32)
        if len(distinct) < 2:
            labels[right] = 1.0
            return cls(labels, ALIKE, None)
        labels[right] = place + 1
        query_rows = examples.features.query_rows
        best = np.zeros(len(examples))
        np.maximum.at(best, query_rows[right], counts)
        weights = (best / best.mean()).astype(np.float32)[query_rows]
        return cls(labels, (0.0, *distinct.tolist()), weights)
