"""Buy it again: the liked items of the history in a plain order. What every shop can offer, and what learned repeats
must beat.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from features.histories import Histories
from features.row_changes import RowChanges
from features.runs import ends, rank_in_run
from features.settings import Settings
from features.touches import Ints, Standing, standing_now
from recsys.retrieval.base import FitData
from recsys.retrieval.scores import Scores, SparseScores


@dataclass(frozen=True)
class _BuyAgainSource(ABC):
    @classmethod
    def fit(cls, data: FitData, settings: Settings) -> Self:  # noqa: ARG003  (the contract has them)
        """There is nothing to learn."""
        return cls()

    def with_rows(self, changes: RowChanges) -> Self:  # noqa: ARG002
        """It knows nothing of items."""
        return self

    @staticmethod
    @abstractmethod
    def _keys(standing: Standing) -> tuple[Ints, Ints]:
        """What to sort by, ascending, the last key first."""

    def scores(self, histories: Histories) -> dict[str, Scores]:
        """1 / place in the history's order, ties by item row; items that it has not taken have none."""
        standing = standing_now(histories, has_clock=False)
        order = np.lexsort((standing.item_rows, *self._keys(standing), standing.owners))
        values = np.empty(len(standing), np.float32)
        values[order] = 1 / (1 + rank_in_run(standing.owners[order]))
        indptr = ends(np.bincount(standing.owners, minlength=len(histories)))
        return {"": SparseScores(values, standing.item_rows, indptr)}


@dataclass(frozen=True)
class RecencySource(_BuyAgainSource):
    """The items taken last first; those of one basket by how often they were taken."""

    name: ClassVar[str] = "buy_again_recency"

    @staticmethod
    def _keys(standing: Standing) -> tuple[Ints, Ints]:
        return -standing.takes, standing.moments_ago


@dataclass(frozen=True)
class FrequencySource(_BuyAgainSource):
    """The items taken in most moments first; those taken as often by how lately."""

    name: ClassVar[str] = "buy_again_frequency"

    @staticmethod
    def _keys(standing: Standing) -> tuple[Ints, Ints]:
        return standing.moments_ago, -standing.takes


BUY_AGAIN = (FrequencySource(), RecencySource())
"""Both; there is nothing in them to fit."""
