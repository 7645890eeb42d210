"""One source's own order as a ranker: the baseline, the ablation, and the safety net where there is too little to
learn from.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from features.builder import FeatureMatrix


@dataclass(frozen=True)
class ByScoreRanker:
    """Orders by the ranks of the sources in `sources`, the first that offered an item deciding, later ones filling
    up.
    """

    kind: ClassVar[str] = "by_score"
    sources: tuple[str, ...]

    def score(self, features: FeatureMatrix) -> npt.NDArray[np.float64]:
        """-(source position) + 1 / (1 + rank in that source): everything of a source stands above what only later
        ones offered.
        """
        out = np.full(len(features.query_rows), -float(len(self.sources)))
        for position in reversed(range(len(self.sources))):
            name = f"{self.sources[position]}:rank"
            if name not in features.names:
                continue
            rank = features.column(name).astype(np.float64)
            offered = ~np.isnan(rank)
            out[offered] = -position + 1 / (1 + rank[offered])
        return out

    def save(self, folder: Path) -> None:
        """See `Ranker.save`."""
        folder.mkdir(parents=True)
        (folder / "by_score.json").write_text(json.dumps({"sources": self.sources}), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See `Ranker.load`."""
        return cls(tuple(json.loads((folder / "by_score.json").read_text(encoding="utf-8"))["sources"]))
