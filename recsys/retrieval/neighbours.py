"""Item-to-item neighbours by co-occurrence, fitted by `implicit` (Sarwar et al. 2001)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar, Self

from pydantic import Field

from features.settings import Settings
from recsys.retrieval.base import FitData
from recsys.retrieval.item_item import HALF_LIVES, ItemItemSource, empty_weights, keep_largest


class NeighboursSettings(Settings):
    """Settings of the neighbours source; a tuple of several values is chosen from on a held-out window."""

    num_neighbours: int = Field(default=200, ge=1)
    half_life: tuple[float | None, ...] = Field(default=HALF_LIVES, min_length=1)
    history_limit: int = Field(default=100, ge=1)
    """Newest moments looked at."""


@dataclass(frozen=True)
class NeighboursSource(ItemItemSource):
    """Cosine similarity between items' user vectors, the nearest `num_neighbours` of each item."""

    name: ClassVar[str] = "neighbours"

    @classmethod
    def fit(cls, data: FitData, settings: NeighboursSettings) -> Self:
        """Without any event nothing has a neighbour."""
        from implicit.nearest_neighbours import CosineRecommender
        from implicit.utils import ParameterWarning

        if not data.matrix.nnz:
            return cls(empty_weights(data.num_items), settings.half_life[0], settings.history_limit)
        model = CosineRecommender(K=settings.num_neighbours, num_threads=data.num_threads)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ParameterWarning)  # implicit hands itself a COO matrix, and warns of it
            model.fit(data.matrix, show_progress=False)
        weights = keep_largest(model.similarity.tocsr(), settings.num_neighbours)
        return cls(weights, settings.half_life[0], settings.history_limit)
