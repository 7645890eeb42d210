"""What the user has read lately, as text: the recency-weighted mean of the history's text embeddings, by cosine."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from features.grid import on_grid
from features.histories import Histories
from features.row_changes import RowChanges
from features.settings import Settings
from recsys.retrieval.base import FitData
from recsys.retrieval.nearest import NO_INDEX, NONE_MOVED, Bytes, Ints, Nearest, build_index, nearest, with_moved
from recsys.retrieval.scores import F32, InnerProductScores, Scores


class TextProfileSettings(Settings):
    """Settings of the text profile source; a tuple of several values is chosen from on a held-out window."""

    half_life: tuple[float | None, ...] = Field(default=(5.0, 2.0, 0.7), min_length=1)
    history_limit: int = Field(default=100, ge=1)


@dataclass(frozen=True)
class TextProfileSource:
    """`embeddings` (n_items, embedding_size) float32 unit rows on the item grid, zero rows where there is no text;
    `index` is what `build_index` made of them then; `moved`: see `Nearest`.
    """

    name: ClassVar[str] = "text_profile"
    embeddings: npt.NDArray[np.float32]
    half_life: float | None
    history_limit: int
    index: Bytes = field(default_factory=lambda: NO_INDEX, repr=False, kw_only=True)
    moved: Ints = field(default_factory=lambda: NONE_MOVED, repr=False, kw_only=True)

    @classmethod
    def fit(cls, data: FitData, settings: TextProfileSettings) -> Self | None:
        """None where the catalogue has no text."""
        if data.embeddings is None:
            return None
        index = build_index(data.embeddings, data.seed)
        return cls(data.embeddings, settings.half_life[0], settings.history_limit, index=index)

    def with_embeddings(self, embeddings: F32) -> Self:
        """The same source over other texts."""
        return dataclasses.replace(self, embeddings=embeddings, index=build_index(embeddings, 0), moved=NONE_MOVED)

    @cached_property
    def _nearest(self) -> Nearest | None:
        return nearest(self.index, self.moved)

    def with_rows(self, changes: RowChanges) -> Self:
        """See `features.row_changes`."""
        embeddings = changes.embedded(self.embeddings)
        moved = with_moved(self.moved, changes, self.embeddings, embeddings)
        return dataclasses.replace(self, embeddings=embeddings, moved=moved)

    def scores(self, histories: Histories) -> dict[str, Scores]:
        """Cosine of the profile and each item."""
        queries = profiles(self.embeddings, histories, self.half_life, self.history_limit)
        ones = np.ones(len(histories), np.float32)
        return {"": InnerProductScores(queries, self.embeddings, ones, nearest=self._nearest)}


def profiles(embeddings: F32, histories: Histories, half_life: float | None, history_limit: int) -> F32:
    """(n, embedding_size) float32 unit vectors on the query grid: weighted means of the history's embeddings; zero
    rows where the history holds no text.
    """
    weights = histories.weighted(half_life, history_limit)
    sums = np.zeros((len(histories), embeddings.shape[1]), np.float32)
    for row in range(len(histories)):
        span = weights.span(row)
        sums[row] = (weights.data[span, None] * embeddings[weights.indices[span]]).sum(axis=0)
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    return on_grid(sums / np.where(norms > 1e-6, norms, 1.0), items=False)
