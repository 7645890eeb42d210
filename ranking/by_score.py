"""The sources' own order as a ranker: the baseline, the ablation, what LambdaMART starts from, and the safety net where
there is too little to learn from.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from features.builder import FeatureMatrix
from ranking.examples import RankingExamples
from ranking.list_metrics import list_ndcg, ndcg_by_source

F64 = npt.NDArray[np.float64]
SMOOTHING = 10.0
"""Places behind the first at which an item counts half of it."""
SHARPNESS = (2.0, 4.0, 8.0, math.inf)
"""Powers of a source's NDCG in its weight. By the first, a source that is twice as good as another counts four times as
much; by the last, the best one decides nearly alone (the others have `FLOOR`), so that many which are often wrong
together can't make the order clearly worse than that.
"""
FLOOR = 0.01
"""Of the best source's weight, what each has at least: the order of the first hundred that a weak one alone offers
survives rounding.
"""


@dataclass(frozen=True)
class ByScoreRanker:
    """Weighted reciprocal rank fusion (Cormack, Clarke & Buettcher, SIGIR 2009). The `weights` of the `sources` add up
    to 1.
    """

    kind: ClassVar[str] = "by_score"
    sources: tuple[str, ...]
    weights: tuple[float, ...]

    @classmethod
    def of(cls, quality: Mapping[str, float], sharpness: float = SHARPNESS[0]) -> Self:
        """Of the sources' own `quality`, such as NDCG; all count the same where none has any."""
        best = max(quality.values(), default=0.0)
        raw = [max((value / best) ** sharpness, FLOOR) if best > 0 else 1.0 for value in quality.values()]
        return cls(tuple(quality), tuple(weight / sum(raw) for weight in raw))

    @classmethod
    def fit(cls, lists: RankingExamples) -> Self:
        """Each source as good as the NDCG of its own order of `lists`, as sharply as orders them best."""
        quality = {name: float(values.mean()) for name, values in ndcg_by_source(lists).items()}
        orders = [cls.of(quality, sharpness) for sharpness in SHARPNESS]
        return max(orders, key=lambda order: float(list_ndcg(lists, order.score(lists.features)).mean()))

    def score(self, features: FeatureMatrix) -> F64:
        """(n_pairs,) from 0 to 1, for what is first in every source."""
        return np.asarray(sum(self.shares(features), np.zeros(len(features.query_rows))), np.float64)

    def shares(self, features: FeatureMatrix) -> Iterator[F64]:
        """What each source adds to the score, (n_pairs,); 0 where it does not offer the item, or is gone."""
        for name, weight in zip(self.sources, self.weights, strict=True):
            share = np.zeros(len(features.query_rows))
            if (column := f"{name}:rank") in features.names:
                ranks = features.column(column).astype(np.float64)
                share = np.where(np.isnan(ranks), 0.0, weight * SMOOTHING / (SMOOTHING + ranks - 1))
            yield share

    def named(self) -> dict[str, float]:
        """The sources' weights by name, the largest first."""
        return dict(sorted(zip(self.sources, self.weights, strict=True), key=lambda pair: -pair[1]))

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
