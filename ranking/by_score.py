"""The sources' own order as a ranker: the baseline, the ablation, what LambdaMART starts from, and the safety net where
there is too little to learn from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from features.builder import FeatureMatrix
from ranking.examples import RankingExamples

F64 = npt.NDArray[np.float64]
HEAD = 10
"""Positions of a source's list that say how good it is."""
SMOOTHING = 10.0
"""Places behind the first at which an item counts half of it."""
SHARPNESS = 2.0
"""Power of a source's NDCG in its weight: of two sources the one that is twice as good counts four times as much."""


@dataclass(frozen=True)
class ByScoreRanker:
    """Weighted reciprocal rank fusion (Cormack, Clarke & Buettcher, SIGIR 2009). The `weights` of the `sources` add up
    to 1; what only sources of weight 0 offer stands last.
    """

    kind: ClassVar[str] = "by_score"
    sources: tuple[str, ...]
    weights: tuple[float, ...]

    @classmethod
    def of(cls, quality: Mapping[str, float]) -> Self:
        """Of the sources' own `quality`, such as NDCG; all count the same where none has any."""
        best = max(quality.values(), default=0.0)
        raw = [(value / best) ** SHARPNESS if best > 0 else 1.0 for value in quality.values()]
        return cls(tuple(quality), tuple(weight / sum(raw) for weight in raw))

    @classmethod
    def fit(cls, lists: RankingExamples) -> Self:
        """Each source as good as the NDCG of its own order of `lists`."""
        return cls.of({name: float(values.mean()) for name, values in source_ndcg(lists).items()})

    def score(self, features: FeatureMatrix) -> F64:
        """(n_pairs,) from 0 to 1, for what is first in every source."""
        return np.asarray(self.shares(features).sum(axis=1), np.float64)

    def shares(self, features: FeatureMatrix) -> F64:
        """(n_pairs, n_sources): what each source adds to the score; 0 where it does not offer the item, or is gone."""
        shares = np.zeros((len(features.query_rows), len(self.weights)))
        for k, (name, weight) in enumerate(zip(self.sources, self.weights, strict=True)):
            if (column := f"{name}:rank") in features.names:
                ranks = features.column(column)
                shares[:, k] = np.where(np.isnan(ranks), 0.0, weight * SMOOTHING / (SMOOTHING + ranks - 1))
        return shares

    def save(self, folder: Path) -> None:
        """See `Ranker.save`."""
        folder.mkdir(parents=True)
        weights = dict(zip(self.sources, self.weights, strict=True))
        (folder / "by_score.json").write_text(json.dumps({"weights": weights}), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See `Ranker.load`."""
        weights = json.loads((folder / "by_score.json").read_text(encoding="utf-8"))["weights"]
        return cls(tuple(weights), tuple(weights.values()))


def source_ndcg(lists: RankingExamples) -> dict[str, F64]:
    """NDCG@10 of each list, (n_lists,), by each source's own order. Right items count alike, and what a source ranks is
    known even where only a part of its candidates is among the `lists`.
    """
    discounts = 1 / np.log2(np.arange(2, HEAD + 2))
    ideal = np.cumsum(discounts)[np.clip(lists.num_labels, 1, HEAD) - 1]
    right = lists.labels > 0
    query_rows = lists.features.query_rows[right]
    found = {}
    for name in lists.features.names:
        if name.endswith(":rank"):
            ranks = lists.features.column(name)[right]
            head = ranks <= HEAD  # NaN where the source did not offer the item
            gains = np.bincount(query_rows[head], discounts[ranks[head].astype(np.int64) - 1], len(lists))
            found[name.removesuffix(":rank")] = gains / ideal
    return found
