"""Items that hardly anybody has touched, found by their text: without it they would never be candidates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from features.histories import Histories
from features.settings import Settings
from recsys.retrieval.base import FitData
from recsys.retrieval.scores import F32, InnerProductScores, Scores
from recsys.retrieval.text_profile import profiles


class NewItemsSettings(Settings):
    """Settings of the new items source; a tuple of several values is chosen from on a held-out window."""

    max_events: int = 2
    """An item with at most so many events is new."""
    half_life: tuple[float | None, ...] = Field(default=(5.0,), min_length=1)
    history_limit: int = Field(default=100, ge=1)


@dataclass(frozen=True)
class NewItemsSource:
    """The text profile's cosine; `new_rows` (n_new,) int64 are the items that are new."""

    name: ClassVar[str] = "new_items"
    embeddings: npt.NDArray[np.float32]
    new_rows: npt.NDArray[np.int64]
    half_life: float | None
    history_limit: int

    @classmethod
    def fit(cls, data: FitData, settings: NewItemsSettings) -> Self | None:
        """None where the catalogue has no text."""
        if data.embeddings is None:
            return None
        counts = np.bincount(data.events.item_rows, data.weights > 0, data.num_items)
        mask = (counts <= settings.max_events) & data.embeddings.any(axis=1)
        return cls(data.embeddings, np.flatnonzero(mask), settings.half_life[0], settings.history_limit)

    @cached_property
    def _own(self) -> F32:
        return self.embeddings[self.new_rows]

    def scores(self, histories: Histories) -> dict[str, Scores]:
        """Cosine of the profile and each item; only new ones are recommended."""
        queries = profiles(self.embeddings, histories, self.half_life, self.history_limit)
        return {
            "": InnerProductScores(
                queries, self.embeddings, np.ones(len(histories), np.float32), self.new_rows, self._own
            )
        }
